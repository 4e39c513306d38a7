"""Settings of this deployment that lose, stall or hide work although each value is allowed.

What `veltrix.settings.rules` refuses (misspelt names, bounds, contradictions) never gets here.
"""

from collections.abc import Iterator

from veltrix.doctor.facts.platform_settings import PlatformSettings
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("settings of the platform")

DELIVERIES_MIN = 20
DEPLOY_GRACE_S_MIN = 60.0
HEARTBEAT_S_MAX = 120
UNSAFE_COMMITS = frozenset({"off", "local", "false", "no", "0"})
_ASYNCHRONOUS = "https://www.postgresql.org/docs/current/wal-async-commit.html"


@rules.rule(
    "D08",
    Severity.LOSS,
    PlatformSettings,
    title="a database URL asks for commits that are answered before they are on disk",
    why="Veltrix sets synchronous_commit on in its own sessions, but whatever else is given this"
    " URL, as a step that connects by itself, loses what it committed last when PostgreSQL stops.",
    safe="VELTRIX_DATABASE_URL=postgresql+psycopg://user:password@host/database",
    source=_ASYNCHRONOUS,
)
def url_commits_unsafely(facts: PlatformSettings) -> Iterator[Evidence]:
    for name in ("database_url", "database_owner_url"):
        value = facts.session_options(name).get("synchronous_commit")
        if value is not None and value.lower() in UNSAFE_COMMITS:
            yield Evidence(
                found=f"options of VELTRIX_{name.upper()} have synchronous_commit={value}",
                origin=facts.origin(name),
                cure=f"take synchronous_commit out of the options in VELTRIX_{name.upper()}",
            )


@rules.rule(
    "B01",
    Severity.BLIND,
    PlatformSettings,
    title="nobody keeps the limits of RabbitMQ's queues, or can look at them",
    why="Without its management API policies are neither put nor checked, and a queue without them"
    " drops messages at a limit and keeps no dead letters.",
    safe="VELTRIX_MANAGEMENT_URL=https://user:password@host:15671",
    source="docs/how-to/rabbitmq.md",
)
def nobody_keeps_policies(facts: PlatformSettings) -> Iterator[Evidence]:
    if facts.settings.broker_url is not None and facts.settings.management_url is None:
        yield Evidence(
            found="VELTRIX_MANAGEMENT_URL is not set",
            origin=facts.origin("management_url"),
            cure="VELTRIX_MANAGEMENT_URL=https://user:password@host:15671",
            is_of_production=True,
        )


@rules.rule(
    "B02",
    Severity.STALL,
    PlatformSettings,
    title="few deliveries dead-letter innocent messages",
    why="A worker that dies again and again counts as a delivery of all that it held, so messages"
    " beside the one that kills it reach a low limit and their runs come late.",
    safe="VELTRIX_DELIVERY_LIMIT=100",
    source="https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling",
)
def few_deliveries(facts: PlatformSettings) -> Iterator[Evidence]:
    if facts.settings.delivery_limit < DELIVERIES_MIN:
        yield Evidence(
            found=facts.told("delivery_limit"),
            origin=facts.origin("delivery_limit"),
            cure="VELTRIX_DELIVERY_LIMIT=100",
        )


@rules.rule(
    "W39",
    Severity.STALL,
    PlatformSettings,
    title="a lost RabbitMQ is noticed late",
    why="A connection that was cut without a word is given up after two heartbeats; until then a"
    " worker waits for messages that cannot come, and what it holds goes to nobody else.",
    safe="VELTRIX_BROKER_HEARTBEAT_S=30",
    source="https://www.rabbitmq.com/docs/heartbeats",
)
def rare_heartbeats(facts: PlatformSettings) -> Iterator[Evidence]:
    if facts.settings.broker_heartbeat_s > HEARTBEAT_S_MAX:
        yield Evidence(
            found=facts.told("broker_heartbeat_s"),
            origin=facts.origin("broker_heartbeat_s"),
            cure="VELTRIX_BROKER_HEARTBEAT_S=30",
        )


@rules.rule(
    "D16",
    Severity.STALL,
    PlatformSettings,
    title="a deploy fails the runs of workflows that its workers do not have yet",
    why="While old and new workers run side by side each meets runs of the other's workflows, and"
    " after this time such a run fails and waits for a person to replay it.",
    safe="VELTRIX_DEPLOY_GRACE_S=600",
    source="docs/how-to/rollback.md",
)
def short_deploy_grace(facts: PlatformSettings) -> Iterator[Evidence]:
    if facts.settings.deploy_grace_s < DEPLOY_GRACE_S_MIN:
        yield Evidence(
            found=facts.told("deploy_grace_s"),
            origin=facts.origin("deploy_grace_s"),
            cure="VELTRIX_DEPLOY_GRACE_S=600",
        )


@rules.rule(
    "P17",
    Severity.STALL,
    PlatformSettings,
    title="workers serve what is for proving",
    why="Steps of `veltrix prove` end worker processes on purpose, and whoever may send events may"
    " start them.",
    safe="VELTRIX_PROVE=false",
    source="docs/how-to/proving.md",
)
def serves_prove(facts: PlatformSettings) -> Iterator[Evidence]:
    if facts.settings.prove:
        yield Evidence(
            found=facts.told("prove"), origin=facts.origin("prove"), cure="VELTRIX_PROVE=false"
        )
