"""One thread that works for all callers by turns: who asks for much waits for himself."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from time import thread_time
from typing import Any, TypeVar

from veltrix.domain.give_way import give_way, give_way_by

T = TypeVar("T")

# What a loop does at once. Whatever is in it, reading so much takes 3 ms at most, and an ordinary
# event of it 0.1 ms.
AT_ONCE_BYTES_MAX = 16 * 1024
STEP_S = 0.0005  # an ordinary event of 16 KiB is read in less
REST_S_MAX = 0.02


class Turns:
    """Work is done one piece at a time, a piece of each author who waits, round and round.

    After a step that took long the thread rests `rest` times as long: a step holds the interpreter,
    which the event loop has for itself meanwhile.
    """

    def __init__(self, name: str, rest: float = 0.0) -> None:
        self._rests = _Rests(rest)
        begin = partial(give_way_by, self._rests)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)
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
        self._rests.begin()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever asked is told
            future.set_exception(error)
        give_way()


class _Rests:
    """Of one thread, between the steps of its work. What counts is its own processor time."""

    def __init__(self, rest: float) -> None:
        self._rest, self._never = rest, Event()
        self._began = 0.0

    def begin(self) -> None:
        """What was before is no step."""
        self._began = thread_time()

    def __call__(self) -> None:
        """A step has ended: rest, if it was long."""
        took_s = thread_time() - self._began
        if self._rest and took_s > STEP_S:
            self._never.wait(min(took_s * self._rest, REST_S_MAX))
        self._began = thread_time()
