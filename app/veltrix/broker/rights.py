"""Who may do what in RabbitMQ: a user for each process of ours, with no more than it needs.

RabbitMQ asks for the configure right to declare and to delete, for the write right to publish to an
exchange and to bind a queue, for the read right to consume, to purge and to bind to an exchange.
Looking whether something is there needs none. Nobody is administrator.
"""

import re
import shlex
from collections.abc import Iterable
from typing import Any

import msgspec

from veltrix.broker.names import RUNS

PREFIX = "veltrix-"
_NONE, _ALL = "^$", ".*"
# What `check_queue_name` lets be a queue of workflows, and what the platform has beside them.
_OURS = r"(?!amq\.|celery|.+\.celery\.pidbox$).+"
_OF_WORKFLOWS = r"(?!veltrix\.|amq\.|celery|.+\.celery\.pidbox$).+"
# Somebody else's binding from one of these is made again with a renewed queue.
_STANDARD = r"amq\.(direct|fanout|headers|match|topic)"
# Celery's: the exchange of questions, a worker's queue of them (a node's name has an @), the
# exchange of answers, and the queue of answers of who asks (which has a UUID for a name).
_ASKING, _ASKED = r"celery\.pidbox", r".+@.+\.celery\.pidbox"
_ANSWERS, _ANSWERED = r"reply\.celery\.pidbox", r"[0-9a-f-]+\.reply\.celery\.pidbox"
_EVENTS, _SEEING = r"celeryev", r"celeryev\..+"


class User(msgspec.Struct, frozen=True):
    """A user and its rights in one virtual host; `tags` are for the management API."""

    role: str
    does: str
    configure: str = _NONE
    write: str = _NONE
    read: str = _NONE
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What RabbitMQ knows it by."""
        return PREFIX + self.role


def users(queues: Iterable[str] = ()) -> list[User]:
    """All of them. A worker's may serve these workflow queues only; without any, all there are."""
    names = sorted(set(queues))
    served = "|".join(map(re.escape, names)) if names else _OF_WORKFLOWS
    ours = _exactly(_OURS)
    return [
        User("api", "publishes runs that were just accepted", write=_exactly(re.escape(RUNS))),
        User(
            "relay",
            "publishes due runs, declares and renews queues, drains dead letters, keeps policies",
            configure=ours,
            write=ours,
            read=_exactly(_OURS, _STANDARD),
            tags=("policymaker",),
        ),
        User(
            "worker",
            "consumes from workflow queues, answers `inspect`, sends what Flower shows",
            configure=_exactly(_ASKING, _ASKED, _ANSWERS, _EVENTS),
            write=_exactly(_ASKED, _ANSWERS, _EVENTS),
            read=_exactly(_ASKING, _ASKED, served),
        ),
        User(
            "flower",
            "sees workers' events, asks workers, reads lengths of queues",
            configure=_exactly(_EVENTS, _SEEING, _ASKING, _ANSWERS, _ANSWERED),
            write=_exactly(_SEEING, _ASKING, _ANSWERED),
            read=_exactly(_EVENTS, _SEEING, _ANSWERS, _ANSWERED),
            tags=("management",),
        ),
        User(
            "doctor",
            "looks at everything, and touches nothing",
            tags=("monitoring", "policymaker"),  # who may see policies may change them, too
        ),
        User(
            "operator",
            "people: `veltrix topology`, the management pages",
            configure=_ALL,
            write=_ALL,
            read=_ALL,
            tags=("monitoring", "policymaker"),
        ),
    ]


def permissions(vhost: str, queues: Iterable[str] = ()) -> dict[str, Any]:
    """A definitions file with the rights of users that are there already."""
    return {
        "vhosts": [{"name": vhost}],
        "permissions": [
            {
                "user": user.name,
                "vhost": vhost,
                "configure": user.configure,
                "write": user.write,
                "read": user.read,
            }
            for user in users(queues)
        ],
    }


def commands(vhost: str, queues: Iterable[str] = ()) -> list[str]:
    """The same for a shell on RabbitMQ's host; `add_user` asks for a password."""
    lines = []
    for user in users(queues):
        rights = shlex.join([user.configure, user.write, user.read])
        lines += [
            f"# {user.does}",
            f"rabbitmqctl add_user {user.name}",
            f"rabbitmqctl set_user_tags {' '.join((user.name, *user.tags))}",
            f"rabbitmqctl set_permissions -p {shlex.quote(vhost)} {user.name} {rights}",
        ]
    return lines


def _exactly(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$"
