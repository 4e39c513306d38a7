"""RabbitMQ's nodes, connections and users."""

import re
from collections.abc import Iterator

from veltrix.broker.names import CONNECTION_PREFIX
from veltrix.broker.rights import users
from veltrix.doctor.facts.rabbitmq import NETS, LiveBroker
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("nodes and users of RabbitMQ")

VERSION_MIN = (4, 3, 5)
DISK_FREE_BYTES_MIN = 1_000_000_000
_ALARMS = "https://www.rabbitmq.com/docs/alarms"


@rules.rule(
    "B11",
    Severity.STALL,
    LiveBroker,
    title="an alarm blocks whoever publishes",
    why="While one node is short of memory or disk, all of the cluster takes no publish: due runs"
    " wait in PostgreSQL.",
    safe="free memory and disk above the limits",
    source=_ALARMS,
)
def alarm(broker: LiveBroker) -> Iterator[Evidence]:
    for node in broker.rows("nodes"):
        for limit, word in (("mem", "memory"), ("disk_free", "disk")):
            if node.get(f"{limit}_alarm"):
                yield Evidence(
                    found=f"the {word} alarm of node {node['name']!r} is on",
                    origin=f"limit {node.get(f'{limit}_limit')} bytes",
                    cure=f"give the node more {word}, or let its queues run empty",
                )


@rules.rule(
    "B11",
    Severity.STALL,
    LiveBroker,
    title="a node notices too late that its disk is full",
    why="At the default limit of 50 MB a log of the node no longer fits on the disk, and the node"
    " ends instead of raising an alarm.",
    safe="disk_free_limit.absolute = 2GB  # in rabbitmq.conf",
    source="https://www.rabbitmq.com/docs/disk-alarms",
)
def low_disk_limit(broker: LiveBroker) -> Iterator[Evidence]:
    for node in broker.rows("nodes"):
        limit = node.get("disk_free_limit")
        if isinstance(limit, int) and limit < DISK_FREE_BYTES_MIN:
            yield Evidence(
                found=f"disk_free_limit of node {node['name']!r} is {limit:,} bytes",
                origin="rabbitmq.conf, or RabbitMQ's default",
                cure="disk_free_limit.absolute = 2GB",
                is_of_production=True,
            )


@rules.rule(
    "B10",
    Severity.STALL,
    LiveBroker,
    title="a node of the cluster is down, or apart from the others",
    why="Queues whose members are there have a copy less, and stop when another node goes.",
    safe="all nodes running, no partitions",
    source="https://www.rabbitmq.com/docs/partitions",
)
def node_away(broker: LiveBroker) -> Iterator[Evidence]:
    for node in broker.rows("nodes"):
        if not node.get("running"):
            found = f"node {node['name']!r} does not run"
        elif node.get("partitions"):
            found = f"node {node['name']!r} is apart from {', '.join(node['partitions'])}"
        else:
            continue
        yield Evidence(found=found, origin="RabbitMQ's nodes", cure="start it, or heal the network")


@rules.rule(
    "B18",
    Severity.LOSS,
    LiveBroker,
    title="this RabbitMQ has bugs that lose messages",
    why="Before 4.3.5 a member may take part of a snapshot for all, dead letters may go to the"
    " wrong member, and a leader may count what its followers do not have.",
    safe="RabbitMQ 4.3.5",
    source="https://github.com/rabbitmq/rabbitmq-server/releases/tag/v4.3.5",
)
def old_version(broker: LiveBroker) -> Iterator[Evidence]:
    if broker.version_numbers < VERSION_MIN:
        yield Evidence(
            found=f"RabbitMQ {broker.version}",
            origin="the node",
            cure="upgrade to RabbitMQ 4.3.5 or later",
            implied_by="old broker",
        )


@rules.rule(
    "P11",
    Severity.STALL,
    LiveBroker,
    title="a connection has no heartbeat",
    why="When its other end vanishes nobody notices for minutes: what was published into it is"
    " gone, and what it had received goes to nobody else.",
    safe="heartbeat of 5 to 60 seconds",
    source="https://www.rabbitmq.com/docs/heartbeats",
)
def no_heartbeat(broker: LiveBroker) -> Iterator[Evidence]:
    takers = {
        (row.get("channel_details") or {}).get("connection_name")
        for row in broker.rows("consumers")
        if row["queue"]["name"] in broker.names
    }
    for row in broker.rows("connections"):
        name = (row.get("client_properties") or {}).get("connection_name") or row["name"]
        if name.startswith(CONNECTION_PREFIX) and row["name"] not in takers:
            continue  # asks and answers what Flower shows: lost with it, nothing is
        if row.get("timeout") == 0 and str(row.get("protocol", "")).startswith("AMQP"):
            yield Evidence(
                found=f"connection {name!r} of user {row.get('user')!r} has heartbeat 0",
                origin="what client and server agreed on",
                cure="set a heartbeat in that client (kombu: Connection(heartbeat=30))",
            )


@rules.rule(
    "P06",
    Severity.STALL,
    LiveBroker,
    title="a connection is blocked",
    why="RabbitMQ reads nothing from it while an alarm is on: who publishes there waits.",
    safe="no alarm",
    source=_ALARMS,
)
def blocked(broker: LiveBroker) -> Iterator[Evidence]:
    for row in broker.rows("connections"):
        if row.get("state") in {"blocked", "blocking"}:
            yield Evidence(
                found=f"connection {row['name']!r} is {row['state']}",
                origin="RabbitMQ's connections",
                cure="see the alarms: rabbitmq-diagnostics alarms",
            )


@rules.rule(
    "B20",
    Severity.STALL,
    LiveBroker,
    title="somebody who is no process of ours may purge or delete our queues",
    why="A purge takes all that waits: runs come due again later, and dead letters are gone.",
    safe="veltrix topology users  # a user for each process, with no more rights than it needs",
    source="https://www.rabbitmq.com/docs/access-control",
)
def may_purge(broker: LiveBroker) -> Iterator[Evidence]:
    ours = {user.name for user in users()}
    for row in broker.rows("permissions"):
        if row["user"] in ours:
            continue
        mine = (*NETS, *broker.names)
        may = [name for name in mine if any(_matches(row[k], name) for k in ("configure", "read"))]
        if may:
            yield Evidence(
                found=f"user {row['user']!r} may configure or read {', '.join(may[:5])}",
                origin=f"permissions of virtual host {broker.vhost!r}",
                cure=f"rabbitmqctl clear_permissions -p {broker.vhost} {row['user']}",
                is_of_production=True,
            )


def _matches(pattern: str, name: str) -> bool:
    """As RabbitMQ does: an empty pattern is none, others may match anywhere."""
    try:
        return bool(pattern) and re.search(pattern, name) is not None
    except re.error:
        return True  # what we cannot read may be anything
