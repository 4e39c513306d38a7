"""Values of every annotation, given to a workflow live and from the journal: they must be equal.

Steps return what Python lets pass for their annotation: an int where a float is promised, a list
where a set is, a text where a time is. The workflow says what it was given, gives it to the next
step, and pauses.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pydantic

from veltrix.authoring.flow import gather, sleep
from veltrix.authoring.steps import Step, step
from veltrix.authoring.workflows import workflow
from veltrix.domain.events import Event
from veltrix.prove.load.notes import note, saw
from veltrix.prove.load.workflows import PREFIX, QUEUE, Order, stumble


class Colour(enum.Enum):
    """A value by name."""

    RED = "red"
    BLUE = "blue"


class OrderLine(msgspec.Struct):
    """A msgspec struct."""

    sku: str
    price: float = 0.0


@dataclass
class OrderParcel:
    """A dataclass."""

    weight: float
    lines: list[OrderLine]


class Address(pydantic.BaseModel):
    """A pydantic model."""

    street: str
    since: date
    parts: list[int] = []


class Point(NamedTuple):
    """A named tuple."""

    x: float
    y: float


class Cents(float):
    """A number that is more than a number."""


class Sku(str):
    """A text that is more than a text."""

    __slots__ = ()


_ID = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
_AT = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)


def _given(value: Any, promised: Any) -> Step[[], Any]:
    """A step that promises one type and returns this value."""

    def give() -> Any:
        note()
        return value

    give.__annotations__["return"] = promised
    return step(name="give")(give)


_lines = [OrderLine("lamp", 3), OrderLine("chair", 4.5)]
_STEPS: dict[str, Callable[[], Any]] = {
    "an int as float": _given(100, float),
    "an int as float or none": _given(100, float | None),
    "a float": _given(0.1 + 0.2, float),
    "a decimal": _given(Decimal("10.00"), Decimal),
    "a text as decimal": _given("10.00", Decimal),
    "a uuid": _given(UUID(_ID), UUID),
    "a text as uuid": _given(_ID, UUID),
    "a time": _given(_AT, datetime),
    "a text as time": _given(_AT.isoformat(), datetime),
    "a date": _given(date(2026, 1, 31), date),
    "a duration": _given(timedelta(seconds=90), timedelta),
    "an enum": _given(Colour.RED, Colour),
    "a text as enum": _given("blue", Colour),
    "a set": _given({"lamp", "chair", "table", "sofa", "bed"}, set[str]),
    "a frozenset": _given(frozenset({3, 1, 2}), frozenset[int]),
    "a list as set": _given(["b", "a", "b"], set[str]),
    "a tuple": _given((1, "two", 3.0), tuple[int, str, float]),
    "a tuple of nothing": _given((1, 2), Any),
    "a union": _given(7, int | str),
    "a union of texts": _given(_ID, UUID | int | None),
    "a literal": _given("north", Literal["north", "south"]),
    "bytes": _given(b"\x00\xff", bytes),
    "a map": _given({"b": 1, "a": 2}, dict[str, float]),
    "a map by number": _given({1: "one"}, dict[int, str]),
    "a struct": _given(_lines[0], OrderLine),
    "a list of structs": _given(_lines, list[OrderLine]),
    "maps as structs": _given([{"sku": "lamp", "price": 3}], list[OrderLine]),
    "a dataclass": _given(OrderParcel(2, _lines), OrderParcel),
    "a list of dataclasses": _given([OrderParcel(2, _lines)], list[OrderParcel]),
    "a pydantic model": _given(Address(street="High", since=date(2026, 1, 1)), Address),
    "a list of pydantic models": _given(
        [Address(street="High", since=date(2026, 1, 1), parts=[1])], list[Address]
    ),
    "a named tuple": _given(Point(1, 2), Point),
    "more than a float": _given(Cents(1.5), float),
    "more than a text": _given(Sku("lamp"), str),
    "a large number": _given(2**53 + 1, int),
    "a small number": _given(5e-324, float),
    "true as number": _given(True, int),
    "nothing": _given(None, None),
    "no promise": _given({"a": [1, 2.0, None, "x"]}, Any),
}


@step
def echo(value: Any) -> str:
    """Says what it was given."""
    note()
    return told(value)


def told(value: Any) -> str:
    """A value with its types, in an order that does not depend on the process."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(map(told, value))})"
    if isinstance(value, dict):
        return f"{type(value).__name__}({[(told(k), told(v)) for k, v in value.items()]})"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({[told(one) for one in value]})"
    return f"{type(value).__name__} {value!r}"


NAMES = tuple(_STEPS)
IN_ONE_RUN = 8


@workflow(name="prove_values", on=f"{PREFIX}values", queue=QUEUE)
async def values(event: Event[Order]) -> int:
    """Some values, live and from the journal, and as arguments."""
    first = sum(map(ord, event.id)) % len(NAMES)
    names = [NAMES[(first + number) % len(NAMES)] for number in range(IN_ONE_RUN)]
    given = [await _STEPS[name]() for name in names]
    for name, value in zip(names, given, strict=True):
        saw(event.id, name, told(value))
    echoes = await gather(*(echo(value) for value in given))
    for name, said in zip(names, echoes, strict=True):
        saw(event.id, f"{name}, as an argument", said)
    await sleep(event.data.seconds)
    await stumble(event.data.times)
    await echo(given)
    return 2 * IN_ONE_RUN + 2
