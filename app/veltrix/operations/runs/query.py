"""Which runs: one form of it, however it was asked for.

A new condition is a field of `RunsFilter` (of `FailedRunsFilter`, if it makes sense for those) and
its line in `read.conditions_of`. What is sent as JSON and what the console has in its addresses
take it from there; where parameters are declared one by one (`api/run_filters.py`,
`commands/options.py`) a test says what is missing.

BadCondition        a condition that no run can be looked for by; says which, and what it must be
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from veltrix.domain.ids import Id
from veltrix.domain.states import RunState
from veltrix.domain.text import is_storable, moment_of
from veltrix.operations.runs.action_rows import canonical

WORD_CHARS_MAX = 1_000
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=WORD_CHARS_MAX)]
_UNSTORABLE = "has a NUL, or half of a surrogate pair, which no text can hold: take it out"


class BadCondition(ValueError):
    """The condition `field` cannot be; the text says what it must be."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field} {what}")
        self.field = field


class FailedRunsFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Failed runs that fit every condition; `since` <= time of acceptance < `until`."""

    workflow: Word | None = None
    queue: Word | None = None
    key: Word | None = None
    fingerprint: Word | None = None
    since: datetime | None = None
    until: datetime | None = None


class RunsFilter(FailedRunsFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs that fit every condition; `since` <= time of acceptance < `until`."""

    state: RunState | None = None
    event: Id | None = None


class RunQuery(RunsFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs; None leaves a condition out.

    `ids`: of these runs only. `archived` False: all but the failed runs that were put away; True:
    only those. `fingerprint` UNGROUPED: failed without one.
    """

    ids: tuple[str, ...] | None = None
    archived: bool | None = None

    @classmethod
    def from_json(cls, fits: FailedRunsFilter) -> "RunQuery":
        """What a body asks for, its shape read already. Raises BadCondition."""
        given = msgspec.structs.asdict(fits)
        for name, value in given.items():
            if name == "event" and value is not None:
                given[name] = _id(name, value)
            elif isinstance(value, str) and not is_storable(value):
                raise BadCondition(name, _UNSTORABLE)
            elif isinstance(value, datetime) and value.tzinfo is None:
                given[name] = value.replace(tzinfo=UTC)
        return cls(**given)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "RunQuery":
        """What an address asks for: an empty field asks for nothing. Raises BadCondition."""
        given: dict[str, Any] = {}
        for name in RunsFilter.__struct_fields__:
            text = query.get(name, "").strip()
            if len(text) > WORD_CHARS_MAX:
                raise BadCondition(name, f"must be at most {WORD_CHARS_MAX:,} characters")
            if text:
                given[name] = _PARSERS.get(name, _text)(name, text)
        return cls.from_json(RunsFilter(**given))

    @property
    def conditions(self) -> dict[str, Any]:
        """What it asks for, by name, without the conditions that it leaves out; no ids."""
        given = msgspec.structs.asdict(self)
        return {name: v for name, v in given.items() if v is not None and name != "ids"}


def _id(name: str, text: str) -> str:
    id_ = canonical(text)
    if id_ is None:
        raise BadCondition(name, f"must be an id (a UUID), not {text[:100]!r}")
    return id_


def _text(_name: str, text: str) -> str:
    return text


def _state(name: str, text: str) -> RunState:
    if text not in set(RunState):
        raise BadCondition(name, f"must be one of {', '.join(RunState)}")
    return RunState(text)


def _moment(name: str, text: str) -> datetime:
    try:
        return moment_of(text)
    except ValueError:
        raise BadCondition(name, "must be a time such as 2026-01-31T12:00") from None


_PARSERS = {"state": _state, "since": _moment, "until": _moment}
