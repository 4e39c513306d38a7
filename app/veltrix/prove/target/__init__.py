"""A proof on a deployment that is not ours, through its HTTP API, without faults."""
