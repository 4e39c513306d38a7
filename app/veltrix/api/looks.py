"""One look for all who ask whether an api is ready: anybody may ask, as often as he likes.

The look has a connection of its own, so that calls that hold those for reads do not make it say
that the database is away; and there are at most two a second, so that no number of askers costs
more than that.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from veltrix.store.errors import told
from veltrix.store.schema import at_head
from veltrix.store.transactions import open_autocommit

LOOK_S = 0.5


class Looks:
    """Looks by `engine`, which is for nothing else. For one event loop."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._last: dict[str, Any] = {}
        self._at = float("-inf")
        self._looking: asyncio.Future[dict[str, Any]] | None = None

    async def latest(self) -> dict[str, Any]:
        """What the last look found, or the next, if that was long ago."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._at < LOOK_S:
            return self._last
        if self._looking is None:
            self._looking = loop.run_in_executor(self._thread, self._look)
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, done: "asyncio.Future[dict[str, Any]]") -> None:
        self._looking = None
        if not done.cancelled() and done.exception() is None:
            self._last, self._at = done.result(), asyncio.get_running_loop().time()

    def _look(self) -> dict[str, Any]:
        found: dict[str, Any] = {"database": "away", "schema": "unknown"}
        try:
            with open_autocommit(self.engine) as tx:
                found["database"] = "ok"
                found["schema"] = "ok" if at_head(tx) else "not at head: run `veltrix db upgrade`"
        except SQLAlchemyError as error:
            found["error"] = told(error)
        return found

    def close(self) -> None:
        """No look goes on."""
        self._thread.shutdown()
        self.engine.dispose()
