"""The names of everything logged and counted.

Logs: one line per move, `noun.past_verb`, after the commit. Metrics: base units, bounded labels.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from veltrix import log_lines

_LATENCY = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.05, 0.1, 0.5, 1, 5, 30)
_LIST = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000, 2000)


class ListHistogram(Histogram):
    """A histogram that is told the values of a list together."""

    def observe_all(self, amounts: Iterable[float]) -> None:
        """What `observe` of each would do, in one write per bucket instead of two per value."""
        buckets: dict[int, int] = {}
        total = 0.0
        for amount in amounts:
            index = bisect_left(self._upper_bounds, amount)
            buckets[index] = buckets.get(index, 0) + 1
            total += amount
        for index, count in buckets.items():
            self._buckets[index].inc(count)
        if buckets:
            self._sum.inc(total)


# Accept
calls_refused = Counter("veltrix_calls_refused", "Calls refused to a key that may not make them")
events_accepted = Counter("veltrix_events_accepted", "Events committed to the ledger")
events_duplicate = Counter("veltrix_events_duplicate", "Events that were in the ledger already")
events_overflowed = Counter(
    "veltrix_events_overflowed", "Events booked in the overflow account: VELTRIX_ACCOUNTS_MAX"
)
events_refused = Counter("veltrix_events_refused", "Events refused", ["reason"])
accept_seconds = Histogram(
    "veltrix_accept_seconds", "From submission to commit, per list", buckets=_LATENCY
)
accept_list_events = Histogram(
    "veltrix_accept_list_events", "Events per commit of accept", buckets=_LIST
)
subscriptions_read = Gauge("veltrix_subscriptions", "Subscriptions by which this api routes events")
clock_offset_seconds = Gauge(
    "veltrix_clock_offset_seconds", "This machine's clock less the database's, at the last look"
)
accept_waiting_events = Gauge("veltrix_accept_waiting_events", "Events waiting for the commit")
accept_waiting_bytes = Gauge("veltrix_accept_waiting_bytes", "Payload waiting for the commit")
waiting_requests = Gauge("veltrix_waiting_requests", "Requests waiting for an outcome")
database_connections = Gauge(
    "veltrix_database_connections", "Connections of the read pool that are in use"
)

# Relay and broker
runs_relayed = Counter("veltrix_runs_relayed", "Runs handed to the broker", ["by"])
messages_published = Counter("veltrix_messages_published", "Messages handed to the broker")
auth_failures = Counter(
    "veltrix_auth_failures", "Calls and sign-ins without a key that may call", ["reason"]
)
calls_limited = Counter(
    "veltrix_calls_limited", "Calls of keys that called too often, or too often at once", ["reason"]
)
key_expires_seconds = Gauge(
    "veltrix_key_expires_seconds", "Until the next of the keys expires; +Inf where none does"
)
connections_open = Gauge("veltrix_connections_open", "Connections to this api")
connections_closed = Counter(
    "veltrix_connections_closed",
    "Connections that an api closed: too slow, or said nothing while others waited",
    ["why"],
)
publish_nacks = Counter("veltrix_publish_nacks", "Messages refused by a queue: full, or broken")
queues_renewed = Counter(
    "veltrix_queues_renewed", "Broken queues that were deleted and declared anew"
)
queues_changed = Counter(
    "veltrix_queues_changed", "Queues that were deleted and declared anew as VELTRIX_QUEUE_TYPE"
)
publish_returns = Counter("veltrix_publish_returns", "Messages returned as unroutable")
publish_failures = Counter(
    "veltrix_publish_failures", "Broker connections given up while publishing"
)
policies_kept = Gauge(
    "veltrix_policies_kept", "1 while this relay sees to it that RabbitMQ has our policies"
)
days_ahead = Gauge("veltrix_days_ahead", "Days of the ledger that are there, today's too")
tables_late = Gauge(
    "veltrix_tables_late", "Tables that hold rows of days that were not made in time"
)
queues_refused = Gauge(
    "veltrix_queues_refused", "Queues and exchanges that RabbitMQ did not let this process declare"
)
unconfirmed_messages = Gauge(
    "veltrix_unconfirmed_messages", "Messages published, not yet confirmed"
)
hints_dropped = Counter("veltrix_hints_dropped", "Hints not used: the run comes due instead")
relay_lag_seconds = Gauge("veltrix_relay_lag_seconds", "How late the oldest due run is", ["queue"])
runs_rescued = Counter(
    "veltrix_runs_rescued", "Running runs whose lease expired, made queued again"
)
runs_moved = Counter(
    "veltrix_runs_moved", "Open runs moved to the queue that their workflow has now"
)
unserved_runs = Gauge(
    "veltrix_unserved_runs", "Open runs of a queue that no worker serves, up to 1,000", ["queue"]
)
dead_letters = Counter("veltrix_dead_letters", "Messages that became a dead-letter row", ["reason"])
broker_up = Gauge(
    "veltrix_broker_up",
    "1 while this process has a broker connection",
    multiprocess_mode="max",  # of a worker its parent has it, no child
)
WORKER_GAUGES = frozenset({"veltrix_broker_up"})  # every process of it has all others, unset

# Worker and engine
runs_claimed = Counter("veltrix_runs_claimed", "Runs taken up by this worker's children")
runs_begun = Counter(
    "veltrix_runs_begun", "Runs taken up as claimed, by their message: nothing was asked before"
)
runs_settled = Counter("veltrix_runs_settled", "Outcomes committed", ["workflow", "state"])
outcome_seconds = ListHistogram(
    "veltrix_outcome_seconds", "From acceptance to the committed outcome", buckets=_LATENCY
)
list_runs = Histogram("veltrix_list_runs", "Runs per list of a worker child", buckets=_LIST)
list_seconds = Histogram("veltrix_list_seconds", "Time of a child per list", buckets=_LATENCY)
failed_attempts = Counter("veltrix_failed_attempts", "Attempts that raised", ["workflow", "step"])
loops_revived = Counter(
    "veltrix_loops_revived", "Event loops of async steps that were ended by a step, and went on"
)
messages_given_back = Counter(
    "veltrix_messages_given_back", "Messages returned to RabbitMQ as all children here were busy"
)
leases_lost = Counter("veltrix_leases_lost", "Runs of a list that another worker took over")
children_killed = Counter("veltrix_children_killed", "Children ended by their watchdog", ["reason"])
database_errors = Counter(
    "veltrix_database_errors",
    "Tries of a worker child that the database could not serve, by what they were for",
    ["what"],
)
children_recycled = Counter(
    "veltrix_children_recycled", "Children replaced between two lists", ["reason"]
)
# Told by the worker's sidecar, which counts them when it is asked.
WORKER_TROUBLES = "veltrix_worker_troubles", "Processes of this worker that are stuck, by what on"

# Doctor
doctor_findings = Gauge(
    "veltrix_doctor_findings",
    "Places where a rule is broken now, and nobody has accepted it",
    ["id", "severity", "subject"],
)
doctor_not_checked = Gauge(
    "veltrix_doctor_not_checked", "Rules that could not be checked at the last look"
)
doctor_looked_at_seconds = Gauge(
    "veltrix_doctor_looked_at_seconds", "When the last look ended, in seconds since 1970"
)
doctor_look_seconds = Gauge("veltrix_doctor_look_seconds", "How long the last look took")
canary_seconds = Histogram(
    "veltrix_canary_seconds",
    "From sending a canary event to its outcome",
    ["queue"],
    buckets=_LATENCY,
)
canaries = Counter(
    "veltrix_canaries",
    "Canary events by what became of them: out, late, lost; refused: each time that it was sent",
    ["queue", "ending"],
)
canaries_waiting = Gauge("veltrix_canaries_waiting", "Canary events that are on their way")

# Books
unaccounted = Gauge(
    "veltrix_unaccounted", "Events and runs the books cannot account for: must be 0"
)
accounts = Gauge("veltrix_accounts", "Sources and types that have books of their own")
open_runs = Gauge("veltrix_open_runs", "Runs without an outcome", ["state"])
oldest_open_seconds = Gauge("veltrix_oldest_open_seconds", "Age of the oldest open run")
groups_miscounted = Gauge(
    "veltrix_groups_miscounted", "Failure groups whose counts were not those of the rows"
)


def configure_logs(log_format: str, log_level: str) -> None:
    """JSON lines on stdout, or readable ones in a terminal (`auto` looks)."""
    log_lines.configure(log_format, log_level)


def logger(stage: str) -> Any:
    """A logger whose lines say which stage they come from."""
    return structlog.get_logger(stage=stage)
