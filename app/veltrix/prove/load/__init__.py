"""The workload: what is sent, at what pace, and the workflows that it starts."""
