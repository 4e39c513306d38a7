"""The backend that is an api over HTTP: what can be looked at, with a key."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

import msgspec

from veltrix.client.decoding import decoded
from veltrix.client.errors import ApiRefused, ApiStrange
from veltrix.client.transport import Transport

if TYPE_CHECKING:
    from veltrix.access.audit import AuditEntry, AuditFilter, AuditPage, AuditRow
    from veltrix.operations.books.books import Balance
    from veltrix.operations.failures.read import GroupFilter, GroupPage, GroupStory, Order
    from veltrix.operations.replays.read import ReplayPage, ReplayStory
    from veltrix.operations.replays.rules import ReplayState
    from veltrix.operations.retention.plan import RetentionPlan
    from veltrix.operations.retention.policies import RetentionStanding
    from veltrix.operations.retention.rules import RetentionPolicy
    from veltrix.operations.runs.query import RunQuery
    from veltrix.operations.runs.read import RunPage
    from veltrix.operations.runs.read_events import EventFilter, EventPage, EventStory
    from veltrix.operations.runs.read_story import RunStory
    from veltrix.pipeline.relay.queue_rows import Unserved
    from veltrix.pipeline.relay.read_dead_letters import LetterRow, LetterStory
    from veltrix.releases.read import WorkflowStanding

T = TypeVar("T")
_PAGE_MAX = 200  # as the api has it


class HttpReads:
    """Answers the questions of `backend.port.Reads` by asking an api. Raises ApiError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def now(self) -> datetime:
        """The time of the api's database, as its books are of."""
        return self.balance(0, 0).as_of

    def balance(self, by: int, skip: int) -> "Balance":
        """The books at one moment."""
        from veltrix.operations.books.books import Balance

        return self.read(Balance, "/v1/balance", {"by": by, "skip": skip})

    def unserved(self) -> "list[Unserved]":
        """Queues with open runs and no worker."""
        from veltrix.pipeline.relay.queue_rows import Unserved

        return self.read(dict[str, list[Unserved]], "/v1/queues/unserved")["queues"]

    def workflows(self) -> "list[WorkflowStanding]":
        """What can be started."""
        from veltrix.releases.read import WorkflowStanding

        found = self.read(dict[str, list[dict[str, Any]]], "/v1/workflows")["workflows"]
        return [
            msgspec.convert({"workflow": row["name"], **row}, WorkflowStanding) for row in found
        ]

    def runs(self, wanted: "RunQuery", cursor: str | None, limit: int) -> "RunPage":
        """A page of runs."""
        from veltrix.operations.runs.read import RunPage

        return self._page(RunPage, "/v1/runs", given_by(wanted), cursor, limit)

    def run(self, run_id: str) -> "RunStory | None":
        """The story of a run, of one moment."""
        from veltrix.operations.runs.read_story import RunStory

        return self._find(RunStory, f"/v1/runs/{word(run_id)}")

    def events(self, wanted: "EventFilter", cursor: str | None, limit: int) -> "EventPage":
        """A page of events."""
        from veltrix.operations.runs.read_events import EventPage

        return self._page(EventPage, "/v1/events", given_by(wanted), cursor, limit)

    def event(self, event_id: str, source: str | None) -> "EventStory | None":
        """An event, of one moment."""
        from veltrix.operations.runs.read_events import EventStory

        if source is None:
            return self._find(EventStory, f"/v1/events/{word(event_id)}")
        return self._find(EventStory, "/v1/events", {"source": source, "id": event_id})

    def letters(self, after: int, limit: int, *, unseen: bool) -> "list[LetterRow]":
        """Dead letters without what they hold."""
        from veltrix.pipeline.relay.read_dead_letters import LetterPage

        asked = {"unseen": unseen}
        return self._page(LetterPage, "/v1/dead-letters", asked, str(after), limit).items

    def whole_letters(self, after: int, limit: int, *, unseen: bool) -> "list[LetterStory]":
        """Dead letters with all that they hold: a request for each."""
        rows = self.letters(after, limit, unseen=unseen)
        found = [self.letter(row.id) for row in rows]
        return [one for one in found if one is not None]

    def letter(self, letter_id: int) -> "LetterStory | None":
        """One dead letter."""
        from veltrix.pipeline.relay.read_dead_letters import LetterStory

        return self._find(LetterStory, f"/v1/dead-letters/{letter_id}")

    def groups(
        self, wanted: "GroupFilter", order: "Order", cursor: str | None, limit: int
    ) -> "GroupPage":
        """A page of failure groups."""
        from veltrix.operations.failures.read import GroupPage

        asked = given_by(wanted)
        asked |= {"state": asked.pop("states"), "empty": asked.pop("is_empty"), "order": order}
        return self._page(GroupPage, "/v1/failures", asked, cursor, limit)

    def group(self, group_id: str) -> "GroupStory | None":
        """A failure group, of one moment."""
        from veltrix.operations.failures.read import GroupStory

        return self._find(GroupStory, f"/v1/failures/{word(group_id)}")

    def audit(self, wanted: "AuditFilter", cursor: int | None, limit: int) -> "AuditPage":
        """A page of the audit."""
        from veltrix.access.audit import AuditPage

        asked = given_by(wanted)
        for name, query in (("author", "by"), ("is_refused", "refused")):
            if name in asked:
                asked[query] = asked.pop(name)
        after = None if cursor is None else str(cursor)
        return self._page(AuditPage, "/v1/audit", asked, after, limit)

    def audit_entry(self, entry_id: int) -> "AuditEntry | None":
        """One entry of the audit."""
        from veltrix.access.audit import AuditEntry

        return self._find(AuditEntry, f"/v1/audit/{entry_id}")

    def newest_entries(self, limit: int) -> list[int]:
        """The last ids of the audit."""
        from veltrix.access.audit import AuditFilter

        return [row.id for row in self.audit(AuditFilter(), None, limit).items]

    def later_entries(self, behind: int, known: Sequence[int]) -> "list[AuditRow]":
        """What the audit has beyond: rows of its chain are committed in the order of their ids."""
        from veltrix.access.audit import AuditFilter

        last, found, cursor = max(known, default=behind), list[Any](), None
        while True:
            page = self.audit(AuditFilter(), cursor, _PAGE_MAX)
            found += [row for row in page.items if row.id > last]
            if page.next is None or any(row.id <= last for row in page.items):
                return found[::-1]
            cursor = int(page.next)

    def replays(self, state: "ReplayState | None", cursor: str | None, limit: int) -> "ReplayPage":
        """A page of replays."""
        from veltrix.operations.replays.read import ReplayPage

        asked = {} if state is None else {"state": state.value}
        return self._page(ReplayPage, "/v1/replays", asked, cursor, limit)

    def replay(self, replay_id: str) -> "ReplayStory | None":
        """One replay."""
        from veltrix.operations.replays.read import ReplayStory

        return self._find(ReplayStory, f"/v1/replays/{word(replay_id)}")

    def read(self, type_: type[T], path: str, asked: Mapping[str, Any] | None = None) -> T:
        """The answer to a GET, as this type. Raises ApiStrange for what is none."""
        params = {name: _query(value) for name, value in (asked or {}).items()}
        return answer_as(type_, self._transport.call("GET", path, params=params).body, path)

    def _find(self, type_: type[T], path: str, asked: Mapping[str, Any] | None = None) -> T | None:
        try:
            return self.read(type_, path, asked)
        except ApiRefused as refused:
            if refused.status == 404 and refused.slug == "not-found":
                return None
            raise

    def _page(
        self, type_: type[T], path: str, asked: Mapping[str, Any], cursor: str | None, limit: int
    ) -> T:
        """One page of up to `limit`, of as many as the api needs for it."""
        items: list[Any] = []
        made: Any = type_
        while True:
            wanted = min(_PAGE_MAX, limit - len(items))
            more = {} if cursor is None else {"cursor": cursor}
            page: Any = self.read(type_, path, {**asked, **more, "limit": wanted})
            items += page.items
            cursor = page.next
            if cursor is None or len(page.items) < wanted or len(items) >= limit:
                return cast("T", made(items, cursor))

    def retention(self) -> "RetentionStanding":
        """The policies, of one moment."""
        from veltrix.operations.retention.policies import RetentionStanding

        return self.read(RetentionStanding, "/v1/retention")

    def retention_plan(
        self, proposed: "Sequence[RetentionPolicy]", cursor: str | None
    ) -> "RetentionPlan":
        """A page of the plan, in one request."""
        from veltrix.operations.retention.plan import RetentionPlan
        from veltrix.operations.retention.rules import PolicyRefused

        path = "/v1/retention/preview"
        body = msgspec.json.encode({"policies": proposed, "cursor": cursor})
        headers = {"content-type": "application/json"}
        try:
            answer = self._transport.call("POST", path, body=body, headers=headers)
        except ApiRefused as refused:
            if refused.slug == "invalid-policy":
                raise PolicyRefused(refused.detail) from None
            raise
        return answer_as(RetentionPlan, answer.body, path)


def answer_as(type_: type[T], body: bytes, path: str) -> T:
    """The answer as this type. Raises ApiStrange."""
    try:
        return decoded(type_, body)
    except msgspec.MsgspecError as error:
        raise ApiStrange(
            f"the answer to {path} is none of this release ({error}); is the api of another one?"
        ) from None


def given_by(wanted: msgspec.Struct) -> dict[str, Any]:
    """The conditions of a filter by name, without those that it leaves out."""
    values: dict[str, Any] = msgspec.to_builtins(wanted)
    return {name: value for name, value in values.items() if value is not None}


def _query(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def word(text: str) -> str:
    """The text as a part of a path."""
    return quote(text, safe="")
