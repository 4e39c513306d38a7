"""The deployment that is proved: its processes, its servers, and the lines between them."""
