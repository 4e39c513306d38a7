"""Telling a webhook what appeared and what is gone: a CloudEvent each, until it is taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import httpx
import msgspec
from sqlalchemy import Engine

from veltrix.client.whole_answer import WholeAnswer
from veltrix.doctor.watch import look_rows
from veltrix.doctor.watch.look_rows import SeenFinding
from veltrix.domain.backoff import Backoff
from veltrix.domain.events import STRUCTURED_TYPE
from veltrix.store.transactions import open_autocommit
from veltrix.telemetry import logger

SOURCE = "/veltrix/doctor"
TOLD_MAX = 20  # at one look
TIMEOUT_S = 5.0
TELL_S = 5.0  # at one look
PAUSE_S, PAUSE_S_MAX = 10.0, 600.0

_LATER = frozenset({401, 403, 404, 408, 429})  # of all that is sent there, not of this event

_log = logger("doctor")


class Webhook:
    """Posts what nobody was told of yet, the oldest first. For one thread.

    No answer, or "later", ends this try: the next is after a growing pause, and nothing is skipped.
    What is refused for itself (another 4xx) is lost, with a line of the log. At least once: who
    hears it twice finds the same event id.
    """

    def __init__(self, engine: Engine, url: str, monotonic_s: float) -> None:
        self._engine, self._url = engine, url
        self._backoff = Backoff(PAUSE_S, PAUSE_S_MAX)
        self._again_at = monotonic_s
        # Redirects are not followed: the address is a secret, and where it leads is not known.
        self._client = _opened()

    def close(self) -> None:
        """Let its connection go."""
        self._client.close()

    def tell(self, monotonic_s: float) -> int:
        """Post what is due; how many were taken."""
        if monotonic_s < self._again_at:
            return 0
        told, began = 0, monotonic()
        with open_autocommit(self._engine) as tx:
            for finding, is_new in look_rows.untold(tx, TOLD_MAX):
                why = self._post(finding, is_new=is_new)
                if why is not None:
                    pause_s = self._backoff.extend(monotonic_s)
                    self._again_at = monotonic_s + pause_s
                    _log.warning("webhook.refused", why=why, again_in_s=round(pause_s, 1))
                    break
                look_rows.note_told(tx, [finding])
                told += 1
                if monotonic() - began > TELL_S:
                    break
            else:
                self._backoff.reset()
        return told

    def _post(self, finding: SeenFinding, *, is_new: bool) -> str | None:
        """None: it was taken; else why not, without the address."""
        body = event_of(finding, is_new=is_new)
        with WholeAnswer(TIMEOUT_S, self._client.close) as whole:
            try:
                answer = self._client.post(
                    self._url, content=body, headers={"content-type": STRUCTURED_TYPE}
                )
            except Exception as error:  # noqa: BLE001 - whatever answers there, looks go on
                return "no whole answer" if whole.is_late else type(error).__name__
            finally:
                if whole.is_late:
                    self._client = _opened()
        if 400 <= answer.status_code < 500 and answer.status_code not in _LATER:
            _log.error("webhook.lost", id=finding.finding.id, status=answer.status_code)
            return None  # it will never take this one, and the others must not wait for it
        return None if answer.is_success else f"status {answer.status_code}"


def _opened() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)


def event_of(seen: SeenFinding, *, is_new: bool) -> bytes:
    """The CloudEvent that tells of it, in the JSON format."""
    moment = seen.appeared_at if is_new or seen.gone_at is None else seen.gone_at
    what = "appeared" if is_new else "gone"
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": f"{seen.key}-{what}-{moment.timestamp():.6f}",
            "source": SOURCE,
            "type": f"veltrix.finding.{what}",
            "time": moment.isoformat(),
            "datacontenttype": "application/json",
            "data": seen.finding,
        }
    )


@contextmanager
def opened(engine: Engine, url: str | None, monotonic_s: float) -> Iterator[Webhook | None]:
    """The webhook, closed in the end; None where there is none."""
    if url is None:
        yield None
        return
    webhook = Webhook(engine, url, monotonic_s)
    try:
        yield webhook
    finally:
        webhook.close()
