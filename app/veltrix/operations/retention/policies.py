"""The policies in force: read, and set with an author and a reason.

Where there is no row, everything is kept: nothing leaves before somebody has applied a policy.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access.audit import Audited, append
from veltrix.operations.retention.rules import (
    DEFAULTS,
    PolicyRefused,
    RetentionPolicy,
    check,
)
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.transactions import retry_transient, transaction

POLICIES_MAX = 1_000  # that are set at once, and that there may be


class SetPolicy(RetentionPolicy, frozen=True):
    """A policy in force, who set it, and when."""

    changed_by: str
    changed_at: datetime


class RetentionStanding(msgspec.Struct, frozen=True):
    """The policies in force; what none is about is kept for ever. `defaults`: the usual ones."""

    policies: list[SetPolicy]
    defaults: list[RetentionPolicy]


_READ = """
select workflow, outcome, content_s, lines_s, changed_by, changed_at
from retention_policies order by workflow, outcome
"""

_SET = """
insert into retention_policies as p (workflow, outcome, content_s, lines_s, changed_by)
select workflow, outcome, content_s, lines_s, %(author)s
from unnest(%(workflow)s, %(outcome)s, %(content_s)s::bigint[], %(lines_s)s::bigint[])
    as k(workflow, outcome, content_s, lines_s)
order by workflow, outcome
on conflict (workflow, outcome) do update set content_s = excluded.content_s,
    lines_s = excluded.lines_s, changed_by = excluded.changed_by, changed_at = now()
"""

# Also of workflows that are gone: their runs are there.
_UNKNOWN = """
select name from unnest(%(workflow)s) as k(name)
where name <> '' and not exists (select from subscriptions s where s.workflow = name)
order by name limit 1
"""


def read(tx: Connection) -> list[SetPolicy]:
    """All policies in force, by workflow and outcome; that of every workflow ("") is first."""
    names = SetPolicy.__struct_fields__
    return [
        msgspec.convert(dict(zip(names, row, strict=True)), SetPolicy)
        for row in tx.exec_driver_sql(_READ)
    ]


def standing(tx: Connection) -> RetentionStanding:
    """The policies in force, beside those that are usual."""
    return RetentionStanding(read(tx), list(DEFAULTS))


def check_all(tx: Connection, policies: Sequence[RetentionPolicy]) -> None:
    """Raises PolicyRefused for a policy that cannot be, or whose workflow nobody ever registered.

    Of a name that is misspelled nothing would be kept for longer, and nobody would see it.
    """
    if len({(one.workflow, one.outcome) for one in policies}) < len(policies):
        raise PolicyRefused("a workflow and outcome is there twice: say of each once what is meant")
    for one in policies:
        check(one)
    names = TextArray([one.workflow for one in policies])
    unknown = tx.exec_driver_sql(_UNKNOWN, {"workflow": names}).scalar_one_or_none()
    if unknown is not None:
        raise PolicyRefused(f"no workflow {unknown!r} was ever registered: look at the name")


def set_policies(
    engine: Engine, policies: Sequence[RetentionPolicy], reason: str, author: str
) -> list[SetPolicy]:
    """Put these policies in force, and leave the others as they are; all that are, afterwards.

    In one transaction with its row in the audit, which has what was in force before. Raises
    PolicyRefused: then none of them is set.
    """

    def _set() -> list[SetPolicy]:
        with transaction(engine) as tx:
            check_all(tx, policies)
            before = read(tx)
            tx.exec_driver_sql(_SET, _columns(policies, author))
            after = read(tx)
            if len(after) > POLICIES_MAX:
                raise PolicyRefused(f"there would be more than {POLICIES_MAX:,} policies")
            row = Audited(
                author=author,
                action="retention.set",
                reason=reason,
                target="retention",
                request={"policies": msgspec.to_builtins(list(policies))},
                result={"before": msgspec.to_builtins(before)},
            )
            append(tx, [row])
            return after

    return retry_transient(_set) if policies else []


def _columns(policies: Sequence[RetentionPolicy], author: str) -> dict[str, object]:
    return {
        "workflow": TextArray([one.workflow for one in policies]),
        "outcome": TextArray([one.outcome.value for one in policies]),
        "content_s": IntArray([one.content_s for one in policies]),
        "lines_s": IntArray([one.lines_s for one in policies]),
        "author": author,
    }
