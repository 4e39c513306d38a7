"""How much workers claim and how long it takes them: one row per worker child.

A child reports about every second while it works and every 5 seconds while it does not. `load` is

    {"queues": {queue: {"claimed_2s": runs claimed in the last 2 seconds}},   every queue it serves
     "workflows": {name: {"occupied_s": mean seconds a run occupies the child}},
     "children": 1,
     "release": id,        which code it has (app/veltrix/releases/release_rows.py)
     "settings": {name: number},   those that all workers must have alike (veltrix.settings.agreed)
     "left": true}         only of a child that takes nothing any more, in its last report

`occupied_s` is the time the child is busy with a run, not the time the run awaits something.
"""

from collections import defaultdict
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.store.arrays import TextArray

# An older claim rate says nothing about the last two seconds; the child may still be there.
FRESH_S = 4.0
PRESENT_S = 15.0
LEFT_S = 5.0  # a child that said goodbye counts as there for so long: a restart is no departure
STALE_S = 300.0

# A child is there as long as it reports; one that said goodbye, for a moment more.
IS_LIVE = """seen_at > now() - case when load ->> 'left' is null
    then %(present_s)s else %(left_s)s end * interval '1 second'"""
LIVE_LIMITS = {"present_s": PRESENT_S, "left_s": LEFT_S}


class Load(msgspec.Struct, frozen=True):
    """All present workers together; what nobody reported is not in the mappings."""

    claimed_2s: dict[str, int]
    children: dict[str, int]
    occupied_s: dict[str, float]


_REPORT = """
insert into workers (id, node, load) values (%(id)s, %(node)s, %(load)s::json)
on conflict (id) do update set node = excluded.node, load = excluded.load, seen_at = now()
"""

_CURRENT = """
select load::text, seen_at > now() - %(fresh_s)s * interval '1 second' from workers
where seen_at > now() - %(present_s)s * interval '1 second'
"""

_FORGET = "delete from workers where id = any(%(id)s)"

_FORGET_STALE = """
delete from workers where id in (
    select id from workers where seen_at < now() - %(stale_s)s * interval '1 second'
    order by id for update skip locked
)
"""


def report(tx: Connection, worker_id: str, node: str, load: dict[str, Any]) -> None:
    """This child is alive and works like this (see the module). One row per child, overwritten."""
    tx.exec_driver_sql(
        _REPORT, {"id": worker_id, "node": node, "load": msgspec.json.encode(load).decode()}
    )


def forget(tx: Connection, worker_ids: list[str]) -> None:
    """These children are gone."""
    tx.exec_driver_sql(_FORGET, {"id": TextArray(worker_ids)})


def forget_stale(tx: Connection, stale_s: float = STALE_S) -> int:
    """Forget children not heard of for `stale_s`, and those that said goodbye; how many."""
    keys = {"stale_s": stale_s, "present_s": PRESENT_S}
    return tx.exec_driver_sql(_FORGET_STALE, keys).rowcount


def current(tx: Connection) -> Load:
    """What present children said, added up by queue; `occupied_s` as the mean of their means."""
    claimed: dict[str, int] = defaultdict(int)
    children: dict[str, int] = defaultdict(int)
    occupied: dict[str, list[float]] = defaultdict(list)
    rows = tx.exec_driver_sql(_CURRENT, {"fresh_s": FRESH_S, "present_s": PRESENT_S})
    for text, is_fresh in rows:
        load = msgspec.json.decode(text)
        if load.get("left"):
            continue
        for queue, of_queue in load.get("queues", {}).items():
            children[queue] += load.get("children", 1)
            claimed[queue] += of_queue["claimed_2s"] if is_fresh else 0
        for workflow, of_workflow in load.get("workflows", {}).items():
            occupied[workflow].append(of_workflow["occupied_s"])
    means = {workflow: sum(all_) / len(all_) for workflow, all_ in occupied.items()}
    return Load(dict(claimed), dict(children), means)
