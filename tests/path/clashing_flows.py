"""Two workflows whose run ids would carry the same 24 bits, one of which can be left out."""

import os
from typing import Any

from veltrix import Event, workflow
from veltrix.domain.ids import workflow_suffix


def _pair() -> tuple[str, str]:
    seen: dict[str, str] = {}
    for number in range(100_000):
        name = f"settle_invoice_{number}"
        other = seen.setdefault(workflow_suffix(name), name)
        if other != name:
            return other, name
    raise AssertionError


FIRST, SECOND = _pair()


async def _nothing(event: Event[Any]) -> None:
    del event


names = os.environ.get("CLASHING", "first,second,innocent").split(",")
if "first" in names:
    first = workflow(name=FIRST, on="clash.first", queue="clash")(_nothing)
if "second" in names:
    second = workflow(name=SECOND, on="clash.second", queue="clash")(_nothing)
if "innocent" in names:
    innocent = workflow(name="innocent", on="clash.third", queue="clash")(_nothing)
