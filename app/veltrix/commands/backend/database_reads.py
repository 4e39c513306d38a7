"""The backend that is the platform's own database: what can be looked at.

Each question imports what it needs: a command starts quickly, and none needs all of it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine

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


class DatabaseReads:
    """Answers the questions of `backend.port.Reads` by looking into the database."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def now(self) -> datetime:
        """The database's time."""
        from veltrix.pipeline.accept.ledger_rows import unix_s
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return datetime.fromtimestamp(unix_s(tx), UTC)

    def balance(self, by: int, skip: int) -> "Balance":
        """The books at one moment."""
        from veltrix.operations.books.books import balance

        return balance(self._engine, by, skip)

    def unserved(self) -> "list[Unserved]":
        """Queues with open runs and no worker."""
        from veltrix.pipeline.relay.queue_rows import unserved
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return unserved(tx)

    def workflows(self) -> "list[WorkflowStanding]":
        """What can be started."""
        from veltrix.releases.read import standing
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return standing(tx)

    def runs(self, wanted: "RunQuery", cursor: str | None, limit: int) -> "RunPage":
        """A page of runs."""
        from veltrix.operations.runs.read import page
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return page(tx, wanted, cursor=cursor, limit=limit)

    def run(self, run_id: str) -> "RunStory | None":
        """The story of a run, of one moment."""
        from veltrix.operations.runs.read_story import story
        from veltrix.store.transactions import transaction

        with transaction(self._engine, snapshot=True) as tx:
            return story(tx, run_id)

    def events(self, wanted: "EventFilter", cursor: str | None, limit: int) -> "EventPage":
        """A page of events."""
        from veltrix.operations.runs.read_events import page
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return page(tx, wanted, cursor=cursor, limit=limit)

    def event(self, event_id: str, source: str | None) -> "EventStory | None":
        """An event, of one moment."""
        from veltrix.operations.runs.read_events import find, find_by_identity
        from veltrix.store.transactions import transaction

        with transaction(self._engine, snapshot=True) as tx:
            return find(tx, event_id) if source is None else find_by_identity(tx, source, event_id)

    def letters(self, after: int, limit: int, *, unseen: bool) -> "list[LetterRow]":
        """Dead letters without what they hold."""
        from veltrix.pipeline.relay.read_dead_letters import page
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return page(tx, after=after, limit=limit, unseen_only=unseen).items

    def whole_letters(self, after: int, limit: int, *, unseen: bool) -> "list[LetterStory]":
        """Dead letters with all that they hold."""
        from veltrix.pipeline.relay.read_dead_letters import stories
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return stories(tx, after=after, limit=limit, unseen_only=unseen)

    def letter(self, letter_id: int) -> "LetterStory | None":
        """One dead letter."""
        from veltrix.pipeline.relay.read_dead_letters import find
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return find(tx, letter_id)

    def groups(
        self, wanted: "GroupFilter", order: "Order", cursor: str | None, limit: int
    ) -> "GroupPage":
        """A page of failure groups."""
        from veltrix.operations.failures.read import page
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return page(tx, wanted, order, cursor=cursor, limit=limit)

    def group(self, group_id: str) -> "GroupStory | None":
        """A failure group, of one moment."""
        from veltrix.operations.failures.read import story
        from veltrix.store.transactions import transaction

        with transaction(self._engine, snapshot=True) as tx:
            return story(tx, group_id)

    def audit(self, wanted: "AuditFilter", cursor: int | None, limit: int) -> "AuditPage":
        """A page of the audit."""
        from veltrix.access.audit import page
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return page(tx, wanted, cursor=cursor, limit=limit)

    def audit_entry(self, entry_id: int) -> "AuditEntry | None":
        """One entry of the audit."""
        from veltrix.access.audit import entry
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return entry(tx, entry_id)

    def newest_entries(self, limit: int) -> list[int]:
        """The last ids of the audit."""
        from veltrix.access.audit import newest_ids
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return newest_ids(tx, limit)

    def later_entries(self, behind: int, known: Sequence[int]) -> "list[AuditRow]":
        """What the audit has beyond."""
        from veltrix.access.audit import later
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return later(tx, behind, known)

    def replays(self, state: "ReplayState | None", cursor: str | None, limit: int) -> "ReplayPage":
        """A page of replays."""
        from veltrix.operations.replays.read import page
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return page(tx, state=state, cursor=cursor, limit=limit)

    def replay(self, replay_id: str) -> "ReplayStory | None":
        """One replay."""
        from veltrix.operations.replays.read import find
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return find(tx, replay_id)

    def retention(self) -> "RetentionStanding":
        """The policies, of one moment."""
        from veltrix.operations.retention.policies import standing
        from veltrix.store.transactions import open_autocommit

        with open_autocommit(self._engine) as tx:
            return standing(tx)

    def retention_plan(
        self, proposed: "Sequence[RetentionPolicy]", cursor: str | None
    ) -> "RetentionPlan":
        """A page of the plan."""
        from veltrix.operations.retention.plan import plan

        return plan(self._engine, proposed, cursor=None if cursor is None else int(cursor))
