"""The names that RabbitMQ knows us by."""

RUNS = "veltrix.runs"
INBOUND = "veltrix.inbound"
DEAD = "veltrix.dead"
UNROUTABLE = "veltrix.unroutable"
CONNECTION_PREFIX = "celery of "  # a worker or Flower: of how its connections are named
