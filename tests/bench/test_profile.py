"""A profile gives the time of a stack to the module of ours that it was spent for."""

from pathlib import Path

import pytest

import veltrix
from bench.profile import _stage

OURS = Path(veltrix.__file__).parents[2]
SITE = OURS / ".venv/lib/python3.11/site-packages"
ENTRY = f"run ({OURS}/app/veltrix/cli.py:9)"


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        (
            [
                ENTRY,
                f"_accept ({OURS}/app/veltrix/pipeline/accept/acceptor.py:1)",
                f"execute ({SITE}/psycopg/a.py:2)",
            ],
            "app/veltrix/pipeline/accept/acceptor.py",
        ),
        ([ENTRY, f"run ({SITE}/uvicorn/server.py:3)"], "uvicorn (library)"),
        ([ENTRY, "run (/usr/lib/python3.11/asyncio/runners.py:4)"], "asyncio (library)"),
        (["_run_code (<frozen runpy>:1)", ENTRY], "Python itself"),
    ],
)
def test_a_stack_belongs_to_the_innermost_of_our_modules_else_of_the_libraries(
    stack: list[str], stage: str
) -> None:
    assert _stage(stack) == stage
