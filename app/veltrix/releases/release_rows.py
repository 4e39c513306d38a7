"""Releases: which sets of workflow versions workers have, since when, and when they were last seen.

Workers say in their reports (`workers.load`) which release they have. One whose workers were all
gone for longer than a restart takes, and that comes again, counts as deployed anew.
"""

from collections.abc import Mapping

from sqlalchemy import Connection

from veltrix.releases.rules import Release
from veltrix.store.arrays import TextArray
from veltrix.store.loads import IS_LIVE, LIVE_LIMITS

DEPLOYS_LOCK = 0x56454C5452495803  # "VELTRIX" and 3, as bigint
KEPT_DAYS = 30

_SEEN = f"""
    select load ->> 'release' as id, min(started_at) filter (where {IS_LIVE}) as started_at,
        max(seen_at) filter (where {IS_LIVE}) as seen_at,
        max(seen_at) filter (where not {IS_LIVE}) as last_at
    from workers where load ->> 'release' is not null group by 1
"""  # noqa: S608 - put together from constants

# `greatest` and `least` leave out what is not known.
_IS_ANEW = """greatest(r.served_at, s.last_at) + %(restart_s)s * interval '1 second'
    < least(s.started_at, now())"""

_LIVE = f"""
select coalesce(array_agg(distinct coalesce(load ->> 'release', '')), '{{}}') from workers
where {IS_LIVE}
"""  # noqa: S608 - put together from constants

_KNOWN = f"""
select {_IS_ANEW} from releases r left join ({_SEEN}) s on s.id = r.id where r.id = %(id)s
"""  # noqa: S608 - put together from constants

_PUT = """
insert into releases as r (id, workflows, code_versions, deployed_at, served_at, held_until)
values (%(id)s, %(workflows)s, %(code_versions)s, clock_timestamp(), clock_timestamp(),
    now() + %(held_s)s * interval '1 second')
on conflict (id) do update set
    deployed_at = case when %(is_deployed)s then excluded.deployed_at else r.deployed_at end,
    served_at = excluded.served_at, held_until = coalesce(excluded.held_until, r.held_until)
"""

_SERVE = f"""
with seen as materialized ({_SEEN}), served as (
    update releases r set served_at = greatest(r.served_at, s.seen_at), held_until = null,
        deployed_at = case when {_IS_ANEW} then clock_timestamp() else r.deployed_at end
    from seen s where s.id = r.id and s.seen_at is not null
    returning r.id, r.deployed_at, r.workflows, r.code_versions
)
select id, deployed_at, workflows, code_versions from served
union all
select id, deployed_at, workflows, code_versions from releases r
where held_until > now() and not exists (select from served where served.id = r.id)
"""  # noqa: S608 - put together from constants

_RAISE = "update releases set deployed_at = clock_timestamp() where id = %(id)s"

_FORGET = """
delete from releases where id in (
    select id from releases
    where served_at < now() - %(days)s * interval '1 day' and coalesce(held_until < now(), true)
    order by id for update skip locked
)
"""


def take_turn(tx: Connection, *, is_patient: bool = True) -> bool:
    """Let no other decide about deploys until this transaction ends; False: one is at it."""
    if is_patient:
        tx.exec_driver_sql("select pg_advisory_xact_lock(%(lock)s)", {"lock": DEPLOYS_LOCK})
        return True
    query = "select pg_try_advisory_xact_lock(%(lock)s)"
    return bool(tx.exec_driver_sql(query, {"lock": DEPLOYS_LOCK}).scalar_one())


def live_ids(tx: Connection) -> frozenset[str]:
    """The releases that workers say they have; "" stands for workers that do not say it."""
    return frozenset(tx.exec_driver_sql(_LIVE, LIVE_LIMITS).scalar_one())


def put(
    tx: Connection,
    id_: str,
    versions: Mapping[str, str],
    *,
    restart_s: float,
    held_s: float | None = None,
    is_by_hand: bool = False,
) -> bool:
    """Note that a worker has this release; whether that deploys it: it is new, or comes anew.

    `is_by_hand`: somebody deploys it whatever is known of it. `held_s`: it counts as served for so
    long before its first worker is there. Needs `take_turn`.
    """
    keys = LIVE_LIMITS | {"id": id_, "restart_s": restart_s}
    known = tx.exec_driver_sql(_KNOWN, keys).one_or_none()
    is_deployed = is_by_hand or known is None or bool(known[0])
    values = {
        "id": id_,
        "workflows": TextArray(sorted(versions)),
        "code_versions": TextArray([versions[workflow] for workflow in sorted(versions)]),
        "held_s": held_s,
        "is_deployed": is_deployed,
    }
    tx.exec_driver_sql(_PUT, values)
    return is_deployed


def serve(tx: Connection, *, restart_s: float) -> list[Release]:
    """Note who serves now; the releases that live workers have or somebody holds.

    Needs `take_turn`.
    """
    rows = tx.exec_driver_sql(_SERVE, LIVE_LIMITS | {"restart_s": restart_s})
    return [
        Release(id_, deployed_at, dict(zip(workflows, versions, strict=True)))
        for id_, deployed_at, workflows, versions in rows
    ]


def raise_to_last(tx: Connection, id_: str) -> None:
    """What was gone back to counts as deployed now: who is left of the other takes nothing back."""
    tx.exec_driver_sql(_RAISE, {"id": id_})


def forget(tx: Connection, days: int = KEPT_DAYS) -> int:
    """Delete releases that nobody has had for so long; how many. One that comes again is new."""
    return tx.exec_driver_sql(_FORGET, {"days": days}).rowcount
