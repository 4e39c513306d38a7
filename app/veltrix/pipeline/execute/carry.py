"""Carry: what a step set in context variables is seen in the threads that it starts.

Python does so by itself from 3.14 on, where it is asked to (`thread_inherit_context`). Before, a
step that gave work to threads lost what it runs for: its idempotency key, its tenant, its trace.
"""

import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import wraps
from typing import Any

from veltrix.domain.context import step_context


class _Pools(threading.local):
    """A pool is starting a thread: that works for others too, so it carries nothing."""

    is_starting = False


_pools = _Pools()


def carry_into_threads() -> None:
    """Threads that a step starts, and what it gives to pools, run in a copy of its context.

    From now on, in all of this process; called again it changes nothing.
    """
    if not hasattr(threading.Thread.start, "__wrapped__"):
        thread, pool = vars(threading)["Thread"], vars(futures)["ThreadPoolExecutor"]
        thread.start = _started(thread.start)
        pool.submit = _submitted(pool.submit)


def _started(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @wraps(start)
    def start_in_context(thread: threading.Thread) -> None:
        if step_context.get() is not None and not _pools.is_starting:
            context = copy_context()

            def run() -> None:
                del thread.run  # its class's again, and no cycle
                context.run(thread.run)

            thread.run = run  # type: ignore[method-assign]
        start(thread)

    return start_in_context


def _submitted(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @wraps(submit)
    def submit_in_context(
        pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if step_context.get() is None:
            return submit(pool, work, *args, **kwargs)
        was, _pools.is_starting = _pools.is_starting, True
        try:
            return submit(pool, copy_context().run, work, *args, **kwargs)
        finally:
            _pools.is_starting = was

    return submit_in_context
