"""The workflows that can be started, as the api's own view of the subscriptions."""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from veltrix.authoring.input_schema import InputSchema, Violation
from veltrix.releases import subscription_rows
from veltrix.releases.subscription_rows import Subscription
from veltrix.store.transactions import open_autocommit


class StartableWorkflow:
    """A workflow with the check of its input."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self._schema = InputSchema(subscription.input_schema)

    def violations(self, value: Any) -> list[Violation]:
        """What is wrong with this input; empty: nothing, or the workflow declares no type."""
        return self._schema.violations(value)


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
            return subscription_rows.current(tx)

    def _startable(self, row: Subscription) -> StartableWorkflow:
        had = self._workflows.get(row.workflow)
        return had if had is not None and had.subscription == row else StartableWorkflow(row)
