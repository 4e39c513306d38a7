"""Every face takes every condition by which runs are looked for."""

from collections.abc import Mapping
from datetime import UTC, datetime
from inspect import signature
from typing import Any, get_args

import pytest

from veltrix.api.run_filters import WantedRuns
from veltrix.commands.runs import runs as runs_command
from veltrix.domain.states import RunState
from veltrix.operations.runs.query import BadCondition, FailedRunsFilter, RunQuery, RunsFilter
from veltrix.operations.runs.read import conditions_of

EVENT = "0199d2c4-6f3a-7b21-9e55-1f7c86000000"
SENT = {
    "state": "failed",
    "workflow": "fulfil",
    "queue": "orders",
    "key": "17",
    "event": EVENT.upper(),
    "fingerprint": "f1",
    "since": "2026-01-31T12:00",
    "until": "2026-01-31T14:00+01:00",
}
MEANT: dict[str, Any] = SENT | {
    "state": RunState.FAILED,
    "event": EVENT,
    "since": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "until": datetime(2026, 1, 31, 13, tzinfo=UTC),
}


def test_every_face_takes_every_condition() -> None:
    names = set(RunsFilter.__struct_fields__)
    (_, dependency) = get_args(WantedRuns)

    assert set(SENT) == names
    assert set(signature(dependency.dependency).parameters) == names
    assert set(signature(runs_command).parameters) > names | {"archived"}
    assert set(RunQuery.__struct_fields__) == names | {"ids", "archived"}


@pytest.mark.parametrize("name", RunQuery.__struct_fields__)
def test_every_condition_reaches_the_table(name: str) -> None:
    value = (MEANT | {"ids": (EVENT,), "archived": True})[name]

    def told(query: RunQuery) -> set[str]:
        return set(map(str, conditions_of(query)))

    assert told(RunQuery(**{name: value})) - told(RunQuery())
    assert len(told(RunQuery())) == 1, "nothing but that it is no canary"


def test_an_address_and_a_body_ask_for_the_same_runs() -> None:
    naive = MEANT | {"since": datetime(2026, 1, 31, 12)}  # noqa: DTZ001 - as a client may send it
    spaced = {name: f" {text} " for name, text in SENT.items()}

    assert RunQuery.from_query(spaced | {"cursor": "x"}) == RunQuery(**MEANT)
    assert RunQuery.from_json(RunsFilter(**naive)) == RunQuery(**MEANT)
    assert RunQuery.from_query({"state": "", "key": "  "}) == RunQuery()
    assert RunQuery.from_json(FailedRunsFilter(key="17")) == RunQuery(key="17")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"state": "lost"}, "state must be one of"),
        ({"event": "17"}, "event must be an id (a UUID), not '17'"),
        ({"since": "yesterday"}, "since must be a time such as 2026-01-31T12:00"),
        ({"until": "0001-01-01T00:00+14:00"}, "until must be a time such as 2026-01-31T12:00"),
        ({"key": "a\x00b"}, "key has a NUL"),
        ({"queue": "q" * 1001}, "queue must be at most 1,000 characters"),
    ],
)
def test_what_cannot_be_is_named_with_its_cure(query: Mapping[str, str], text: str) -> None:
    with pytest.raises(BadCondition, match="^" + text.replace("(", r"\(").replace(")", r"\)")):
        RunQuery.from_query(query)
