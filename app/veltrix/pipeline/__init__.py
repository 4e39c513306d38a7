"""The path of an event, in three stages.

`accept`: an api makes events durable, with the runs they start, and only then answers. `relay`:
runs that are due are handed to RabbitMQ, and come due again until somebody has claimed them.
`execute`: a worker's child claims runs, advances their code, journals steps and settles outcomes.

The stages never call each other. They meet in rows (`runs.due_at`, a lease's token) and messages.
"""
