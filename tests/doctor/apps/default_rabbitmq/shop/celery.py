"""The application: a name and a broker."""

from celery import Celery

app = Celery("shop", broker="amqp://shop:canary-3f9c@rabbitmq:5672//", include=["shop.tasks"])
