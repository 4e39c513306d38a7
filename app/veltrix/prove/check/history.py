"""The case: the workload's record and the evidence, brought together for the checker.

Nothing here asks the code under test. An answer of 5xx or 429, and no answer, leave open whether
the event was taken: the ledger may have it, and then it has to be right.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from veltrix.prove.check.evidence import Begin, CheckedEvidence, JournalRow, StoredEvent, StoredRun
from veltrix.prove.check.handed import HANDED, with_hand_overs
from veltrix.prove.deployment.witness import Move
from veltrix.prove.faults.injections import Blow
from veltrix.prove.load.record import (
    Archived,
    Asked,
    Cancelling,
    Edited,
    Line,
    NotedCancel,
    NotedPlan,
    NotedReplay,
    NotedReplaying,
    Told,
)

_LOST_S = 1.0  # that a commit may take to reach the disk when nobody waits for it
_UNANSWERED_S = 20.0  # in which a request that has no answer may still be taken


class Case:
    """Sets and maps by the sender's id, the run and the step."""

    def __init__(
        self,
        record: Iterable[Line],
        evidence: CheckedEvidence,
        blows: list[Blow],
        *,
        committed: Collection[tuple[int, str, str]] = (),
        slack: float = 1.0,
        hold_s: float = 8.0,
    ) -> None:
        self.evidence, self.blows = evidence, blows
        self.committed = set(committed)  # (seq, run, transaction) seen while it went on
        self.slack, self.hold_s = slack, hold_s
        self.windows = [
            (blow.since or blow.at, blow.recovered_at or blow.healed_at + blow.target_s)
            for blow in blows
            if blow.at and not blow.is_harmless
        ]
        deployed = sorted(one for blow in blows for one in blow.releases)
        self.releases = [("a", 0.0, 0.0), *sorted(deployed, key=lambda one: one[1])]
        # By sender's id and content: from when until when somebody asked for it.
        self.asked_at: dict[tuple[str, str], tuple[float, float]] = {}
        self.replayed: dict[str, int] = {}  # run -> the generation that was told
        self.replaying: set[str] = set()
        self.planned: dict[str, int] = {}  # run -> its generation before
        self.archived: set[str] = set()
        self.edited: dict[str, str] = {}  # the new run -> the one it was made of
        self.cancelling: set[str] = set()
        self.cancelled: dict[str, float] = {}  # run -> when it was told that it ends
        self.sent: dict[str, set[str]] = defaultdict(set)
        self.flawed: set[str] = set()
        self.accepted: dict[tuple[str, str], set[str]] = defaultdict(set)  # event ids
        self.firsts: Counter[str] = Counter()  # receipts that call the event new
        self.refused: set[tuple[str, str]] = set()
        self.doubtful: set[tuple[str, str]] = set()
        self.receipts = self.refusals = self.doubts = 0
        self._read(record)
        self._find(evidence)

    def _find(self, evidence: CheckedEvidence) -> None:
        self.by_sender: dict[str, list[StoredEvent]] = defaultdict(list)
        self.sender_of = {event.event_id: event.sender_id for event in evidence.events}
        accepted_at: dict[str, float] = {}
        for event in evidence.events:
            self.by_sender[event.sender_id].append(event)
            accepted_at[event.event_id] = event.accepted_at
        self.runs_of: dict[str, list[StoredRun]] = defaultdict(list)
        self.run: dict[str, StoredRun] = {}
        self.accepted_at: dict[str, float] = {}  # by run
        for run in evidence.runs:
            self.runs_of[run.event_id].append(run)
            self.run[run.run_id] = run
            if run.event_id in accepted_at:
                self.accepted_at[run.run_id] = accepted_at[run.event_id]
        self.entries_of: dict[str, list[JournalRow]] = defaultdict(list)
        for entry in evidence.entries:
            self.entries_of[entry.run_id].append(entry)
        self.begins_of: dict[str, list[Begin]] = defaultdict(list)
        for begin in evidence.begins:
            self.begins_of[begin.run_id].append(begin)
        # With what was begun as claimed, and by run: until when that was somebody's.
        self.moves = list(with_hand_overs(evidence.moves, self.begins_of))
        self.handed: dict[str, float] = {}
        self.moves_of: dict[str, list[Move]] = defaultdict(list)
        self._again: set[str] = set()  # runs of more than one generation
        for move in self.moves:
            before = self.moves_of[move.run_id]
            if len(before) == 1 and before[0].xid == HANDED:
                self.handed[move.run_id] = move.at
            before.append(move)
            if move.generation:
                self._again.add(move.run_id)

    def _read(self, record: Iterable[Line]) -> None:
        waiting: dict[int, Asked] = {}
        for line in record:
            if isinstance(line, Asked):
                waiting[line.request] = line
                for id_, digest, flaw in zip(line.ids, line.digests, line.flaws, strict=True):
                    if flaw:
                        self.flawed.add(id_)
                    else:
                        self.sent[id_].add(digest)
                        self._ask(id_, digest, line.at, line.at + _UNANSWERED_S)
            elif isinstance(line, Told):
                self._answer(waiting.pop(line.request), line)
            elif isinstance(line, NotedReplaying):
                self.replaying.add(line.run_id)
            elif isinstance(line, NotedReplay) and line.generation is not None:
                self.replayed[line.run_id] = line.generation
            elif isinstance(line, NotedPlan):
                self.planned.update(line.generations)
            elif isinstance(line, Edited):
                self.edited[line.new_run_id] = line.run_id
            elif isinstance(line, Archived):
                self.archived.update(line.run_ids)
            elif isinstance(line, Cancelling):
                self.cancelling.add(line.run_id)
            elif isinstance(line, NotedCancel) and line.state:
                self.cancelled[line.run_id] = line.at
        for asked in waiting.values():
            self.doubts += len(asked.ids)
            self.doubtful.update(zip(asked.ids, asked.digests, strict=True))

    def _ask(self, id_: str, digest: str, first: float, last: float) -> None:
        before = self.asked_at.get((id_, digest), (first, last))
        self.asked_at[id_, digest] = min(before[0], first), max(before[1], last)

    def is_forgotten(self, at: float) -> bool:
        """A claim of this moment may have been lost with the server it was made at."""
        return any(
            blow.at - _LOST_S <= at <= blow.healed_at for blow in self.blows if blow.is_forgetful
        )

    def is_struck(self, since: float, until: float) -> bool:
        """A fault was there, or was being recovered from, in this time."""
        return any(since <= last and until >= first for first, last in self.windows)

    def _answer(self, asked: Asked, told: Told) -> None:
        answers = zip(told.statuses, told.event_ids, told.duplicates, strict=True)
        for id_, digest, (status, event_id, is_duplicate) in zip(
            asked.ids, asked.digests, answers, strict=True
        ):
            if status == 202:
                self.receipts += 1
                self.firsts[id_] += not is_duplicate
                self.accepted[id_, digest].add(event_id or "")
            elif status >= 500 or status == 429:
                self.doubts += 1
                self.doubtful.add((id_, digest))
            else:
                self.refusals += 1
                self.refused.add((id_, digest))

    def generation_at(self, run_id: str, at: float) -> int:
        """The generation that a run was in at a moment."""
        found = 0
        if run_id not in self._again:
            return found
        for move in self.moves_of.get(run_id, ()):
            if move.at > at:
                break
            found = max(found, move.generation)
        return found
