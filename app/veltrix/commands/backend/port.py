"""What the commands of operators ask of a platform: the port, and nothing of how it is answered.

Both backends give the same values, so a command prints the same whichever answers it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from veltrix.domain.states import ReplayMode

if TYPE_CHECKING:
    from veltrix.access.audit import AuditEntry, AuditFilter, AuditPage, AuditRow
    from veltrix.operations.books.books import Balance
    from veltrix.operations.failures.read import GroupFilter, GroupPage, GroupStory, Order
    from veltrix.operations.failures.triage import Moved, Noted, NotMoved
    from veltrix.operations.replays.move import NotReplayed, Replayed
    from veltrix.operations.replays.patch import Patch
    from veltrix.operations.replays.plan import EditedNow
    from veltrix.operations.replays.read import ReplayPage, ReplayStory
    from veltrix.operations.replays.rules import ReplayState, Verb
    from veltrix.operations.retention.plan import RetentionPlan
    from veltrix.operations.retention.policies import RetentionStanding, SetPolicy
    from veltrix.operations.retention.rules import RetentionPolicy
    from veltrix.operations.runs.bulk import BulkAction, BulkRequest, Done, NotDone
    from veltrix.operations.runs.cancel import Cancelled, CancelRequested, NotCancelled
    from veltrix.operations.runs.query import RunQuery
    from veltrix.operations.runs.read import RunPage
    from veltrix.operations.runs.read_events import EventFilter, EventPage, EventStory
    from veltrix.operations.runs.read_story import RunStory
    from veltrix.pipeline.relay.queue_rows import Unserved
    from veltrix.pipeline.relay.read_dead_letters import LetterRow, LetterStory
    from veltrix.releases.read import WorkflowStanding


Decision = Literal["resolve", "ignore", "reopen"]


class PlanWanted(NamedTuple):
    """A replay as it is planned. `rate` None, `stop_share` UNSET: as is usual there.

    `mode` None: from the beginning where there is a patch, else from the failed step.
    """

    wanted: "RunQuery"
    reason: str
    is_all: bool = False
    mode: "ReplayMode | None" = None
    rate: float | None = None
    canary: int = 0
    stop_share: "float | UnsetType | None" = UNSET
    patch: "Patch | None" = None


class Editable(NamedTuple):
    """A run that may be edited, and a tag that changes when anybody acts on it.

    `data` is the JSON text of its payload; None: it has none, or it was not asked for.
    """

    tag: str
    is_failed: bool
    is_binary: bool = False
    data: str | None = None


class SeenLetters(msgspec.Struct, frozen=True):
    """So many letters nobody had marked before; by whom they are now."""

    marked: int
    by: str


class Reads(Protocol):
    """What can be looked at. Pages go on after `cursor`, which is what an earlier one gave."""

    def now(self) -> datetime:
        """The database's time, for what people write as so long ago."""

    def balance(self, by: int, skip: int) -> "Balance":
        """The books, with the `by` worst accounts after the first `skip`."""

    def unserved(self) -> "list[Unserved]":
        """The queues with open runs that no worker serves, by name."""

    def workflows(self) -> "list[WorkflowStanding]":
        """Every workflow that can be started, by name."""

    def runs(self, wanted: "RunQuery", cursor: str | None, limit: int) -> "RunPage":
        """Runs, newest first."""

    def run(self, run_id: str) -> "RunStory | None":
        """The whole story of a run; None: there is no such run."""

    def events(self, wanted: "EventFilter", cursor: str | None, limit: int) -> "EventPage":
        """Accepted events, newest first."""

    def event(self, event_id: str, source: str | None) -> "EventStory | None":
        """The event of this id of ours; with a source, of this id of its sender's; None: none."""

    def letters(self, after: int, limit: int, *, unseen: bool) -> "list[LetterRow]":
        """Dead letters with an id above `after`, oldest first."""

    def whole_letters(self, after: int, limit: int, *, unseen: bool) -> "list[LetterStory]":
        """The same with their headers and bodies."""

    def letter(self, letter_id: int) -> "LetterStory | None":
        """A dead letter with its headers and body; None: there is none."""

    def groups(
        self, wanted: "GroupFilter", order: "Order", cursor: str | None, limit: int
    ) -> "GroupPage":
        """Failure groups, in this order."""

    def group(self, group_id: str) -> "GroupStory | None":
        """A failure group with its samples; None: there is no such group."""

    def audit(self, wanted: "AuditFilter", cursor: int | None, limit: int) -> "AuditPage":
        """Entries of the audit, newest first."""

    def audit_entry(self, entry_id: int) -> "AuditEntry | None":
        """An entry of the audit with its runs; None: there is none."""

    def newest_entries(self, limit: int) -> list[int]:
        """The ids of the last entries of the audit, newest first."""

    def later_entries(self, behind: int, known: "Sequence[int]") -> "list[AuditRow]":
        """The entries beyond `behind` but those that are known, oldest first."""

    def replays(self, state: "ReplayState | None", cursor: str | None, limit: int) -> "ReplayPage":
        """Replays, newest first."""

    def replay(self, replay_id: str) -> "ReplayStory | None":
        """A replay as it is now; None: there is none."""

    def retention(self) -> "RetentionStanding":
        """The policies in force, and the usual ones."""

    def retention_plan(
        self, proposed: "Sequence[RetentionPolicy]", cursor: str | None
    ) -> "RetentionPlan":
        """A page of what policies would let go. Raises PolicyRefused."""


class Acts(Protocol):
    """What can be done. Who does it is known to the backend; refusals are values, or ReplayRefused.

    In a database each is audited beside its effect; an api does that for the key it is called with.
    """

    def replay_runs(
        self, ids: Sequence[str], mode: "ReplayMode", reason: str
    ) -> "Sequence[Replayed | NotReplayed]":
        """Each of up to 1,000 runs that is failed runs again; each run's answer, by id."""

    def cancel_runs(
        self, ids: Sequence[str], reason: str
    ) -> "Sequence[Cancelled | CancelRequested | NotCancelled]":
        """Each of up to 1,000 runs that is open is cancelled; each run's answer, by id."""

    def count(self, action: "BulkAction", wanted: "RunQuery") -> int:
        """To how many runs it can be done now; 0: to none, or to more than at once."""

    def act(self, request: "BulkRequest") -> "Done | NotDone":
        """Done to all of these runs, or to none. Their author is not looked at."""

    def plan(self, planned: PlanWanted) -> "ReplayStory":
        """A new replay, not started. Raises ReplayRefused."""

    def turn(self, replay_id: str, verb: "Verb", reason: str) -> "ReplayStory":
        """A replay that is started, paused, resumed or aborted. Raises ReplayRefused."""

    def editable(self, run_id: str, *, with_payload: bool) -> Editable | None:
        """A run that is to be edited; None: there is no such run."""

    def edit(self, run_id: str, payload: str, tag: str, reason: str) -> "EditedNow":
        """A failed run runs again as a new one with this JSON text. Raises ReplayRefused."""

    def decide(
        self, verb: Decision, group_id: str, reason: str, version: str | None = None
    ) -> "Moved | NotMoved":
        """A failure group is resolved, ignored or open again."""

    def note(self, group_id: str, text: str) -> "Noted | NotMoved":
        """A note beside a failure group."""

    def see(self, ids: Sequence[int], reason: str) -> SeenLetters:
        """Up to 1,000 dead letters are marked as seen."""

    def set_retention(
        self, policies: "Sequence[RetentionPolicy]", reason: str
    ) -> "list[SetPolicy]":
        """These policies are in force, beside those that were. Raises PolicyRefused."""


class Backend(Reads, Acts, Protocol):
    """A platform, as the commands of operators reach it."""
