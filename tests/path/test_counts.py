"""It stays fast: what a list costs the services is counted and compared with a committed table."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.counting import Counts, count
from veltrix import Event, step, workflow
from veltrix.settings.fields import Settings

TABLE = Path(__file__).parents[2] / "bench" / "counts.toml"
MORE_MAX = 1.10


@step
def double(number: int) -> int:
    return number * 2


@workflow(name="fulfil", on=PLACED, queue="orders")
async def fulfil(event: Event[Any]) -> int:
    return await double(21)


@pytest.mark.parametrize(("size", "lists"), [(1, 200), (250, 20)])
def test_a_list_costs_no_more_than_the_table_says(
    settings: Settings, engine: Engine, size: int, lists: int
) -> None:
    subscribe(engine, subscription("fulfil", PLACED))
    known = tomllib.loads(TABLE.read_text())[f"list_of_{size}"]

    found = msgspec.to_builtins(count(settings, engine, fulfil, PLACED, size, lists))

    assert known.keys() == set(Counts.__struct_fields__)
    more = {
        name: (found[name], known[name]) for name in known if found[name] > known[name] * MORE_MAX
    }
    assert not more, (
        f"per 1,000 events, found and allowed; if it is worth it, write into {TABLE}: {found}"
    )
    less = {
        name: (found[name], known[name]) for name in known if found[name] < known[name] / MORE_MAX
    }
    assert not less, (
        f"it costs less than the table says: hold on to it, and write into {TABLE}: {found}"
    )
