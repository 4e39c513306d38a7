"""An input that its workflow could not read is found by the schema, before there is a run."""

import dataclasses
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from veltrix.authoring.annotations import reader
from veltrix.authoring.input_schema import InputSchema

ID = "019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
GOOD: dict[str, Any] = {
    "id": ID,
    "placed_at": "2026-01-31T12:00:00",
    "sent_at": "2026-01-31T12:00:00Z",
    "day": "2026-01-31",
    "hour": "12:00:00",
    "takes": "P1D",
    "price": "1.10",
    "raw": "aGk=",
    "count": 3,
}
BAD: dict[str, Any] = {
    "id": "x",
    "placed_at": "notadate",
    "sent_at": "2026-01-31",
    "day": "2026-02-30",
    "hour": "25:00:00",
    "takes": "a day",
    "price": "abc",
    "raw": "!",
    "count": 3.0,
}


class Struct(msgspec.Struct):
    id: UUID
    placed_at: datetime
    sent_at: Annotated[datetime, msgspec.Meta(tz=True)]
    day: date
    hour: time
    takes: timedelta
    price: Decimal
    raw: bytes
    count: int


@dataclasses.dataclass
class Class:
    id: UUID
    placed_at: datetime
    sent_at: datetime
    day: date
    hour: time | None
    takes: timedelta
    price: Decimal
    raw: bytes
    count: int


class Typed(TypedDict):
    id: UUID
    placed_at: datetime


class Model(pydantic.BaseModel):
    id: UUID
    placed_at: datetime
    day: date
    hour: time
    takes: timedelta
    count: int


class Pair(NamedTuple):
    at: datetime
    more: list[Typed]


class Tree(msgspec.Struct):
    at: datetime
    more: "list[Tree]" = []
    model: Model | None = None


def violations(type_: Any, value: Any) -> set[str]:
    schema = msgspec.json.decode(msgspec.json.encode(reader(type_, is_output=False).schema()))
    return {violation.at for violation in InputSchema(schema).violations(value)}


@pytest.mark.parametrize(
    ("type_", "at", "of"),
    [
        (Struct, "", lambda value: value),
        (Struct | None, "", lambda value: value),
        (Class, "", lambda value: value),
        (list[Class], "/0", lambda value: [value]),
        (dict[str, Struct | None], "/a", lambda value: {"a": value}),
    ],
)
def test_each_place_that_does_not_fit_is_named(type_: Any, at: str, of: Any) -> None:
    bad = BAD | {"sent_at": "never"}

    assert violations(type_, of(GOOD)) == set()
    assert violations(type_, of(bad)) == {f"{at}/{name}" for name in BAD}


def test_a_moment_that_must_have_a_zone_has_one() -> None:
    assert violations(Struct, GOOD | {"sent_at": GOOD["placed_at"]}) == {"/sent_at"}


def test_a_model_of_pydantic_is_checked_as_pydantic_reads_it() -> None:
    lax = GOOD | {"placed_at": "2026-01-31", "hour": "12:00", "count": 3.0}

    assert violations(Model, lax) == set()
    assert violations(Model, BAD) == {"/id", "/placed_at", "/day", "/hour", "/takes"}


@pytest.mark.parametrize(
    ("type_", "good", "bad", "at"),
    [
        (datetime, "2026-01-31T12:00:00Z", "notadate", ""),
        (datetime | None, None, "notadate", ""),
        (datetime | int, 3, "notadate", ""),
        (Pair, ["2026-01-31T12:00:00Z", []], ["no", [{"id": "x", "placed_at": "no"}]], "/0"),
        (tuple[int, time], [1, "12:00:00"], [1, "noon"], "/1"),
        (Tree, {"at": GOOD["placed_at"]}, {"at": GOOD["placed_at"], "more": [{"at": "no"}]},
         "/more/0/at"),
        (Tree, {"at": GOOD["placed_at"], "model": GOOD},
         {"at": GOOD["placed_at"], "model": GOOD | {"id": "x"}}, "/model/id"),
        (list[pydantic.AnyUrl], ["http://a.example/"], ["no url"], "/0"),
        (pydantic.IPvAnyAddress, "::1", "1.2.3", ""),
    ],
)  # fmt: skip
def test_formats_are_checked_wherever_they_are(type_: Any, good: Any, bad: Any, at: str) -> None:
    assert violations(type_, good) == set()
    assert at in violations(type_, bad)


def test_a_schema_of_others_is_checked_as_far_as_it_can_be() -> None:
    schema = {"type": "object", "properties": {"a": {"format": "klingon"}, "b": {"format": "date"}}}

    assert InputSchema(schema).violations({"a": "x", "b": "2026-01-31"}) == []
    assert [v.at for v in InputSchema(schema).violations({"a": "x", "b": "x"})] == ["/b"]
