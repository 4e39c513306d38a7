"""Which version routes, who has it, and what nobody serves: as an operator sees and sets it."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.accepting import subscribe, subscription
from tests.support.due_runs import add_runs
from tests.support.workers import report
from veltrix.releases import subscription_rows
from veltrix.releases.subscription_rows import release_of
from veltrix.store.transactions import transaction

CODE = """
from veltrix import Event, workflow

@workflow(name="w", on="{types}", queue="{queue}")
async def w(event: Event[dict]) -> None:
    pass
"""


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file with the workflow; write `CODE` into it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("VELTRIX_WORKFLOWS", "deployed")
    return tmp_path / "deployed.py"


def versions(engine: Engine) -> dict[str, str]:
    with transaction(engine) as tx:
        return {row.workflow: row.code_version for row in subscription_rows.current(tx)}


def test_what_is_registered_by_hand_routes_at_once_unless_what_routes_is_kept(
    veltrix: Veltrix, engine: Engine, release: Path
) -> None:
    old = subscription("w", "a", queue="q1", code_version="old")
    subscribe(engine, old)
    report(engine, "1", release_of([old]), ["q1"])
    release.write_text(CODE.format(types="b", queue="q2"))

    assert veltrix("workflows", "register", "--keep").code == 0
    assert versions(engine) == {"w": "old"}
    assert veltrix("workflows", "register", "--reason", "deploy", "--author", "ann").code == 0
    (row,) = veltrix("workflows", "list", "--json").json
    assert (row["queue"], row["replaced"], row["children"]) == ("q2", "old", 0)
    (audited,) = veltrix("audit", "--json", "--action", "workflow.register").json["items"]
    assert (audited["author"], audited["reason"]) == ("ann", "deploy")


def test_a_roll_back_is_listed_with_who_has_the_code(veltrix: Veltrix, engine: Engine) -> None:
    old, new = (subscription("w", "a", code_version=version) for version in ("old", "new"))
    subscribe(engine, old)
    subscribe(engine, new)
    with transaction(engine) as tx:
        subscription_rows.write(tx, [old], is_by_hand=True)
    report(engine, "1", release_of([old]), ["orders"])
    report(engine, "2", release_of([old]), ["orders"])

    listed = veltrix("workflows", "list")
    assert "old (back from new)" in listed.out
    assert veltrix("workflows", "list", "--json").json[0]["children"] == 2


@pytest.mark.parametrize("arguments", [("workflows", "list"), ("balance",)])
def test_a_queue_that_nobody_serves_is_named(
    veltrix: Veltrix, engine: Engine, arguments: tuple[str, ...]
) -> None:
    add_runs(engine, 2, queue="alone")
    assert (
        "queue 'alone' has 2 open runs, and no worker serves the queue" in veltrix(*arguments).err
    )
    report(engine, "1", None, ["alone"])

    assert "alone" not in veltrix(*arguments).err
