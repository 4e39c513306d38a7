"""Requests to accept: submissions that are answered together, and how they get their answers."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any

from veltrix.pipeline.accept.event_list import Answer, Submission, bytes_of
from veltrix.pipeline.accept.receipts import AcceptUnavailable
from veltrix.settings.fields import Settings
from veltrix.telemetry import logger

_log = logger("accept")


class Request:
    """Submissions that are answered together. `settle` gives the answer to whoever waits."""

    __slots__ = ("bytes", "future", "loop", "since", "submissions")

    def __init__(
        self,
        submissions: Sequence[Submission],
        future: "asyncio.Future[list[Answer]] | Future[list[Answer]]",
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.submissions, self.future, self.loop = submissions, future, loop
        self.bytes = sum(map(bytes_of, submissions))
        self.since = monotonic()


def parts_of(submissions: list[Submission], settings: Settings) -> list[list[Submission]]:
    """Lists within the limits: one, unless a single request exceeds them."""
    parts: list[list[Submission]] = [[]]
    size = 0
    for submission in submissions:
        size += bytes_of(submission)
        is_full = len(parts[-1]) >= settings.accept_list_events_max
        if parts[-1] and (is_full or size > settings.accept_list_bytes_max):
            parts.append([])
            size = bytes_of(submission)
        parts[-1].append(submission)
    return parts


def settle(taken: list[Request], answers: list[Answer]) -> None:
    """Give every request its answers: one call into each event loop for all of its requests."""
    at = 0
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Any, list[Answer]]]] = {}
    for request in taken:
        end = at + len(request.submissions)
        by_loop.setdefault(request.loop, []).append((request.future, answers[at:end]))
        at = end
    for loop, settled in by_loop.items():
        if loop is None:
            _resolve(settled)
            continue
        try:
            loop.call_soon_threadsafe(_resolve, settled)
        except RuntimeError:  # the loop is closed: its requests are gone, the commit stands
            _log.warning("accept.answers_unwanted", requests=len(settled))


def _resolve(settled: list[tuple[Any, list[Answer]]]) -> None:
    for future, answers in settled:
        if future.done():  # the caller has gone away
            continue
        if answers and all(isinstance(answer, AcceptUnavailable) for answer in answers):
            future.set_exception(answers[0])
        else:
            future.set_result(answers)
