"""What came as claimed: which runs of a list a child begins without asking (decision 42).

Whoever receives their message first may, in the first half of their hold, by the database's clock
as this process last heard it. In doubt of any of that they are claimed, as all others are.
"""

from collections.abc import Callable, Container
from datetime import UTC, datetime
from hmac import compare_digest
from uuid import UUID

import msgspec

from veltrix import telemetry
from veltrix.broker.handed import Handed, HandedEvent, events_of, unpack
from veltrix.domain.events import CANARY_WORKFLOW
from veltrix.domain.ids import event_id_of
from veltrix.pipeline.clock import DatabaseClock
from veltrix.pipeline.execute.lease_rows import Claim
from veltrix.worker.jobs import ListJob

CLOCK_AGE_S_MAX = 60.0  # since the database last said what time it is
AHEAD_MS_MAX = 1_000  # a clock that was read by others may be ahead of ours by so much
KEY_AGAIN_S = 10.0  # between two looks at the key, after a signature that it does not fit


class Sorted(msgspec.Struct):
    """A list: what is `begun` at once, and what is to be claimed (`rest`), naming `told`.

    `tokens` are on the runs that are begun, which were given them `age_s` ago at most.
    """

    begun: list[Claim] = []
    tokens: list[str] = []
    rest: list[tuple[str, str]] = []
    told: list[str] = []
    age_s: float = 0.0


class Handing:
    """Of one child, for its main thread. `read_key` asks the ledger for its key.

    `connections` counts those by which it was asked: another one may be to another server.
    """

    def __init__(
        self,
        clock: DatabaseClock,
        read_key: Callable[[], bytes | None],
        connections: Callable[[], int],
        workflows: Container[str],
        hold_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._clock, self._read_key, self._connections = clock, read_key, connections
        self._workflows, self._hold_s, self._monotonic = workflows, hold_s, monotonic
        self._heard_at = self._key_at = -1e9
        self._heard_by = 0
        self._key: bytes | None = None

    def heard(self, asked: float, database_s: float) -> None:
        """The database, asked at that monotonic moment, said what time it is."""
        connection = self._connections()
        if connection != self._heard_by:
            self._clock.forget()
            self._heard_by = connection
        self._heard_at = self._monotonic()
        self._clock.learn(asked, database_s, self._heard_at)

    def sort(self, job: ListJob) -> Sorted:
        """What of this list is begun at once."""
        if not job.handed:
            return Sorted(rest=job.deliveries)
        found = Sorted()
        opened = {delivery_id: self._open(raw, found) for delivery_id, raw in job.handed.items()}
        plain = set(job.plain)
        now = datetime.fromtimestamp(self._now_ms() / 1000, UTC) if found.tokens else None
        for run_id, delivery_id in job.deliveries:
            of_message = opened.get(delivery_id)
            event = None
            if of_message is not None and now is not None and run_id not in plain:
                event = of_message[1].get(run_id)
            if event is None or of_message is None or now is None:
                found.rest.append((run_id, delivery_id))
            else:
                found.begun.append(_claim_of(event, of_message[0], delivery_id, now))
        return found

    def _open(self, raw: bytes, found: Sorted) -> tuple[Handed, dict[str, HandedEvent]] | None:
        """What a message carries, if its runs may be begun; its token goes where it belongs."""
        try:
            handed = unpack(raw)
            UUID(handed.token)
            found.told.append(handed.token)
            # The key may have to be asked for, which may take any time: the time is looked at last.
            is_usable = self._is_known(handed) and self._is_ours(handed)
            events = {one.run_id: one for one in events_of(handed)} if is_usable else {}
        except (msgspec.MsgspecError, UnicodeError, ValueError):
            telemetry.logger("worker").warning("handed.unreadable")
            return None
        if not events or not self._is_in_time(handed):
            return None
        found.tokens.append(handed.token)
        age_s = (self._now_ms() - handed.until_ms) / 1000 + self._hold_s / 2
        found.age_s = max(found.age_s, age_s)
        return handed, events

    def _is_known(self, handed: Handed) -> bool:
        return handed.workflow in self._workflows or handed.workflow == CANARY_WORKFLOW

    def _now_ms(self) -> int:
        """The database's time, rather later than earlier."""
        return self._clock.unix_ms()

    def _is_in_time(self, handed: Handed) -> bool:
        """The clock is known, and the first half of the hold is not over by it."""
        if (
            not self._clock.is_known
            or self._clock.has_jumped
            or self._connections() != self._heard_by
            or self._monotonic() - self._heard_at > CLOCK_AGE_S_MAX
        ):
            return False
        left_ms = handed.until_ms - self._now_ms()
        return 0 < left_ms <= self._hold_s * 500 + AHEAD_MS_MAX

    def _is_ours(self, handed: Handed) -> bool:
        """An api of this very ledger made the message."""
        for _ in range(2):
            if self._key is not None and compare_digest(handed.signed(self._key), handed.signature):
                return True
            if self._monotonic() - self._key_at < KEY_AGAIN_S:
                break
            self._key, self._key_at = self._read_key(), self._monotonic()
        return False


def _claim_of(event: HandedEvent, handed: Handed, delivery_id: str, now: datetime) -> Claim:
    """As the claim of the run would have been."""
    accepted_at = event.accepted_at
    return Claim(
        run_id=event.run_id,
        workflow=handed.workflow,
        queue=handed.queue,
        generation=0,
        attempt=1,
        alone=False,
        crashes=0,
        code_version=None,
        key=None,
        is_cancel_requested=False,
        started_at=accepted_at,
        first_claimed_at=now,
        now=now,
        event_id=event_id_of(event.run_id),
        source=event.source,
        sender_id=event.id,
        type=event.type,
        subject=event.subject,
        time=event.time,
        datacontenttype=event.datacontenttype,
        dataschema=event.dataschema,
        data=event.data_text,
        data_binary=None,
        extensions=event.extensions_text,
        traceparent=event.traceparent,
        accepted_at=accepted_at,
        handed_by=delivery_id,
    )
