"""The faults: each a name, what it does to a deployment, and how fast that has to be over.

A fault strikes while runs are open and in somebody's hand, takes something away, gives it back and
returns; the scenario then waits until every run that was open has been taken up again.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

from veltrix.prove.deployment.site import Site
from veltrix.prove.faults import (
    author,
    broker,
    clock,
    cluster,
    database,
    deploy,
    history,
    network,
    processes,
    standby,
)
from veltrix.prove.faults.injections import Blow

Strike = Callable[[Site, Blow, Random], None]


class Fault(NamedTuple):
    """A fault: what it does, how soon all has to go on after it, and how long it takes in all."""

    strike: Strike
    target_s: float
    takes_s: float

    @property
    def name(self) -> str:
        """Its name, on the command line and in the report."""
        return self.strike.__name__

    @property
    def promise(self) -> str:
        """What it does, in a sentence."""
        return (self.strike.__doc__ or "").strip().replace("\n    ", " ")


# The targets of architecture.md section 9 and of issue 3; elsewhere two leases and a scan. A worker
# that takes messages and cannot work may be given a run twice, with holds of 8 and 16 s.
_WORKERS = (
    Fault(processes.child_killed, 1.0, 2.0),
    Fault(processes.parent_killed, 10.0, 14.0),
    Fault(processes.worker_frozen, 30.0, 16.0),
    Fault(processes.relay_killed, 20.0, 6.0),
    Fault(processes.api_killed, 20.0, 6.0),
    Fault(processes.clock_wrong, 20.0, 20.0),
    Fault(broker.malformed_messages, 20.0, 2.0),
)
_BROKER = (
    Fault(broker.broker_restarted, 10.0, 20.0),
    Fault(broker.broker_killed, 10.0, 20.0),
    Fault(broker.broker_wiped, 30.0, 20.0),
    Fault(broker.queues_purged, 20.0, 2.5),
    Fault(broker.queue_deleted, 20.0, 8.0),
    Fault(broker.connections_closed, 20.0, 6.0),
    Fault(broker.memory_alarm, 20.0, 15.0),
    Fault(broker.disk_full, 20.0, 20.0),
)
_DATABASE = (
    Fault(database.postgres_restarted, 5.0, 8.0),
    Fault(database.postgres_killed, 5.0, 8.0),
    Fault(database.sessions_terminated, 5.0, 2.0),
)
_NETWORK = (
    Fault(network.database_cut_off, 30.0, 20.0),
    Fault(network.broker_cut_off, 30.0, 20.0),
    Fault(network.lines_broken, 20.0, 6.0),
    Fault(network.lines_slow, 20.0, 8.0),
)
_DEPLOY = (
    Fault(processes.worker_terminated, 20.0, 10.0),
    Fault(processes.rolling_restart, 20.0, 30.0),
)
_AUTHOR = (
    Fault(author.hands_full, 20.0, 20.0),
    Fault(processes.child_killed, 1.0, 2.0),
    Fault(processes.worker_terminated, 20.0, 10.0),
    Fault(processes.worker_frozen, 30.0, 16.0),
)
_STANDBY = (
    Fault(standby.server_read_only, 10.0, 8.0),
    Fault(standby.switched_over, 10.0, 20.0),
    Fault(standby.failed_over, 10.0, 20.0),
    Fault(standby.journal_broken, 20.0, 10.0),
    Fault(standby.commits_refused, 20.0, 8.0),
    Fault(standby.backends_terminated, 10.0, 6.0),
    Fault(standby.connections_cut, 20.0, 8.0),
    Fault(standby.options_dropped, 20.0, 8.0),
)
_CLOCK = (
    Fault(clock.api_fast, 20.0, 14.0),
    Fault(clock.api_slow, 20.0, 14.0),
    Fault(clock.api_jumping, 20.0, 16.0),
    Fault(clock.relay_wrong, 20.0, 14.0),
    Fault(processes.clock_wrong, 20.0, 20.0),
)
_RELEASES = (
    Fault(deploy.rolled_back, 30.0, 40.0),
    Fault(deploy.rolled_back_at_once, 30.0, 25.0),
    Fault(deploy.queue_renamed, 30.0, 20.0),
)
_HISTORY = (Fault(history.days_dropped, 20.0, 30.0),)
_CLUSTER = (
    Fault(cluster.each_process_killed, 20.0, 20.0),
    Fault(cluster.member_killed, 20.0, 20.0),
    Fault(cluster.leader_killed, 20.0, 20.0),
)


def _names(faults: Iterable[Fault]) -> tuple[str, ...]:
    return tuple(fault.name for fault in faults)


_PLAIN = (*_WORKERS, *_BROKER, *_DATABASE, *_NETWORK, *_DEPLOY)
_EVERYTHING = (*_PLAIN, *_AUTHOR, *_STANDBY, *_CLOCK, *_RELEASES, *_HISTORY)
FAULTS = {fault.name: fault for fault in (*_CLUSTER, *_EVERYTHING)}
FAMILIES: dict[str, tuple[str, ...]] = {
    "smoke": ("child_killed", "queues_purged", "sessions_terminated", "malformed_messages"),
    "workers": _names(_WORKERS),
    "broker": _names(_BROKER),
    "database": _names(_DATABASE),
    "network": _names(_NETWORK),
    "deploy": _names(_DEPLOY + _RELEASES),
    "author": _names(_AUTHOR),
    "standby": _names(_STANDBY),
    "clock": _names(_CLOCK),
    "history": _names(_HISTORY),
    "cluster": _names(_CLUSTER),
    "everything": tuple(dict.fromkeys(_names(_EVERYTHING))),
}
# Families that send kinds of events of their own (`items.FAMILY_KINDS`).
KINDS_OF = {name: frozenset({name}) for name in ("author", "deploy")}
KINDS_OF["everything"] = frozenset({"author", "deploy"})
NEED_LINES = frozenset((*_names(_NETWORK), "connections_cut", "options_dropped"))
NEED_FRONT = frozenset(("switched_over", "failed_over"))
NEED_ONE_NODE = frozenset(
    one.__name__
    for one in (
        broker.broker_restarted,
        broker.broker_killed,
        broker.broker_wiped,
        broker.memory_alarm,
        broker.disk_full,
    )
)
NEED_FAKETIME = frozenset((*_names(_CLOCK), "clock_wrong"))
NEED_CLUSTER = frozenset(_names(_CLUSTER)) - {"each_process_killed"}
NEED_BALANCER = frozenset(_names(_CLUSTER)) | {"rolling_restart"}


def schedule(names: Iterable[str], seed: int, rounds: int = 1) -> list[Fault]:
    """These faults in an order drawn from the seed; each once per round."""
    chance = Random(f"{seed}/schedule")
    found: list[Fault] = []
    for _ in range(rounds):
        faults = [FAULTS[name] for name in names]
        chance.shuffle(faults)
        found += faults
    return found
