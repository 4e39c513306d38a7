"""The limits of all queues, kept as they should be over RabbitMQ's management API.

A relay has this duty with or without that API: without, it says that nobody sees to it.
"""

from collections.abc import Callable, Collection

from veltrix.bootstrap import real_sources
from veltrix.broker.connect import broker_url, vhost_of
from veltrix.broker.management import Management, ManagementRefused
from veltrix.broker.topology import QueueLimits, is_queue_name, wanted
from veltrix.settings.fields import Settings
from veltrix.telemetry import logger, policies_kept

log = logger("duties")

POLICIES_S, NEW_QUEUES_S = 10.0, 0.5
SAID_S = 600.0
_LIMIT = (
    "RabbitMQ 4 drops a message at its 20th delivery where no policy says otherwise, and what"
    " foreign consumers reject is gone"
)
NO_MANAGEMENT = (
    "nobody sees to RabbitMQ's policies: VELTRIX_MANAGEMENT_URL is not set. Without them"
    f" {_LIMIT}. Set it, or load what `veltrix topology definitions` prints"
)


class Policies:
    """Keeps the limits of `queues()`; `finding` says why it does not, or is None. For one thread.

    Without a management URL policies may still be there, from a definitions file: AMQP cannot tell.
    """

    def __init__(self, settings: Settings, queues: Callable[[], Collection[str]]) -> None:
        self._queues, self._management = queues, management_of(settings)
        self._limits, self._type = limits_of(settings), settings.queue_type
        self._applied: list[str] | None = None
        self._applied_at = self._said_at = float("-inf")
        self._said: str | None = None
        self.finding: str | None = None
        if self._management is None:
            self._find(NO_MANAGEMENT)

    @property
    def pause_s(self) -> float:
        """How long to pause after a look at nothing new."""
        return SAID_S if self._management is None else NEW_QUEUES_S

    def apply_once(self) -> int:
        """Put what differs; 0, or raises BrokerAway. A refusal is a finding, not an end.

        RabbitMQ is asked at once when a queue is new: until its policy is there, what a foreign
        consumer rejects is not dead-lettered but gone.
        """
        if self._management is None:
            self._find(NO_MANAGEMENT)
            return 0
        queues = sorted(queue for queue in self._queues() if is_queue_name(queue))
        now = real_sources().monotonic()
        if queues == self._applied and now - self._applied_at < POLICIES_S:
            return 0
        self._find(self._put(self._management, queues))
        self._applied, self._applied_at = queues, now
        return 0

    def _put(self, management: Management, queues: list[str]) -> str | None:
        try:
            there = management.live().policies or {}
            for policy in wanted(queues, self._limits, self._type).policies:
                if there.get(policy.name) != policy:
                    management.put_policy(policy)
                    log.info("policy.put", policy=policy.name, queues=len(queues))
        except ManagementRefused as error:
            return (
                f"RabbitMQ refuses our policies ({error}). Without them {_LIMIT}. Use a definitions"
                " file, or a user with the tag `policymaker`"
            )
        return None

    def _find(self, finding: str | None) -> None:
        """Keep it, and say it: when it is another one, and every ten minutes."""
        self.finding = finding
        policies_kept.set(finding is None)
        now = real_sources().monotonic()
        if finding is not None and (finding != self._said or now - self._said_at >= SAID_S):
            self._said_at = now
            log.error("policies.not_kept", finding=finding)
        self._said = finding


def limits_of(settings: Settings) -> QueueLimits:
    """The bounds of a workflow queue, from the settings."""
    return QueueLimits(
        delivery_limit=settings.delivery_limit,
        messages_max=settings.queue_messages_max,
        bytes_max=settings.queue_bytes_max,
    )


def management_of(settings: Settings) -> Management | None:
    """RabbitMQ's management API, if the settings say where it is."""
    if settings.management_url is None or settings.broker_url is None:
        return None
    vhost = vhost_of(broker_url(settings))
    return Management(settings.management_url.get_secret_value(), vhost, settings.broker_ca_file)
