"""What a worker child is made of, and where it is put together: once, after the fork."""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

from sqlalchemy import Engine

from veltrix.authoring.workflows import Workflow
from veltrix.bootstrap import Sources, engine_for, limits_for
from veltrix.pipeline.clock import DatabaseClock
from veltrix.pipeline.execute import claim as claims
from veltrix.pipeline.execute.coroutines.execution import ExecutionLimits
from veltrix.pipeline.execute.engine import BatchExecutor
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps
from veltrix.pipeline.execute.transact import Transactor
from veltrix.pipeline.execute.whereabouts import Whereabouts
from veltrix.pipeline.handed_key import read_key
from veltrix.releases.register import release_of
from veltrix.settings.fields import Settings
from veltrix.store.transactions import Link
from veltrix.worker.child.handing import Handing
from veltrix.worker.child.recycling import Recycling, memory_bytes
from veltrix.worker.child.stuck import Stuck
from veltrix.worker.child.watch import ChildWatch, give_up
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.places import Places
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles

# Of the node in a session's name, which PostgreSQL cuts at 63 bytes.
_NODE_CHARS = 27


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """What the parent prepared before it forked."""

    settings: Settings
    sources: Sources
    workflows: Mapping[str, tuple[Workflow, str]]
    queues: list[str]
    node: str
    stamps: Stamps
    places: Places
    troubles: Troubles
    mailbox: Mailbox
    has_step_limits: bool = True  # not where somebody stands in them with a debugger


@dataclass(frozen=True, kw_only=True)
class ChildParts:
    """All that a child works with. Its connections open when they are first needed."""

    worker_id: str
    settings: Settings
    workflows: Mapping[str, tuple[Workflow, str]]
    limits: ExecutionLimits
    monotonic: Callable[[], float]
    wait: Callable[[float], object]
    stuck: Stuck
    sql: Engine
    link: Link
    handing: Handing
    alarm: Alarm
    async_steps: AsyncSteps
    engine: BatchExecutor
    place: Whereabouts
    recycling: Recycling
    watch: ChildWatch


def put_together(inheritance: Inheritance) -> ChildParts:
    """The parts of this process, which has a slot among the stamps from now on."""
    settings, sources, pid = inheritance.settings, inheritance.sources, os.getpid()
    application = f"veltrix worker {pid} {inheritance.node[:_NODE_CHARS]}"
    # Back within a part of a lease: a relay that is back sooner may rescue after one hold.
    pause_s_max = min(1.0, settings.hold_s / 4)
    stuck = Stuck(inheritance.troubles, sources.monotonic)
    wait = threading.Event().wait  # for nothing but the time: nobody sets it
    sql = engine_for(settings, application, is_hot=True, is_naming=True)
    link = Link(sql, wait, pause_s_max, partial(stuck.say, "database"))
    handing = _handing(inheritance, link)
    limits = limits_for(
        settings, sources, handing.heard, has_own_limits=inheritance.has_step_limits
    )
    alarm, async_steps = Alarm(sources.monotonic), AsyncSteps(sources.monotonic)
    worker_id = f"{inheritance.node}/{pid}"
    transactor = Transactor(
        partial(_engine_of_authors, settings, application),
        alarm=alarm,
        worker_id=worker_id,
        rewind=partial(claims.rewind, link, workflows=inheritance.workflows, limits=limits),
        wait=wait,
        monotonic=sources.monotonic,
        hold_s=settings.hold_s,
        say=partial(stuck.say, "transactions"),
    )
    slot = inheritance.stamps.take_slot(pid, sources.monotonic())
    leases = engine_for(settings, f"{application} watch", statement_timeout_s=5.0)
    watch = ChildWatch(
        settings,
        worker_id=worker_id,
        node=inheritance.node,
        link=Link(leases, give_up, pause_s_max, partial(stuck.say, "leases")),
        async_steps=async_steps,
        alarm=alarm,
        stamp=lambda: inheritance.stamps.stamp(slot, pid, sources.monotonic()),
        monotonic=sources.monotonic,
        queues=inheritance.queues,
        release=release_of(inheritance.workflows),
        take_returned=inheritance.mailbox.take,
    )
    return ChildParts(
        worker_id=worker_id,
        settings=settings,
        workflows=inheritance.workflows,
        limits=limits,
        monotonic=sources.monotonic,
        wait=wait,
        stuck=stuck,
        sql=sql,
        link=link,
        handing=handing,
        alarm=alarm,
        async_steps=async_steps,
        engine=BatchExecutor(limits, alarm, async_steps, transactor),
        place=inheritance.places.of(slot),
        recycling=Recycling(settings, inheritance.troubles, memory_bytes),
        watch=watch,
    )


def _engine_of_authors(settings: Settings, application: str) -> Engine:
    return engine_for(
        settings,
        f"{application} transactions",
        connections_max=2,
        is_tried=False,
        is_of_authors=True,
    )


def _handing(inheritance: Inheritance, link: Link) -> Handing:
    sources = inheritance.sources
    return Handing(
        DatabaseClock(sources.monotonic, lambda: sources.unix_ms() / 1000, inf),
        lambda: link.call(read_key),
        lambda: link.opened,
        inheritance.workflows,
        inheritance.settings.hold_s,
        sources.monotonic,
    )
