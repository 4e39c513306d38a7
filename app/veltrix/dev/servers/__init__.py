"""PostgreSQL, RabbitMQ and haproxy as child processes, on loopback only."""
