"""Settings to objects: the only composition root, and the only real clock, chance and ids.

What only some of its callers need is imported where it is made: commands start quickly.
"""

import gc
import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from veltrix.authoring.workflows import Workflow
from veltrix.domain.ids import EventIds
from veltrix.settings.fields import Settings
from veltrix.settings.load import require
from veltrix.store.transactions import make_engine, open_autocommit
from veltrix.telemetry import logger

if TYPE_CHECKING:
    from veltrix.pipeline.execute.coroutines.execution import ExecutionLimits

PROVE_WORKFLOWS = "veltrix.prove.load.workflows"  # by name: what imports this module is above it


@dataclass(frozen=True, slots=True)
class Sources:
    """Time, chance and ids of a process."""

    monotonic: Callable[[], float]
    unix_ms: Callable[[], int]
    random: Callable[[], float]
    random_bits: Callable[[int], int]
    new_id: Callable[[], str]


def real_sources() -> Sources:
    """The machine's own clock and randomness."""
    system = random.SystemRandom()
    seeded = random.Random(system.getrandbits(128))  # noqa: S311 - unique, not secret; 20 times faster
    return Sources(
        monotonic=time.monotonic,
        unix_ms=lambda: time.time_ns() // 1_000_000,
        random=seeded.random,
        random_bits=seeded.getrandbits,
        new_id=lambda: str(uuid.uuid4()),
    )


def collect_rarely() -> None:
    """Let Python look for cycles of garbage after 50,000 new objects, and never at what is there.

    Lists of hundreds of runs make objects by the thousand, none of them a cycle: with the default
    of 700, looking took 8% of all time under load. Call it once everything is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def event_ids(sources: Sources) -> EventIds:
    """The maker of event ids of one api or relay."""
    return EventIds(sources.random_bits)


def engine_for(
    settings: Settings,
    application: str,
    *,
    connections_max: int = 1,
    statement_timeout_s: float | None = None,
    is_hot: bool = False,
    is_naming: bool = False,
    is_tried: bool = True,
    is_writer: bool = True,
    is_of_authors: bool = False,
) -> Engine:
    """An engine on the configured database; a stand-by of it counts as away, if `is_writer`.

    Raises SettingsError if none is configured.
    """
    require(settings, "database_url")
    assert settings.database_url is not None
    return make_engine(
        settings.database_url.get_secret_value(),
        application=application,
        connections_max=connections_max,
        statement_timeout_s=statement_timeout_s or settings.statement_timeout_s,
        is_hot=is_hot,
        is_naming=is_naming,
        is_tried=is_tried,
        is_writer=is_writer,
        is_of_authors=is_of_authors,
    )


def say_powers(settings: Settings, engine: Engine) -> None:
    """Warn if the platform's role can change the audit; nothing where the database cannot be asked.

    Not where the owner's URL names the same role, as `veltrix dev` does: then it is meant.
    """
    from veltrix.store.grants import powers

    require(settings, "database_url")
    assert settings.database_url is not None
    owner = settings.database_owner_url
    if owner is not None and _user_of(owner) == _user_of(settings.database_url):
        return
    with suppress(SQLAlchemyError, psycopg.Error), open_autocommit(engine) as tx:
        if (found := powers(tx)) is not None:
            log = logger("database")
            cure = "give it a role of its own (`veltrix db grants`): docs/how-to/operating.md"
            log.warning("role.powerful", role=found.role, why=found.said, cure=cure)


def _user_of(url: SecretStr) -> str | None:
    return make_url(url.get_secret_value()).username


def workflows_of(settings: Settings) -> dict[str, tuple[Workflow, str]]:
    """The configured workflows by name, each with its code version."""
    from veltrix.authoring.registry import load_workflows

    modules = f"{settings.workflows},{PROVE_WORKFLOWS}" if settings.prove else settings.workflows
    found = load_workflows(modules)
    return {name: (w, w.code_version(settings.release)) for name, w in sorted(found.items())}


def limits_for(
    settings: Settings,
    sources: Sources,
    on_time: Callable[[float, float], object],
    *,
    has_own_limits: bool = True,
) -> "ExecutionLimits":
    """What the executions of a worker child must respect."""
    from veltrix.pipeline.execute.coroutines.execution import ExecutionLimits

    return ExecutionLimits(
        output_bytes_max=settings.output_bytes_max,
        error_chars_max=settings.error_chars_max,
        step_timeout_s=settings.step_timeout_s,
        journal_write_s=settings.journal_write_s,
        deploy_grace_s=settings.deploy_grace_s,
        deploy_backoff_s=settings.deploy_backoff_s,
        monotonic=sources.monotonic,
        jitter=sources.random,
        arguments_bytes_max=settings.arguments_bytes_max,
        hold_s=settings.hold_s,
        on_time=on_time,
        has_own_limits=has_own_limits,
    )
