"""Posting many events over HTTP: batches on a few keep-alive connections, each sent until taken."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

from veltrix.pipeline.accept.cloudevents import BATCH_TYPE

_TIMEOUT_S = 60.0
_AGAIN_S = 0.25


class NotTaken(Exception):
    """The api refuses events, and would again; the message is its answer."""


class _Answer(msgspec.Struct):
    items: list[msgspec.Raw]


class _Item(msgspec.Struct):
    status: int


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_item = msgspec.json.Decoder(_Item).decode


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
        self._address = urlsplit(url).netloc
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
            with closing(
                http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
            ) as connection:
                while (batch := self._next()) and not self._stop.is_set():
                    self._post(connection, b"[" + b",".join(batch) + b"]")
                    with self._counting:
                        self._taken += len(batch)
        except BaseException as error:  # noqa: BLE001 - raised again where the posting is watched
            self._error = error
            self._stop.set()

    def _next(self) -> list[bytes]:
        with self._reading:
            if self.is_held:
                self._permits.acquire()
            batch = list(islice(self._events, self._batch_events))
            self._read += len(batch)
            return batch

    def _post(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v1/events", body, {"Content-Type": BATCH_TYPE})
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
            else:
                if response.status == 202:
                    return
                if refusal := _refusal(response.status, text):
                    raise NotTaken(f"{response.status}: {refusal[:2_000].decode(errors='replace')}")
            self._stop.wait(_AGAIN_S)


def _refusal(status: int, text: bytes) -> bytes | None:
    """The answer that another try would get again; None: the api, or an item, only has to wait."""
    if status != 207:
        return None if status in {429, 503} else text
    items = _decode_answer(text).items
    return next((bytes(i) for i in items if _decode_item(i).status not in {202, 503}), None)
