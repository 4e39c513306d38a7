"""What commands ask of a platform: one port, answered by its database or by its api over HTTP."""
