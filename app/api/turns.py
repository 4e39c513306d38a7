"""One thread that works for all callers by turns: who asks for much waits for himself."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    """Work is done one piece at a time, a piece of each author who waits, round and round."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = Lock()
        # The author whose turn is next first.
        self._waiting: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}

    def submit(self, author: str, work: Callable[[], T]) -> Future[T]:
        """What `work` returns or raises, when it was this author's turn."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.setdefault(author, deque()).append((future, work))
        self._pool.submit(self._take_one)  # a turn, for whoever is next then
        return future

    def _take_one(self) -> None:
        with self._lock:
            author = next(iter(self._waiting))
            pieces = self._waiting.pop(author)
            future, work = pieces.popleft()
            if pieces:
                self._waiting[author] = pieces
        if not future.set_running_or_notify_cancel():
            return  # who asked has gone away
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever asked is told
            future.set_exception(error)
