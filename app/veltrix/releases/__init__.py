"""Which code is deployed: its workflows, their queues, and the event types that start them."""
