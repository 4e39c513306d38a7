"""A process that executes workflows over values of types it is told, live or from a journal.

Each line of its input is {"spec", "seed", "journal"}; each of its output what the workflow saw and
the journal after it. `spec` is a type: the name of a leaf, or a list of a combinator and its parts.
"""

import base64
import dataclasses
import enum
import json
import random
import sys
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import msgspec
import pydantic

from tests.support.executions import claim_of, execution_of
from veltrix import Event, gather, step, workflow
from veltrix.authoring.encoding import encode
from veltrix.authoring.workflows import Workflow
from veltrix.pipeline.execute.coroutines import moves
from veltrix.pipeline.execute.journal_rows import JournalEntry, Past
from veltrix.pipeline.execute.step_calls import call_author

Chance = random.Random
Typed = tuple[Any, Any]  # an annotation, and what a step with it returns


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Text(str):
    __slots__ = ()


class Double(float):
    """As numpy's float64 is one."""


class Line(pydantic.BaseModel):
    sku: str
    tags: set[str] = set()


Cents = NewType("Cents", float)
namedtuple_of: Any = NamedTuple
typed_dict_of: Any = TypedDict
BYTES = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
WORDS = ["red", "green", "blue", "violet", "", "ü", "2026-01-31"]
moment = datetime(2026, 1, 31, 12, tzinfo=UTC)

LEAVES: dict[str, Callable[[Chance], Typed]] = {
    "any": lambda c: (Any, c.choice([None, 1, 1.5, "x", (1, 2), {"b": 1, "a": (2,)}, {3: 4}])),
    "int": lambda c: (int, c.choice([0, 2**70, -5])),
    "float": lambda c: (float, c.choice([1, 100.0, -0.0, 1e300, Double(2)])),
    "str": lambda c: (str, c.choice([*WORDS, Text("t")])),
    "bool": lambda c: (bool, c.choice([True, False])),
    "bytes": lambda c: (bytes, c.randbytes(3)),
    "decimal": lambda c: (Decimal, c.choice([Decimal("1.10"), 5, "2.50"])),
    "uuid": lambda c: (UUID, c.choice([UUID(int=c.getrandbits(128)), str(UUID(int=1))])),
    "datetime": lambda c: (datetime, c.choice([moment, str(moment), datetime(2026, 1, 1)])),  # noqa: DTZ001
    "date": lambda _: (date, moment.date()),
    "timedelta": lambda _: (timedelta, timedelta(microseconds=7)),
    "enum": lambda c: (Colour, c.choice([*Colour, "red"])),
    "literal": lambda c: (Literal["a", 1], c.choice(["a", 1])),
    "text": lambda c: (Text, c.choice(WORDS)),
    "double": lambda c: (Double, c.choice([Double(2.5), 3])),
    "cents": lambda _: (Cents, 100),
    "positive": lambda _: (Annotated[float, msgspec.Meta(ge=0)], 100),
    "greater": lambda _: (Annotated[float, pydantic.Field(ge=0)], 100),
    "line": lambda c: (Line, Line(sku=c.choice(WORDS), tags=set(WORDS))),
    "wrong": lambda _: (int, "no number"),
    "set": lambda _: (set[str], set(WORDS)),
    "bare set": lambda _: (Any, {frozenset({word, "x"}) for word in WORDS}),
    "none": lambda _: (None, None),
}


def several(c: Chance, make: Callable[[], Typed], count: int) -> tuple[Any, list[Any]]:
    made = [make() for _ in range(count)]
    return made[0][0], [value for _, value in made]


def record(kind: str, parts: list[Typed]) -> Typed:
    types = {f"f{number}": type_ for number, (type_, _) in enumerate(parts)}
    values = {f"f{number}": value for number, (_, value) in enumerate(parts)}
    make: dict[str, Callable[[], Any]] = {
        "dataclass": lambda: dataclasses.make_dataclass("Class", types.items()),
        "struct": lambda: msgspec.defstruct("Struct", types.items()),
        "model": lambda: pydantic.create_model(
            "Model", __config__=BYTES, **{n: (t, ...) for n, t in types.items()}
        ),  # type: ignore[call-overload]
        "namedtuple": lambda: namedtuple_of("Pair", types.items()),
        "typed": lambda: typed_dict_of("Typed", types),
    }
    made = make[kind]()
    return made, made(**values)


def built(spec: Any, c: Chance) -> Typed:
    """A type, and a value that its author's type checker would let pass (or not)."""
    if isinstance(spec, str):
        return LEAVES[spec](c)
    kind, *inner = spec
    seed, count = c.random(), c.randrange(1, 3)

    def same() -> Typed:
        return built(inner[0], Chance(seed))  # the types of records are one for all

    match kind:
        case "list":
            type_, values = several(c, same, count)
            return list[type_], values  # type: ignore[valid-type]
        case "deque":
            type_, values = several(c, same, count)
            return deque[type_], deque(values)  # type: ignore[valid-type]
        case "dict":
            type_, values = several(c, same, count)
            return dict[str, type_], dict(zip(WORDS, values, strict=False))  # type: ignore[valid-type]
        case "numbered":
            type_, values = several(c, same, count)
            return dict[int, type_], dict(zip((7, 3), values, strict=False))  # type: ignore[valid-type]
        case "optional":
            type_, value = same()
            return type_ | None if type_ is not None else None, c.choice([value, None])
        case "either":
            (one, value), (other, more) = (built(part, c) for part in inner)
            return one | other if one and other else Any, c.choice([value, more])
        case "tuple":
            parts = [built(part, c) for part in inner]
            return tuple[tuple(t for t, _ in parts)], tuple(v for _, v in parts)  # type: ignore[misc]
    parts = [built(part, c) for part in inner]
    try:
        return record(kind, parts)
    except Exception:  # noqa: BLE001 - a model cannot hold everything
        return record("dataclass", parts)


def shown(value: Any) -> Any:
    """What is equal of values, in one order for all processes."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return [kind, [[shown(key), shown(item)] for key, item in value.items()]]
    if isinstance(value, set | frozenset):
        return [kind, sorted((shown(item) for item in value), key=repr)]
    if isinstance(value, list | tuple | deque):
        return [kind, [shown(item) for item in value]]
    if hasattr(type(value), "model_dump"):
        return [kind, shown(vars(value))]
    if dataclasses.is_dataclass(value):
        return [kind, [shown(getattr(value, f.name)) for f in dataclasses.fields(value)]]
    if isinstance(value, msgspec.Struct):
        return [kind, [shown(getattr(value, name)) for name in value.__struct_fields__]]
    return [kind, repr(value)]


def spoil(value: Any) -> None:
    """Change all that can be changed of it."""
    if isinstance(value, enum.Enum):
        return
    parts: Any = getattr(value, "__dict__", {}).values()
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        parts = list(value.values())
        value["spoiled"] = True
    elif isinstance(value, list | deque):
        parts = list(value)
        value.append("spoiled")
    elif isinstance(value, set):
        value.add("spoiled")
    elif isinstance(value, tuple):
        parts = value
    for part in parts:
        spoil(part)


@step(retries=0)
def spend(*values: Any, **named: Any) -> int:
    spoil((values, named))
    return len(values)


def flow_of(spec: Any, seed: int, seen: list[Any]) -> Workflow[Any, Any]:
    type_, value = built(spec, Chance(seed))

    def give() -> Any:
        return value

    give.__annotations__["return"] = type_
    give_step = step(retries=0)(give)

    @workflow(name="w", retries=0)
    async def flow(event: Event[Any]) -> Any:
        first = await give_step()
        seen.append(shown(first))
        await spend(first, {"value": first, "a": 1}, named=first)
        second, _ = await gather(give_step(), spend(first))
        await spend([first, second])
        seen.append(shown([first, second]))
        return [first, second]

    return flow


def execute(line: dict[str, Any]) -> dict[str, Any]:
    """Execute until the run is settled, with the journal that there is."""
    seen: list[Any] = []
    entries = {
        position: JournalEntry(
            "r", position, "step", name, digest and base64.b64decode(digest), output, error
        )
        for position, (name, digest, output, error) in line["journal"].items()
    }
    flow = flow_of(line["spec"], line["seed"], seen)
    execution = execution_of(claim_of(), flow, Past(entries, {}))
    journal = dict(line["journal"])
    ran = 0
    moves.begin(execution)
    while True:
        for entry in execution.unwritten:
            digest = entry.arguments_digest
            text = digest and base64.b64encode(digest).decode()
            journal[entry.position] = (entry.name, text, entry.output, entry.error)
        execution.unwritten = []
        if execution.settlement is not None:
            break
        for one in moves.runnable(execution):
            ran += 1
            value = call_author(one)
            text = encode(value, 10**6)
            moves.finish_step(one, one.call.step.codec.output(value, text), text)
    settled = execution.settlement
    return {
        "seen": seen, "journal": journal, "ran": ran, "state": settled.state,
        "reason": settled.reason, "outcome": settled.outcome, "wait_s": settled.wait_s,
    }  # fmt: skip


def main() -> None:
    """Answer each line of the input with one."""
    for given in sys.stdin:
        try:
            answer = execute(json.loads(given))
        except Exception:  # noqa: BLE001 - the other process reports it
            answer = {"state": traceback.format_exc(), "reason": None}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
