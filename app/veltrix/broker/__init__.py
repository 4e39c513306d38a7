"""RabbitMQ: connections, topology, messages, and the one publisher."""
