"""The names of everything logged and counted.

Logs: one line per move, `noun.past_verb`, after the commit. Metrics: base units, bounded labels.
"""

import logging
import sys
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

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
events_accepted = Counter("veltrix_events_accepted", "Events committed to the ledger")
events_duplicate = Counter("veltrix_events_duplicate", "Events that were in the ledger already")
events_refused = Counter("veltrix_events_refused", "Events refused", ["reason"])
accept_seconds = Histogram(
    "veltrix_accept_seconds", "From submission to commit, per list", buckets=_LATENCY
)
accept_list_events = Histogram(
    "veltrix_accept_list_events", "Events per commit of accept", buckets=_LIST
)
subscriptions_read = Gauge("veltrix_subscriptions", "Subscriptions by which this api routes events")
accept_waiting_events = Gauge("veltrix_accept_waiting_events", "Events waiting for the commit")
accept_waiting_bytes = Gauge("veltrix_accept_waiting_bytes", "Payload waiting for the commit")
waiting_requests = Gauge("veltrix_waiting_requests", "Requests waiting for an outcome")
database_connections = Gauge(
    "veltrix_database_connections", "Connections of the read pool that are in use"
)

# Relay and broker
runs_relayed = Counter("veltrix_runs_relayed", "Runs handed to the broker", ["by"])
messages_published = Counter("veltrix_messages_published", "Messages handed to the broker")
publish_nacks = Counter("veltrix_publish_nacks", "Messages refused by a full queue")
publish_returns = Counter("veltrix_publish_returns", "Messages returned as unroutable")
publish_failures = Counter(
    "veltrix_publish_failures", "Broker connections given up while publishing"
)
unconfirmed_messages = Gauge(
    "veltrix_unconfirmed_messages", "Messages published, not yet confirmed"
)
hints_dropped = Counter("veltrix_hints_dropped", "Hints not used: the run comes due instead")
relay_lag_seconds = Gauge("veltrix_relay_lag_seconds", "How late the oldest due run is", ["queue"])
runs_rescued = Counter(
    "veltrix_runs_rescued", "Running runs whose lease expired, made queued again"
)
dead_letters = Counter("veltrix_dead_letters", "Messages that became a dead-letter row", ["reason"])
broker_up = Gauge("veltrix_broker_up", "1 while this process has a broker connection")

# Worker and engine
runs_claimed = Counter("veltrix_runs_claimed", "Runs claimed by this worker's children")
runs_settled = Counter("veltrix_runs_settled", "Outcomes committed", ["workflow", "state"])
outcome_seconds = ListHistogram(
    "veltrix_outcome_seconds", "From acceptance to the committed outcome", buckets=_LATENCY
)
list_runs = Histogram("veltrix_list_runs", "Runs per list of a worker child", buckets=_LIST)
list_seconds = Histogram("veltrix_list_seconds", "Time of a child per list", buckets=_LATENCY)
failed_attempts = Counter("veltrix_failed_attempts", "Attempts that raised", ["workflow", "step"])
leases_lost = Counter("veltrix_leases_lost", "Runs of a list that another worker took over")
children_killed = Counter("veltrix_children_killed", "Children ended by their watchdog", ["reason"])

# Books
unaccounted = Gauge(
    "veltrix_unaccounted", "Events and runs the books cannot account for: must be 0"
)
open_runs = Gauge("veltrix_open_runs", "Runs without an outcome", ["state"])
oldest_open_seconds = Gauge("veltrix_oldest_open_seconds", "Age of the oldest open run")
groups_miscounted = Gauge(
    "veltrix_groups_miscounted", "Failure groups whose counts were not those of the rows"
)


def configure_logs(log_format: str, log_level: str) -> None:
    """JSON lines on stdout, or readable ones in a terminal (`auto` looks)."""
    is_console = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if is_console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )


def logger(stage: str) -> Any:
    """A logger whose lines say which stage they come from."""
    return structlog.get_logger(stage=stage)
