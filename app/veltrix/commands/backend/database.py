"""The backend that is the platform's own database: what can be done, as the operator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from veltrix.commands.backend.database_reads import DatabaseReads
from veltrix.commands.backend.port import Decision, Editable, PlanWanted, SeenLetters
from veltrix.domain.states import ReplayMode

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from veltrix.operations.failures.triage import Moved, Noted, NotMoved
    from veltrix.operations.replays.move import NotReplayed, Replayed
    from veltrix.operations.replays.plan import EditedNow
    from veltrix.operations.replays.read import ReplayStory
    from veltrix.operations.replays.rules import Verb
    from veltrix.operations.retention.policies import SetPolicy
    from veltrix.operations.retention.rules import RetentionPolicy
    from veltrix.operations.runs.bulk import BulkAction, BulkRequest, Done, NotDone
    from veltrix.operations.runs.cancel import Cancelled, CancelRequested, NotCancelled
    from veltrix.operations.runs.query import RunQuery
    from veltrix.settings.fields import Settings


class DatabaseBackend(DatabaseReads):
    """Answers `backend.port.Backend` in the database, as `author`."""

    def __init__(self, engine: "Engine", settings: "Settings", author: str) -> None:
        super().__init__(engine)
        self._settings, self._author = settings, author

    def replay_runs(
        self, ids: Sequence[str], mode: "ReplayMode", reason: str
    ) -> "Sequence[Replayed | NotReplayed]":
        """In one transaction."""
        from veltrix.operations.replays.move import replay

        return replay(self._engine, ids, mode, reason, self._author)

    def cancel_runs(
        self, ids: Sequence[str], reason: str
    ) -> "Sequence[Cancelled | CancelRequested | NotCancelled]":
        """In one transaction."""
        from veltrix.operations.runs.cancel import cancel

        return cancel(self._engine, ids, reason, self._author)

    def count(self, action: "BulkAction", wanted: "RunQuery") -> int:
        """As of now."""
        from veltrix.operations.runs.bulk import NotDone, count

        found = count(self._engine, action, wanted)
        return 0 if isinstance(found, NotDone) else found

    def act(self, request: "BulkRequest") -> "Done | NotDone":
        """In one transaction."""
        from veltrix.operations.runs.bulk import act

        return act(self._engine, msgspec.structs.replace(request, author=self._author))

    def plan(self, planned: PlanWanted) -> "ReplayStory":
        """In one transaction."""
        from veltrix.operations.replays.plan import PlanRequest, plan
        from veltrix.operations.replays.rules import options_of

        options = options_of(
            self._settings,
            mode=planned.mode,
            rate=planned.rate,
            canary=planned.canary,
            stop_share=planned.stop_share,
            patch=planned.patch,
        )
        request = PlanRequest(
            wanted=planned.wanted,
            is_all=planned.is_all,
            options=options,
            author=self._author,
            reason=planned.reason,
            request={"command": "veltrix replay plan", "selected": _given(planned.wanted)},
        )
        return plan(self._engine, request, self._settings.event_bytes_max)

    def turn(self, replay_id: str, verb: "Verb", reason: str) -> "ReplayStory":
        """In one transaction."""
        from veltrix.operations.replays.plan import act

        return act(self._engine, replay_id, verb, reason=reason, author=self._author)

    def editable(self, run_id: str, *, with_payload: bool) -> Editable | None:
        """Of one moment; the payload is looked up with the rest, asked for or not."""
        from veltrix.operations.replays import edit_rows
        from veltrix.operations.replays.plan import tag_text
        from veltrix.store.transactions import transaction

        with transaction(self._engine, snapshot=True) as tx:
            tag = edit_rows.tag_of(tx, run_id)
            found = edit_rows.origins(tx, [(run_id, tag[0])]) if tag and with_payload else []
        if tag is None:
            return None
        is_failed = tag[1] == "failed"
        if not found:
            return Editable(tag_text(tag), is_failed)
        return Editable(tag_text(tag), is_failed, found[0].is_binary, found[0].data)

    def edit(self, run_id: str, payload: str, tag: str, reason: str) -> "EditedNow":
        """In one transaction."""
        from veltrix.bootstrap import event_ids, real_sources
        from veltrix.operations.replays.edit import EditOf
        from veltrix.operations.replays.patch import replacing
        from veltrix.operations.replays.plan import edit_now

        settings = self._settings
        limits = (settings.event_bytes_max, event_ids(real_sources()), settings.accounts_max)
        of = EditOf("", self._author, reason, *limits)
        return edit_now(self._engine, run_id, replacing(payload), tag, of)

    def decide(
        self, verb: Decision, group_id: str, reason: str, version: str | None = None
    ) -> "Moved | NotMoved":
        """In one transaction."""
        from veltrix.operations.failures.triage import ignore, reopen, resolve

        if verb == "resolve":
            return resolve(self._engine, group_id, version, reason, self._author)
        move = ignore if verb == "ignore" else reopen
        return move(self._engine, group_id, reason, self._author)

    def note(self, group_id: str, text: str) -> "Noted | NotMoved":
        """In one transaction."""
        from veltrix.operations.failures.triage import note

        return note(self._engine, group_id, text, self._author)

    def see(self, ids: Sequence[int], reason: str) -> SeenLetters:
        """In one transaction."""
        from veltrix.pipeline.relay.dead_letters import see

        return SeenLetters(see(self._engine, ids, self._author, reason), self._author)

    def set_retention(
        self, policies: "Sequence[RetentionPolicy]", reason: str
    ) -> "list[SetPolicy]":
        """In one transaction."""
        from veltrix.operations.retention.policies import set_policies

        return set_policies(self._engine, policies, reason, self._author)


def _given(wanted: msgspec.Struct) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(wanted)
    return {name: value for name, value in values.items() if value is not None}
