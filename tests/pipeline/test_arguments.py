"""What a step is given, and how its call is recognised when the journal is read back."""

import sys
from collections import deque
from dataclasses import dataclass
from subprocess import run
from threading import Lock
from typing import Any

import msgspec
import pydantic
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.pipeline.conftest import Hands, replayed
from veltrix import Event, gather, sleep, step, transaction, workflow
from veltrix.authoring.encoding import digest_and_json, is_other_call


@step(retries=0)
def bill(what: Any) -> str:
    return f"billed {type(what).__name__}"


# ---- what steps are given


@dataclass(frozen=True, slots=True)
class Frozen:
    items: list[str]


class Basket:
    """No JSON can say what it is."""

    def __init__(self) -> None:
        self.items: list[str] = []


class Loose(pydantic.BaseModel, extra="allow"):
    items: list[str]


class Packed(msgspec.Struct, frozen=True):
    items: list[str]


def items_of(what: Any) -> Any:
    """The list in whatever it is."""
    what = what.data if isinstance(what, Event) else what
    return what["items"] if isinstance(what, dict) else getattr(what, "items", what)


def fill(what: Any) -> None:
    """Change whatever it is given."""
    items_of(what).append("vat")


@step(retries=0)
def fill_sync(what: Any) -> str:
    fill(what)
    return "filled"


@step(retries=0)
async def fill_async(what: Any) -> str:
    fill(what)
    return "filled"


@transaction(retries=0)
def fill_in_transaction(session: Session, what: Any) -> str:
    fill(what)
    return "filled"


@pytest.mark.parametrize("change", [fill_sync, fill_async, fill_in_transaction], ids=repr)
@pytest.mark.parametrize(
    "make",
    [
        lambda: ["a"],
        lambda: {"items": ["a"]},
        lambda: deque(["a"]),
        lambda: Frozen(["a"]),
        lambda: Packed(["a"]),
        lambda: Loose(items=["a"], more=[1]),
        Basket,
        lambda: Event(source="/s", id="1", type="t", data={"items": ["a"]}),
    ],
    ids=["list", "dict", "deque", "dataclass", "struct", "model", "object", "event"],
)
def test_what_a_step_changes_in_its_argument_is_not_changed_for_its_workflow(
    engine: Engine, hands: Hands, make: Any, change: Any
) -> None:
    seen: list[Any] = []

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        what = make()
        await change(what)
        await gather(change(what), fill_async(what=what), bill(what))
        seen.append(list(items_of(what)))
        await bill(seen[-1])
        await sleep(60)
        return "done"

    run = replayed(engine, hands, flow)

    assert seen[0] == seen[1]
    assert "vat" not in seen[0]
    assert (run.state, run.reason) == ("succeeded", None)


def test_a_client_is_given_as_it_is(engine: Engine, hands: Hands) -> None:
    client, given = Lock(), list[Any]()

    @step(retries=0)
    def use(what: Any, amounts: dict[str, Any]) -> None:
        given.append(what is client)
        given.append(amounts["client"] is client)
        amounts["cents"] = 19

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> Any:
        amounts = {"client": client, "cents": 5}
        await use(client, amounts)
        return amounts["cents"]

    run = replayed(engine, hands, flow, times=1)

    assert given == [True, True]
    assert (run.state, run.outcome) == ("succeeded", 5)


@dataclass
class Node:
    """It knows its children and its parent."""

    parent: Any = None
    children: Any = ()


def family() -> Any:
    node = Node()
    node.children = [Node(node), Node(node)]
    return node


def ring() -> Any:
    ring: dict[str, Any] = {"a": 1}
    ring["rings"] = [ring, {"ring": ring}]
    return ring


@pytest.mark.parametrize("make", [family, ring])
def test_what_holds_itself_is_copied_as_anything_is(
    engine: Engine, hands: Hands, make: Any
) -> None:
    @step(retries=0, timeout_s=2.0)
    def empties(what: Any) -> int:
        parts = what.children if isinstance(what, Node) else what["rings"]
        count = len(parts)
        parts.clear()
        return count

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> list[int]:
        what = make()
        return [await empties(what), await empties(what)]

    run = replayed(engine, hands, flow, times=1)

    assert (run.state, run.outcome) == ("succeeded", [2, 2])


def test_an_argument_that_another_branch_changes_fails_that_step_at_once(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        order = {"sku": "lamp"}

        async def changes() -> None:
            order["billed"] = await bill(order)

        await gather(changes(), bill(order))

    run = replayed(engine, hands, flow, times=1)

    assert (run.state, run.reason) == ("failed", "error")
    assert "changed after the call, by another branch of its gather" in run.outcome["message"]


# ---- digests of arguments

ORDERS = """
import enum, sys
from dataclasses import dataclass
import msgspec, pydantic
from veltrix.authoring.encoding import digest_and_json

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

@dataclass(frozen=True)
class Tag:
    name: str

class Model(pydantic.BaseModel):
    tags: set[str]
    more: list[frozenset[str]] = []

class Struct(msgspec.Struct):
    tags: set[str]

names = {"red", "green", "blue", "violet", "black"}
for value in (
    names,
    {name: 1 for name in names},
    dict.fromkeys(names, {"b": 1, "a": 2}),
    {frozenset({name, "x"}) for name in names} | {frozenset()},
    {Tag(name) for name in names},
    {Colour.RED, Colour.BLUE},
    {1, "one", None, (2, "two")},
    {Colour(c): names for c in ("red", "blue")},
    {1: names, None: 2, True: 3},
    Model(tags=names, more=[frozenset(names)]),
    [Struct(names), {"a": Struct(names)}],
    [[frozenset({frozenset({n}) for n in names})]],
):
    digest, encoded = digest_and_json((value,), {"keyword": value})
    print(digest.hex(), encoded.decode())
"""


def test_the_digest_of_arguments_does_not_depend_on_the_hash_seed() -> None:
    told = {
        run(
            [sys.executable, "-c", ORDERS],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(told) == 1


def test_journals_of_older_code_are_understood() -> None:
    # Written by older code for step(7, "a", {"sku": "lamp", "cents": 5}, by={"2": 1, "10": 2}).
    older = bytes.fromhex("dde55c02f0ab9c82")
    arguments = (7, "a", {"sku": "lamp", "cents": 5})
    keywords = {"by": {2: 1, 10: 2}}

    now, _ = digest_and_json(arguments, keywords)

    assert now != older
    assert not is_other_call(older, now, arguments, keywords)
    assert is_other_call(older, now, (8, *arguments[1:]), keywords)
