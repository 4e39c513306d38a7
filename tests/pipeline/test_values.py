"""What a workflow sees of a value just made, and what it sees when its journal is read back."""

import enum
import ipaddress
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, replayed
from veltrix import Event, sleep, step, workflow
from veltrix.authoring.annotations import NoReader, reader
from veltrix.authoring.encoding import Unstorable, encode

ID = "019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"


class Text(str):
    """As markupsafe's Markup is one."""

    __slots__ = ()


class Double(float):
    """As numpy's float64 is one."""


class Whole(int):
    """As an id of some library is one."""


class Moment(datetime):
    """As pandas and pendulum have one."""


class Amount(Decimal):
    """As some library of money has one."""


class Colour(enum.Enum):
    RED = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Line(pydantic.BaseModel):
    sku: str = pydantic.Field(alias="SKU", validation_alias="SKU")
    price: Decimal = Decimal("1.10")


@dataclass
class Cart:
    lines: list[Line] = field(default_factory=list)
    raw: bytes = b"\xff"


@dataclass
class Card:
    number: bytes


@pydantic.dataclasses.dataclass
class Cash:
    cents: int


class Order(msgspec.Struct):
    line: Line
    note: Text
    rates: deque[float]


@dataclass
class Reading:
    rate: float | None


class Measured(pydantic.BaseModel):
    rate: float


class Pair(NamedTuple):
    one: int
    two: Decimal


class Money(TypedDict):
    rate: float
    at: datetime


Cents = NewType("Cents", float)
line = Line(SKU="lamp")
moment = datetime(2026, 1, 31, 12, 0, 0, 5, UTC)

# (annotation, what the step returns, what the workflow must see)
VALUES: list[tuple[Any, Any, Any]] = [
    (float, 100, 100.0),
    (float | None, 100, 100.0),
    (Cents, 100, 100.0),
    (Annotated[float, msgspec.Meta(ge=0)], 100, 100.0),
    (list[float], [1], [1.0]),
    (Any, 1.5, 1.5),
    (Any, -0.0, -0.0),
    (int, 2**70, 2**70),
    (int, 3.0, 3.0),
    (int, "no number", "no number"),
    (Decimal, 5, Decimal(5)),
    (Decimal | float, 5, 5.0),
    (datetime, "2026-01-31T12:00:00.000005Z", moment),
    (date | None, moment.date(), moment.date()),
    (time, time(12, 30), time(12, 30)),
    (timedelta, timedelta(microseconds=1), timedelta(microseconds=1)),
    (UUID, ID, UUID(ID)),
    (UUID | str, UUID(ID), UUID(ID)),
    (Colour, "red", Colour.RED),
    (Any, Colour.RED, "red"),
    (Access, Access.READ | Access.WRITE, Access.READ | Access.WRITE),
    (set[frozenset[int]], {frozenset({1})}, {frozenset({1})}),
    (tuple[int, str], (1, "a"), (1, "a")),
    (tuple[float, ...] | None, [1], (1.0,)),
    (Any, (1, 2), [1, 2]),
    (Sequence[int], (1, 2), [1, 2]),
    (Iterable[int], (1, 2), [1, 2]),
    (Literal["a", 1], 1, 1),
    (Pair, Pair(1, Decimal("1.10")), Pair(1, Decimal("1.10"))),
    (Money, {"rate": 1, "at": str(moment)}, {"rate": 1.0, "at": moment}),
    (bytes, b"\xff", b"\xff"),
    (bytes | Line, b"\xff", b"\xff"),
    (Line, line, line),
    (Line | None, line, line),
    (list[Line], [line], [line]),
    (dict[str, Line], {"a": line}, {"a": line}),
    (dict[int, Line], {1: line}, {1: line}),
    (Line | int, 5, 5),
    (Any, line, {"sku": "lamp", "price": "1.10"}),
    (Cart, Cart([line]), Cart([line])),
    (Cart | Card, Card(b"\xff"), Card(b"\xff")),
    (Cash, Cash(5), Cash(5)),
    (Order, Order(line, Text("x"), deque([1])), Order(line, Text("x"), deque([1.0]))),
    (Text, "x", Text("x")),
    (Any, Text("x"), "x"),
    (list[Double], [Double(2)], [Double(2)]),
    (float, Double(2), 2.0),
    (Whole | None, Whole(2), Whole(2)),
    (Any, {None: 1, True: {False: 2}, 3: 4, Text("x"): 5},
     {"null": 1, "true": {"false": 2}, "3": 4, "x": 5}),
    (dict[bool, int], {True: 1}, {True: 1}),
    (deque[int], deque([1]), deque([1])),
    (defaultdict[str, int], defaultdict(int, a=1), defaultdict(int, a=1)),
    (OrderedDict[str, int], OrderedDict(b=1, a=2), OrderedDict(b=1, a=2)),
    (Counter[str], Counter("aab"), Counter("aab")),
    (datetime, Moment(2026, 1, 31, 12, 0, 0, 5, UTC), moment),
    (Decimal, Amount("1.10"), Decimal("1.10")),
    (Path, Path("/a/b"), Path("/a/b")),
    (ipaddress.IPv4Address, ipaddress.ip_address("::1"), "::1"),
    (object, {"a": 1}, {"a": 1}),
    (None, 5, 5),
    (Hands, {"a": 1}, {"a": 1}),
]  # fmt: skip


def returning(annotation: Any, value: Any) -> Any:
    def give() -> Any:
        return value

    give.__annotations__["return"] = annotation
    return step(retries=0)(give)


class Basket:
    """No JSON can say what it is."""


class Stubborn:
    """Its own code fails when it is asked for its JSON form."""

    def model_dump(self, mode: str) -> Any:
        raise LookupError(f"no {mode}")


class Packed(msgspec.Struct, frozen=True):
    items: list[float]


@step(retries=0)
def bill(what: Any) -> str:
    return f"billed {type(what).__name__}"


def test_a_value_is_what_the_journal_makes_of_it_just_made_and_long_after(
    engine: Engine, hands: Hands
) -> None:
    seen: list[list[Any]] = []
    steps = [returning(annotation, value) for annotation, value, _ in VALUES]

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        seen.append([])
        for one in steps:
            value = await one()
            seen[-1].append(value)
            await bill(value)
        await sleep(60)
        return "done"

    run = replayed(engine, hands, flow)

    live, again = seen
    for (annotation, _, expected), first, second in zip(VALUES, live, again, strict=True):
        assert first == second == expected, annotation
        assert type(first) is type(second) is type(expected), annotation
        assert repr(first) == repr(second), annotation
    assert (run.state, run.reason) == ("succeeded", None)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": {"b": float("-inf")}},
        {1, float("nan")},
        (Double("nan"),),
        deque([float("nan")]),
        Reading(float("nan")),
        [Line(SKU="a"), Measured(rate=float("nan"))],
        Packed([float("inf")]),
        {None: float("nan")},
    ],
    ids=lambda value: type(value).__name__,
)
def test_nan_and_infinity_are_unstorable_in_any_shape(value: Any) -> None:
    with pytest.raises(Unstorable, match="NaN and infinity have no JSON form"):
        encode(value, 10_000)


def test_a_union_that_msgspec_cannot_be_trusted_with_is_not_given_to_it() -> None:
    limited = Annotated[float, msgspec.Meta(ge=0)]

    class Holder(msgspec.Struct):
        one: limited | tuple[int, str]

    unions: list[Any] = [limited | tuple[int, str], list[limited | tuple[int, str] | None]]
    for type_, text, value in zip(
        unions, ('[1,"a"]', '[[1,"a"]]'), ((1, "a"), [(1, "a")]), strict=True
    ):
        assert reader(type_, is_output=True).decode(text) == value
        with pytest.raises(NoReader, match="a fixed tuple and a type with limits"):
            reader(type_, is_output=False)
    with pytest.raises(NoReader):
        reader(Holder, is_output=True)


def test_none_is_no_nan() -> None:
    assert encode({"a": [None, "null", Decimal("NaN")]}, 100) == '{"a":[null,"null","NaN"]}'


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (bill(1), "step 'bill' was called but not awaited: write `await` before it"),
        ([sleep(1)], "a Sleep was called but not awaited"),
        ((n for n in (1, 2)), "return a list of what it gives"),
        ({(1, 2): 3}, "a key of a dict is a tuple"),
        (Basket(), "Basket has no JSON form; make it a dict, a dataclass"),
        ([Stubborn()], "cannot be stored as JSON: no json"),
    ],
    ids=["step", "sleep", "generator", "key", "object", "own code"],
)
@pytest.mark.filterwarnings("ignore:step 'bill' was called but never awaited")
def test_what_has_no_json_form_says_what_to_do(value: Any, words: str) -> None:
    with pytest.raises(Unstorable, match=words):
        encode(value, 10_000)
