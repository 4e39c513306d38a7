"""The backend that is an api over HTTP: what can be done, as whom the key names.

Each call has a key of its own (`Idempotency-Key`), so that trying again does it once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import msgspec

from veltrix.client.errors import ApiRefused, ApiStrange
from veltrix.commands.backend.http_reads import HttpReads, answer_as, given_by, word
from veltrix.commands.backend.port import Decision, Editable, PlanWanted, SeenLetters
from veltrix.commands.mistakes import CommandRefused
from veltrix.domain.states import ReplayMode

if TYPE_CHECKING:
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

T = TypeVar("T")
_REFUSALS = frozenset({400, 404, 409, 412, 413, 422})  # of what was asked, not of who asks


class HttpBackend(HttpReads):
    """Answers `backend.port.Backend` by asking an api. Raises ApiError."""

    def replay_runs(
        self, ids: Sequence[str], mode: "ReplayMode", reason: str
    ) -> "Sequence[Replayed | NotReplayed]":
        """In one request."""
        from veltrix.operations.replays.move import NotReplayed, Replayed

        class Answers(msgspec.Struct):
            replayed: list[Replayed]
            not_replayed: list[NotReplayed]

        request = {"ids": list(ids), "from": mode, "reason": reason}
        found = self._do(Answers, "/v1/runs/replay", request)
        return sorted([*found.replayed, *found.not_replayed], key=lambda one: one.run_id)

    def cancel_runs(
        self, ids: Sequence[str], reason: str
    ) -> "Sequence[Cancelled | CancelRequested | NotCancelled]":
        """A request for each."""
        return [self._cancel(run_id, reason) for run_id in sorted(set(ids))]

    def _cancel(self, run_id: str, reason: str) -> "Cancelled | CancelRequested | NotCancelled":
        from veltrix.operations.runs.cancel import Cancelled, CancelRequested, NotCancelled

        try:
            path = f"/v1/runs/{run_id}/cancel"
            found = self._do(dict[str, Any], path, {"reason": reason})
        except ApiRefused as refused:
            if refused.slug not in {"not-found", "wrong-state"}:
                raise
            return NotCancelled(run_id, refused.members.get("state"))
        is_over = found["state"] == "cancelled"
        return Cancelled(run_id) if is_over else CancelRequested(run_id)

    def count(self, action: "BulkAction", wanted: "RunQuery") -> int:
        """As of now."""
        request = given_by(wanted) | {"action": action.value}
        try:
            return self.read(dict[str, int], "/v1/runs/count", request)["runs"]
        except ApiRefused as refused:
            if refused.slug == "too-many-runs":
                return 0
            raise

    def act(self, request: "BulkRequest") -> "Done | NotDone":
        """In one request."""
        from veltrix.operations.runs.archive_rows import HeldRuns
        from veltrix.operations.runs.bulk import Done, NotDone

        body: dict[str, Any] = {"reason": request.reason, "all": request.is_all}
        if request.wanted.ids is not None:
            body["ids"] = list(request.wanted.ids)
        if request.wanted.conditions:
            body["filter"] = request.wanted.conditions
        if request.expected is not None:
            body["expected"] = request.expected
        try:
            found = self._do(dict[str, int], f"/v1/runs/{request.action}", body)
        except ApiRefused as refused:
            if refused.status not in _REFUSALS:
                raise
            runs = [msgspec.convert(one, HeldRuns) for one in refused.members.get("runs", ())]
            return NotDone(refused.slug, refused.detail, runs)
        return Done(request.action, found["runs"], found["requested"])

    def plan(self, planned: PlanWanted) -> "ReplayStory":
        """In one request."""
        from veltrix.operations.replays.read import ReplayStory

        body: dict[str, Any] = {
            "reason": planned.reason,
            "ids": planned.wanted.ids,
            "filter": planned.wanted.conditions or None,
            "all": planned.is_all,
            "from": planned.mode,
            "rate": planned.rate,
            "canary": planned.canary,
            "stop_share": planned.stop_share,
            "patch": planned.patch,
        }
        left_out = {"ids", "filter", "from", "rate", "patch"}
        sent = {n: v for n, v in body.items() if n not in left_out or v is not None}
        if planned.stop_share is msgspec.UNSET:
            del sent["stop_share"]
        return self._replaying(ReplayStory, "/v1/replays", sent)

    def turn(self, replay_id: str, verb: "Verb", reason: str) -> "ReplayStory":
        """In one request."""
        from veltrix.operations.replays.read import ReplayStory

        return self._replaying(ReplayStory, f"/v1/replays/{replay_id}/{verb}", {"reason": reason})

    def editable(self, run_id: str, *, with_payload: bool) -> Editable | None:
        """In one request, or two with the payload. Raises CommandRefused if that is not shown."""
        try:
            answer = self._transport.call("GET", f"/v1/runs/{run_id}")
        except ApiRefused as refused:
            if refused.status == 404:
                return None
            raise
        run = answer_as(dict[str, Any], answer.body, "/v1/runs")
        tag, is_failed = answer.headers.get("etag"), run["state"] == "failed"
        if tag is None:
            raise ApiStrange("the api told a run without its ETag; does a proxy take it out?")
        if not with_payload or not is_failed:
            return Editable(tag, is_failed)
        event = self.event(run["event"], None)
        if event is None or event.redacted:
            raise CommandRefused(
                "the key may not see payloads: give one with the scope payloads:read, or the whole"
                " payload with --payload"
            )
        data = None if event.data is None else bytes(event.data).decode()
        return Editable(tag, is_failed, event.data_base64 is not None, data)

    def edit(self, run_id: str, payload: str, tag: str, reason: str) -> "EditedNow":
        """In one request."""
        from veltrix.operations.replays.plan import EditedNow

        request = {"data": msgspec.Raw(payload.encode()), "reason": reason}
        return self._replaying(EditedNow, f"/v1/runs/{run_id}/edit", request, {"if-match": tag})

    def decide(
        self, verb: Decision, group_id: str, reason: str, version: str | None = None
    ) -> "Moved | NotMoved":
        """In one request."""
        from veltrix.operations.failures.triage import Moved

        request = {"reason": reason} | ({} if version is None else {"version": version})
        return self._on_group(Moved, group_id, verb, request)

    def note(self, group_id: str, text: str) -> "Noted | NotMoved":
        """In one request."""
        from veltrix.operations.failures.triage import Noted

        return self._on_group(Noted, group_id, "notes", {"text": text})

    def see(self, ids: Sequence[int], reason: str) -> SeenLetters:
        """In one request."""
        return self._do(SeenLetters, "/v1/dead-letters/seen", {"ids": list(ids), "reason": reason})

    def set_retention(
        self, policies: "Sequence[RetentionPolicy]", reason: str
    ) -> "list[SetPolicy]":
        """In one request."""
        from veltrix.operations.retention.policies import SetPolicy
        from veltrix.operations.retention.rules import PolicyRefused

        path = "/v1/retention"
        body = msgspec.json.encode({"policies": policies, "reason": reason})
        headers = {"content-type": "application/json"}
        try:
            answer = self._transport.call("PUT", path, body=body, headers=headers)
        except ApiRefused as refused:
            if refused.slug == "invalid-policy":
                raise PolicyRefused(refused.detail) from None
            raise
        return answer_as(dict[str, list[SetPolicy]], answer.body, path)["policies"]

    def _on_group(
        self, type_: type[T], group_id: str, verb: str, request: dict[str, Any]
    ) -> "T | NotMoved":
        from veltrix.operations.failures.triage import NotMoved, NoVersion

        try:
            return self._do(type_, f"/v1/failures/{word(group_id)}/{verb}", request)
        except ApiRefused as refused:
            members = {name: refused.members.get(name) for name in ("state", "by")}
            match refused.slug:
                case "not-found":
                    return NotMoved(group_id, None)
                case "wrong-state":
                    return msgspec.convert({"id": group_id, **members}, NotMoved)
                case "no-version":
                    kind = refused.members.get("kind")
                    return msgspec.convert({"id": group_id, **members, "kind": kind}, NoVersion)
            raise

    def _replaying(
        self,
        type_: type[T],
        path: str,
        request: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> T:
        """As `_do`. Raises ReplayRefused for what of it cannot be done."""
        from veltrix.operations.replays.rules import ReplayRefused

        try:
            return self._do(type_, path, request, headers)
        except ApiRefused as refused:
            if refused.status not in _REFUSALS:
                raise
            raise ReplayRefused(refused.slug, refused.detail, **refused.members) from None

    def _do(
        self,
        type_: type[T],
        path: str,
        request: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> T:
        """The answer to a POST, as this type."""
        given = {"idempotency-key": uuid4().hex, "content-type": "application/json"}
        body = msgspec.json.encode(request)
        answer = self._transport.call("POST", path, body=body, headers=given | (headers or {}))
        return answer_as(type_, answer.body, path)
