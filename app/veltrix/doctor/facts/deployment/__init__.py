"""What files say that deploy something: compose, Kubernetes, Helm's values, RabbitMQ's own."""
