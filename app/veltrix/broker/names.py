"""The names that RabbitMQ knows us by."""

RUNS = "veltrix.runs"
INBOUND = "veltrix.inbound"
DEAD = "veltrix.dead"
UNROUTABLE = "veltrix.unroutable"
