"""Relay: due runs become messages, each confirmed by RabbitMQ or due again."""
