"""The case: the workload's record and the evidence, brought together for the checker.

Nothing here asks the code under test. An answer of 5xx or 429, and no answer, leave open whether
the event was taken: the ledger may have it, and then it has to be right.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from app.prove.blows import Blow
from app.prove.evidence import Begin, Entry, Evidence, StoredEvent, StoredRun
from app.prove.record import Asked, Line, Replayed, Replaying, Told
from app.prove.witness import Move


class Case:
    """Sets and maps by the sender's id, the run and the step."""

    def __init__(
        self,
        record: Iterable[Line],
        evidence: Evidence,
        blows: list[Blow],
    ) -> None:
        self.evidence, self.blows = evidence, blows
        self.replayed: dict[str, int] = {}  # run -> the generation that was told
        self.replaying: set[str] = set()
        self.sent: dict[str, set[str]] = defaultdict(set)
        self.flawed: set[str] = set()
        self.accepted: dict[tuple[str, str], set[str]] = defaultdict(set)  # event ids
        self.firsts: Counter[str] = Counter()  # receipts that call the event new
        self.refused: set[tuple[str, str]] = set()
        self.doubtful: set[tuple[str, str]] = set()
        self.receipts = self.refusals = self.doubts = 0
        self._read(record)
        self.by_sender: dict[str, list[StoredEvent]] = defaultdict(list)
        for event in evidence.events:
            self.by_sender[event.sender_id].append(event)
        self.runs_of: dict[str, list[StoredRun]] = defaultdict(list)
        self.run: dict[str, StoredRun] = {}
        for run in evidence.runs:
            self.runs_of[run.event_id].append(run)
            self.run[run.run_id] = run
        self.entries_of: dict[str, list[Entry]] = defaultdict(list)
        for entry in evidence.entries:
            self.entries_of[entry.run_id].append(entry)
        self.begins_of: dict[str, list[Begin]] = defaultdict(list)
        for begin in evidence.begins:
            self.begins_of[begin.run_id].append(begin)
        self.moves_of: dict[str, list[Move]] = defaultdict(list)
        for move in evidence.moves:
            self.moves_of[move.run_id].append(move)

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
            elif isinstance(line, Told):
                self._answer(waiting.pop(line.request), line)
            elif isinstance(line, Replaying):
                self.replaying.add(line.run_id)
            elif isinstance(line, Replayed) and line.generation is not None:
                self.replayed[line.run_id] = line.generation
        for asked in waiting.values():
            self.doubts += len(asked.ids)
            self.doubtful.update(zip(asked.ids, asked.digests, strict=True))

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
        for move in self.moves_of.get(run_id, ()):
            if move.at > at:
                break
            found = max(found, move.generation)
        return found
