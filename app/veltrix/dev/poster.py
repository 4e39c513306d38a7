"""Posting many events over HTTP: batches on a few keep-alive connections, each sent until taken."""

import threading
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from veltrix.client.errors import ApiError
from veltrix.client.events import EventPoster
from veltrix.client.transport import Again, Transport

_AGAIN_S_MAX = 0.25


class NotTaken(Exception):
    """The api refuses events, and would again; the message is its answer."""


class _Stopped(Exception):
    """Nobody wants the rest to be posted."""


class Poster:
    """Posts encoded events from its own threads, inside `with`.

    What an api in trouble did not take is sent again until it is: the identity of the events makes
    that safe. From event `hold_at` on each batch needs a permit, until `release`.
    """

    def __init__(
        self,
        url: str,
        events: Iterator[bytes],
        *,
        batch_events: int,
        connections: int,
        hold_at: int | None = None,
    ) -> None:
        self._url = url
        self._events, self._batch_events, self._hold_at = events, batch_events, hold_at
        self._reading, self._counting = threading.Lock(), threading.Lock()
        self._stop, self._released = threading.Event(), threading.Event()
        self._permits = threading.Semaphore(0)
        self._taken = self._read = 0
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"poster-{number}", daemon=True)
            for number in range(1, connections + 1)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self.release()
        for thread in self._threads:
            thread.join(1.0)

    @property
    def taken(self) -> int:
        """Events that an api has answered for with 202."""
        return self._taken

    @property
    def is_held(self) -> bool:
        """Everything before `hold_at` has been read, and `release` was not called."""
        return self._hold_at is not None and self._read >= self._hold_at and not self.is_released

    @property
    def is_released(self) -> bool:
        """`release` was called."""
        return self._released.is_set()

    @property
    def is_done(self) -> bool:
        """Every event was taken. Raises what stopped the posting."""
        if self._error is not None:
            raise self._error
        return not any(thread.is_alive() for thread in self._threads)

    def permit(self) -> None:
        """One more batch may go."""
        self._permits.release()

    def release(self) -> None:
        """All the rest may go."""
        self._released.set()
        for _ in self._threads:
            self._permits.release()

    def _run(self) -> None:
        try:
            with Transport(
                self._url, attempts_max=None, wait=self._wait, backoff_s_max=_AGAIN_S_MAX
            ) as transport:
                poster = EventPoster(transport, self._wait)
                while (batch := self._next()) and not self._stop.is_set():
                    _post(poster, batch)
                    with self._counting:
                        self._taken += len(batch)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the posting is watched
            self._error = error
            self._stop.set()

    def _wait(self, again: Again) -> None:
        if self._stop.wait(again.pause_s):
            raise _Stopped

    def _next(self) -> list[bytes]:
        with self._reading:
            if self.is_held:
                self._permits.acquire()
            batch = list(islice(self._events, self._batch_events))
            self._read += len(batch)
            return batch


def _post(poster: EventPoster, batch: list[bytes]) -> None:
    """Raises NotTaken for the first event that the api refuses."""
    try:
        for _, item in poster.post(batch):
            if item.status != 202:
                raise NotTaken(f"{item.status}: {item.detail}")
    except ApiError as error:
        raise NotTaken(str(error)) from None
