"""The workflows that can be started, as the api's own view of the subscriptions."""

import asyncio
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from time import monotonic
from typing import Any

import msgspec
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from app.store import subscriptions
from app.store.subscriptions import Subscription
from app.store.transactions import open_autocommit

_VIOLATIONS_MAX = 20


class Violation(msgspec.Struct, frozen=True):
    """One way in which an input does not fit its schema; `at` is a JSON pointer into the input."""

    at: str
    message: str


class StartableWorkflow:
    """A workflow with the check of its input."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription

    @cached_property
    def _validator(self) -> Validator | None:
        schema = self.subscription.input_schema
        if schema is None:
            return None
        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError:
            return None
        return kind(schema, registry=Registry())  # nothing is fetched from anywhere

    def violations(self, value: Any) -> list[Violation]:
        """What is wrong with this input; empty: nothing, or the workflow declares no type.

        A schema that cannot be followed finds nothing: the worker's own check decides.
        """
        if self._validator is None:
            return []
        try:
            first = list(islice(self._validator.iter_errors(value), _VIOLATIONS_MAX))
        except (Unresolvable, RecursionError):
            return []
        return [
            Violation("".join(f"/{part}" for part in error.absolute_path), error.message[:500])
            for error in first
        ]


class Catalog:
    """The current subscriptions by workflow, at most `cache_s` old. For one event loop."""

    def __init__(self, engine: Engine, cache_s: float) -> None:
        self._engine, self._cache_s = engine, cache_s
        self._workflows: dict[str, StartableWorkflow] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def workflows(self) -> Mapping[str, StartableWorkflow]:
        """By name. Raises the database's errors when it is away and the view is too old."""
        if not self._is_fresh():
            async with self._reading:
                if not self._is_fresh():
                    now = monotonic()
                    rows = await run_in_threadpool(self._read)
                    self._workflows = {row.workflow: self._startable(row) for row in rows}
                    self._read_at = now
        return self._workflows

    def _is_fresh(self) -> bool:
        return self._read_at is not None and monotonic() - self._read_at < self._cache_s

    def _read(self) -> list[Subscription]:
        with open_autocommit(self._engine) as tx:
            return subscriptions.current(tx)

    def _startable(self, row: Subscription) -> StartableWorkflow:
        had = self._workflows.get(row.workflow)
        return had if had is not None and had.subscription == row else StartableWorkflow(row)
