"""One list of events on its way into the ledger: decided in memory, written in one statement.

Equal identities meet before the write, never in it (mechanics 9). What has been decided stays
decided when the connection dies, so the same list may be written again on another one: an event
that is found under the id it was given here is this list's own.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.broker.handed import may_travel, pack_event
from veltrix.domain.due import DueRun, Lease
from veltrix.domain.events import NewEvent
from veltrix.domain.ids import SUFFIX_HEX_LEN, EventIds, run_id, unix_ms_of, workflow_suffix
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.accept.accounts import Accounts
from veltrix.pipeline.accept.ledger_rows import (
    OVERFLOW_ACCOUNT,
    UNKNOWN_ACCOUNT,
    EventInsert,
    KnownEvent,
    RunStart,
)
from veltrix.pipeline.accept.new_rows import Inserting
from veltrix.pipeline.accept.receipts import (
    AcceptUnavailable,
    EventConflict,
    EventRefused,
    EventUnrouted,
    EventUnstorable,
    Receipt,
    StartedRun,
)
from veltrix.pipeline.accept.routing import Route, RoutingTable
from veltrix.store.transactions import is_bad_value, retry_transient
from veltrix.telemetry import logger

RETRY_AFTER_S = 1
_UTF8_MAX = 4  # bytes of a character

_log = logger("accept")

Answer = Receipt | EventRefused | AcceptUnavailable


class DirectStart(msgspec.Struct, frozen=True, gc=False):
    """The one workflow an event starts by name, after `delay_s`, instead of its subscribers."""

    workflow: str
    queue: str
    delay_s: float = 0.0


class Submission(msgspec.Struct, gc=False):
    """An event to accept, by whom. `start`: it starts this workflow and no other."""

    event: NewEvent
    created_by: str | None = None
    start: DirectStart | None = None


def bytes_of(submission: Submission) -> int:
    """About how much memory and network a submission takes, for the limits."""
    event = submission.event
    text = event.data_json
    # Of text that is not ASCII at most so many: to encode it takes longer than to be wrong.
    more = 0 if text is None or text.isascii() else _UTF8_MAX * len(text)
    return 500 + (more or event.payload_bytes) + len(event.extensions or "")


class AcceptList:
    """Submissions that are accepted together. Make it, `write` it, ask for `answers`."""

    def __init__(
        self,
        submissions: Sequence[Submission],
        routing: RoutingTable,
        new_ids: EventIds,
        unix_ms: int,
        take_credit: Callable[[str, int], int],
        *,
        inserting: Inserting,
        lease: Lease | None,
        handed_bytes_max: int,
        is_unrouted_refused: bool,
    ) -> None:
        self._submissions, self._new_ids, self._inserting = submissions, new_ids, inserting
        self._lease, self._handed_bytes_max = lease, handed_bytes_max
        self._by_identity: dict[tuple[str, str], EventInsert] = {}
        self._echoes: list[int] = []  # indexes of submissions whose identity came before
        first: dict[tuple[str, str], Submission] = {}
        for index, submission in enumerate(submissions):
            identity = (submission.event.source, submission.event.id)
            if first.setdefault(identity, submission) is not submission:
                self._echoes.append(index)
        identities = sorted(first)
        for identity, event_id in zip(
            identities, new_ids.make(unix_ms, len(identities)), strict=True
        ):
            submission = first[identity]
            self._by_identity[identity] = EventInsert(
                event_id, 0, submission.event, _starts(submission, event_id, routing)
            )
        self._undecided = list(self._by_identity.values())
        if is_unrouted_refused:
            self._undecided = [item for item in self._undecided if item.runs]
        self._is_unrouted_refused = is_unrouted_refused
        self._hint(take_credit)
        self._is_uncertain = False  # a connection died in a write: perhaps it was committed
        self._fresh: set[str] = set()
        self._known: dict[tuple[str, str], KnownEvent] = {}
        self._refused: dict[tuple[str, str], EventRefused] = {}

    def _hint(self, take_credit: Callable[[str, int], int]) -> None:
        """Give the queues' room to the first runs that may start now; as claimed, if they may."""
        items = self._undecided
        starts = [(run, item) for item in items for run in item.runs if run.delay_s == 0]
        wanted = Counter(run.queue for run, _ in starts)
        room = {queue: take_credit(queue, count) for queue, count in wanted.items()}
        for run, item in starts:
            if room[run.queue] > 0:
                room[run.queue] -= 1
                run.is_hinted = True
                run.is_handed = self._lease is not None and may_travel(
                    item.event, self._handed_bytes_max
                )

    def write(self, tx: Connection, accounts: Accounts, hold_s: float) -> None:
        """Commit all that can be stored. `tx` must be in autocommit: each statement is final.

        Raises what `is_away` recognises when the database goes away; `write` may then be called
        again with another connection.
        """
        if self._is_uncertain:  # what was found on a connection that died may be another's by now
            for item in self._by_identity.values():
                item.account_id = UNKNOWN_ACCOUNT
        while self._undecided:
            self._insert(tx, self._undecided, accounts, hold_s)
        others = [
            identity
            for identity, item in self._by_identity.items()
            if item.event_id not in self._fresh
            and identity not in self._refused
            and identity not in self._known
        ]
        if others:
            self._known.update(retry_transient(lambda: ledger_rows.known(tx, others)))

    def _insert(
        self,
        tx: Connection,
        items: list[EventInsert],
        accounts: Accounts,
        hold_s: float,
        draws: int = ledger_rows.DRAWS_MAX,
    ) -> None:
        """Insert `items` and strike them off, in halves where a value cannot be stored.

        One whose id is taken gets another, `draws` times at most.
        """
        try:
            ids = retry_transient(
                lambda: accounts.find(tx, {(i.event.source, i.event.type) for i in items})
            )
            for item in items:
                item.account_id = ids[item.event.source, item.event.type]
            fresh = retry_transient(
                lambda: self._inserting.insert(
                    tx,
                    items,
                    unix_ms_of(items[0].event_id),
                    hold_s,
                    None if self._lease is None else self._lease.token,
                    may_be_there=self._is_uncertain,
                )
            )
        except (DBAPIError, UnicodeError, OverflowError) as error:
            if not is_bad_value(error):
                self._is_uncertain = True
                raise
            if len(items) > 1:
                middle = len(items) // 2
                self._insert(tx, items[:middle], accounts, hold_s)
                self._insert(tx, items[middle:], accounts, hold_s)
                return
            if ledger_rows.is_id_taken(error):
                if draws > 0:
                    self._draw_again(items[0])
                    self._insert(tx, items, accounts, hold_s, draws - 1)
                    return
                _log.error(
                    "accept.ids_meet", draws=ledger_rows.DRAWS_MAX, event_id=items[0].event_id
                )
            else:
                self._refuse(items[0], error)
        else:
            self._fresh |= fresh
        decided = {item.event_id for item in items}
        self._undecided = [i for i in self._undecided if i.event_id not in decided]

    def _draw_again(self, item: EventInsert) -> None:
        _log.warning("accept.id_drawn_again", event_id=item.event_id)
        (item.event_id,) = self._new_ids.make(unix_ms_of(item.event_id), 1)
        for run in item.runs:
            run.id = run_id(item.event_id, run.id[-SUFFIX_HEX_LEN:])

    def _refuse(self, item: EventInsert, error: Exception) -> None:
        original = getattr(error, "orig", None) or error
        said = str(original).partition("\n")[0].encode("utf-8", "backslashreplace").decode()
        self._refused[item.identity] = EventUnstorable(
            f"PostgreSQL cannot store this event: {said[:200]}", *item.identity
        )

    def answers(self) -> list[Answer]:
        """A receipt, or the reason for there being none, per submission in their order."""
        echoes = set(self._echoes)
        return [
            self._answer(submission, index in echoes)
            for index, submission in enumerate(self._submissions)
        ]

    def _answer(self, submission: Submission, is_echo: bool) -> Answer:
        event = submission.event
        identity = (event.source, event.id)
        item = self._by_identity[identity]
        known = self._known.get(identity)
        if self._is_own(item):
            if is_echo and event.digest != item.event.digest:
                return EventConflict(event.source, event.id, item.event_id)
            runs = [StartedRun(run.id, run.workflow) for run in item.runs]
            return _receipt(event, item.event_id, runs, is_duplicate=is_echo)
        if known is not None:
            if known.digest not in (event.digest, event.digest_as_sent):
                return EventConflict(event.source, event.id, known.event_id)
            return _receipt(event, known.event_id, known.runs, is_duplicate=True)
        if is_echo and event.digest != item.event.digest:
            # The other event of this identity was not taken, so this one may be, when sent again.
            return unavailable("another event with this id was refused in the same moment")
        if identity in self._refused:
            return self._refused[identity]
        if self._is_unrouted_refused and not item.runs:
            return EventUnrouted(event.source, event.id, event.type)
        return unavailable("the event was not committed")

    @property
    def accepted(self) -> int:
        """How many events of this list are in the ledger because of it."""
        return sum(map(self._is_own, self._by_identity.values()))

    @property
    def overflowed(self) -> int:
        """How many of them are in the overflow account."""
        items = self._by_identity.values()
        return sum(i.account_id == OVERFLOW_ACCOUNT and self._is_own(i) for i in items)

    def hinted_runs(self) -> list[DueRun]:
        """The hinted runs of this list that were committed, or may have been.

        A message that names a run that is not there comes to nothing; a run that is there and that
        no message names waits until its hold ends, for its event is a duplicate from now on.
        """
        undecided = {item.event_id for item in self._undecided} if self._is_uncertain else ()
        runs: list[DueRun] = []
        for item in self._by_identity.values():
            is_own = self._is_own(item)
            if is_own or item.event_id in undecided:
                runs += [self._due(item, run, is_own=is_own) for run in item.runs if run.is_hinted]
        return runs

    def _due(self, item: EventInsert, run: RunStart, *, is_own: bool) -> DueRun:
        """As claimed, if it is; one that may not be in the ledger is begun by nobody unasked."""
        event, lease, packed = item.event, None, b""
        if run.is_handed and self._lease is not None:
            lease = self._lease if is_own else msgspec.structs.replace(self._lease, until_ms=0)
            packed = pack_event(run.id, event) if is_own else b""
        return DueRun(
            run.id,
            run.workflow,
            run.queue,
            event.payload_bytes,
            lease=lease,
            packed=packed,
        )

    def beside(self) -> dict[int, tuple[int, int]]:
        """By account: (duplicates, refused) to count beside the books; account 0 is "not known"."""
        if len(self._fresh) == len(self._submissions):
            return {}
        counts: dict[int, tuple[int, int]] = {}
        for submission, answer in zip(self._submissions, self.answers(), strict=True):
            is_refused = isinstance(answer, EventRefused)
            if is_refused or (isinstance(answer, Receipt) and answer.duplicate):
                account = self._by_identity[submission.event.source, submission.event.id].account_id
                duplicates, refused = counts.get(account, (0, 0))
                counts[account] = (duplicates + (not is_refused), refused + is_refused)
        return counts

    def _is_own(self, item: EventInsert) -> bool:
        if item.event_id in self._fresh:
            return True
        known = self._known.get(item.identity)
        return known is not None and known.event_id == item.event_id


def unavailable(why: str) -> AcceptUnavailable:
    """The answer that says: nothing was taken, try again soon."""
    return AcceptUnavailable(why, RETRY_AFTER_S)


def _receipt(
    event: NewEvent, event_id: str, runs: list[StartedRun], *, is_duplicate: bool
) -> Receipt:
    return Receipt(
        id=event.id, source=event.source, event=event_id, runs=runs, duplicate=is_duplicate
    )


def _starts(submission: Submission, event_id: str, routing: RoutingTable) -> list[RunStart]:
    if (start := submission.start) is not None:
        route = Route(start.workflow, start.queue, workflow_suffix(start.workflow))
        return [_start(event_id, route, submission.created_by, start.delay_s)]
    return [
        _start(event_id, route, submission.created_by)
        for route in routing.routes(submission.event.type)
    ]


def _start(event_id: str, route: Route, created_by: str | None, delay_s: float = 0.0) -> RunStart:
    assert len(route.suffix) == SUFFIX_HEX_LEN
    return RunStart(
        id=run_id(event_id, route.suffix),
        workflow=route.workflow,
        queue=route.queue,
        delay_s=delay_s,
        created_by=created_by,
    )
