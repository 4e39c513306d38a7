"""`veltrix replay edit`: by file, by standard input and in an editor on a terminal."""

import io
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.commands.conftest import Veltrix
from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.due_runs import add_runs, read_runs
from tests.support.pseudo_terminal import on_terminal
from tests.support.settled import settle
from tests.support.wait import until
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.move import replay
from veltrix.store.transactions import transaction

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
SCHEMA = {
    "type": "object",
    "required": ["cents", "currency"],
    "properties": {"cents": {"type": "integer"}, "currency": {"type": "string"}},
}
BEFORE, AFTER = '{"cents":"100","currency":"EUR"}', '{"cents": 100, "currency": "EUR"}'


def failed(engine: Engine) -> str:
    subscribe(engine, subscription("fulfil", PLACED, input_schema=SCHEMA))
    (id_,) = add_runs(engine, 1, data=BEFORE)
    settle(engine, [id_], "failed", reason="error", fingerprint="f")
    return id_


def all_runs(engine: Engine) -> int:
    return len(rows(engine, "select id from runs"))


def rows(engine: Engine, sql: str) -> list[Any]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def payload_of(engine: Engine, run_id: str) -> Any:
    ((data,),) = rows(
        engine,
        f"select e.data from runs r join events e on e.id = r.event_id where r.id = '{run_id}'",
    )
    return data


def editor(folder: Path, script: str) -> dict[str, str]:
    """The environment in which this shell script is the editor; $1 is the file."""
    path = folder / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"EDITOR": str(path)}


def test_a_file_has_the_new_payload(veltrix: Veltrix, engine: Engine, tmp_path: Path) -> None:
    origin, file = failed(engine), tmp_path / "payload.json"
    file.write_text(AFTER)

    ran = veltrix(
        *("replay", "edit", origin, "--payload", str(file)),
        *("--reason", "cents were text", "--author", "ann", "--json"),
    )

    assert ran.code == 0, ran.err
    assert (ran.json["origin"], ran.json["state"]) == (origin, "queued")
    assert payload_of(engine, ran.json["id"]) == json.loads(AFTER)
    (old,) = read_runs(engine, [origin], "state, archived_at is not null as archived")
    assert tuple(old) == ("failed", True)
    assert rows(engine, "select action, author, reason, is_refused from audit") == [
        ("run.edit", "ann", "cents were text", False)
    ]


def test_standard_input_has_it_too(
    veltrix: Veltrix, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = failed(engine)
    monkeypatch.setattr(sys, "stdin", io.StringIO(AFTER))

    ran = veltrix("replay", "edit", origin, "--payload", "-", "--reason", "r")

    assert ran.code == 0, ran.err
    assert f"queued, edited from {origin}" in ran.out
    assert payload_of(engine, ran.out.split()[0]) == json.loads(AFTER)


def test_who_replays_the_run_meanwhile_is_not_overruled(
    veltrix: Veltrix, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = failed(engine)

    class Slow(io.StringIO):
        """While the payload is typed somebody replays the run, and it fails again."""

        def read(self, size: int | None = -1) -> str:
            replay(engine, [origin], ReplayMode.BEGINNING, "payment is back", "bob")
            settle(engine, [origin], "failed", reason="error", fingerprint="f")
            return super().read(size)

    monkeypatch.setattr(sys, "stdin", Slow(AFTER))
    ran = veltrix("replay", "edit", origin, "--payload", "-", "--reason", "r")

    assert ran.code == 1
    assert "is not as you saw it: it is failed in generation 1" in ran.err
    assert all_runs(engine) == 1
    assert ("run.edit", True) in rows(engine, "select action, is_refused from audit")


def test_every_place_that_does_not_fit_is_told(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    origin, file = failed(engine), tmp_path / "payload.json"
    file.write_text('{"cents": "1", "currency": 2}')

    ran = veltrix("replay", "edit", origin, "--payload", str(file), "--reason", "r")

    assert ran.code == 1
    assert "does not fit the workflow's input" in ran.err
    assert "  /cents: " in ran.err
    assert "  /currency: " in ran.err
    assert all_runs(engine) == 1


def test_wrong_use_is_2_and_what_cannot_be_edited_is_1(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    origin, good, bad = failed(engine), tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(AFTER)
    bad.write_text('{"cents": ')
    (queued,) = add_runs(engine, 1)

    def code(run_id: str, *more: str) -> int:
        return veltrix("replay", "edit", run_id, "--reason", "r", *more).code

    assert code(origin, "--payload", str(bad)) == 2
    assert code(origin, "--payload", str(tmp_path / "none.json")) == 2
    assert code(origin) == 2, "no terminal, so no editor"
    assert code("x", "--payload", str(good)) == 2
    assert code(UNKNOWN, "--payload", str(good)) == 1
    assert code(queued, "--payload", str(good)) == 1
    assert all_runs(engine) == 2


def test_on_a_terminal_the_editor_opens_with_the_payload(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    origin, seen = failed(engine), tmp_path / "seen.json"
    # Its first text is no JSON, its second is.
    script = f'test -e {seen} && echo \'{AFTER}\' > "$1" || {{ cp "$1" {seen}; echo oops > "$1"; }}'
    environment = editor(tmp_path, script) | {"VELTRIX_DATABASE_URL": database_url}

    with on_terminal(["replay", "edit", origin, "--reason", "r"], **environment) as terminal:
        until(lambda: "Open the editor again?" in terminal.shown, 30, "the question")
        terminal.type("y\n")
        assert terminal.code() == 0, terminal.shown

    assert json.loads(seen.read_text()) == json.loads(BEFORE)
    assert f"queued, edited from {origin}" in terminal.shown
    ((data,),) = rows(engine, "select data from events where source = '/veltrix/edits/fulfil'")
    assert data == json.loads(AFTER)


UNFIT = '{"cents": "many", "currency": "EUR"}'


def test_a_payload_that_does_not_fit_is_mended_in_the_editor(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    origin, seen = failed(engine), tmp_path / "seen.json"
    script = f"""
if grep -q many "$1"; then cp "$1" {seen}; echo '{AFTER}' > "$1"; else echo '{UNFIT}' > "$1"; fi"""
    environment = editor(tmp_path, script) | {"VELTRIX_DATABASE_URL": database_url}

    with on_terminal(["replay", "edit", origin, "--reason", "r"], **environment) as terminal:
        until(lambda: "Open the editor again?" in terminal.shown, 30, "the question")
        assert "/cents: 'many' is not of type 'integer'" in terminal.shown
        terminal.type("y\n")
        assert terminal.code() == 0, terminal.shown

    assert seen.read_text().strip() == UNFIT, "what was typed is there again"
    ((data,),) = rows(engine, "select data from events where source = '/veltrix/edits/fulfil'")
    assert data == json.loads(AFTER)


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["no", "ctrl-c"])
def test_what_was_typed_in_vain_is_kept_in_a_file_of_ones_own(
    veltrix: Veltrix, engine: Engine, database_url: str, tmp_path: Path, *, is_interrupted: bool
) -> None:
    origin = failed(engine)
    environment = editor(tmp_path, f"echo '{UNFIT}' > \"$1\"") | {"TMPDIR": str(tmp_path)}
    environment["VELTRIX_DATABASE_URL"] = database_url

    with on_terminal(["replay", "edit", origin, "--reason", "r"], **environment) as terminal:
        until(lambda: "Open the editor again?" in terminal.shown, 30, "the question")
        if is_interrupted:
            terminal.process.send_signal(signal.SIGINT)
        else:
            terminal.type("n\n")
        assert terminal.code() == 1, terminal.shown

    kept = kept_in(tmp_path, terminal.shown)
    kept.write_text(kept.read_text().replace('"many"', "1"))
    sent = veltrix("replay", "edit", origin, "--payload", str(kept), "--reason", "r")
    assert sent.code == 0, sent.err


def test_what_was_typed_while_somebody_else_acted_is_kept(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    origin = failed(engine)
    script = f"""
if grep -q many "$1"; then echo '{AFTER}' > "$1"; else echo '{UNFIT}' > "$1"; fi"""
    environment = editor(tmp_path, script) | {"TMPDIR": str(tmp_path)}
    environment["VELTRIX_DATABASE_URL"] = database_url

    with on_terminal(["replay", "edit", origin, "--reason", "r"], **environment) as terminal:
        until(lambda: "Open the editor again?" in terminal.shown, 30, "the question")
        replay(engine, [origin], ReplayMode.BEGINNING, "as it was", "bob")
        terminal.type("y\n")
        assert terminal.code() == 1, terminal.shown

    assert "is not as you saw it" in terminal.shown
    assert kept_in(tmp_path, terminal.shown).read_text().strip() == AFTER
    assert all_runs(engine) == 1


def kept_in(folder: Path, told: str) -> Path:
    """The file in which the text is kept: named, and for nobody else to read."""
    (kept,) = folder.glob("veltrix-edit-*.json")
    assert kept.name in told
    assert kept.stat().st_mode & 0o077 == 0
    return kept


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("true", 1, "the payload is as it was"),
        ('echo >> "$1"', 1, "the payload is as it was"),
        ("exit 3", 2, "set EDITOR, or give --payload"),
    ],
)
def test_an_editor_that_changes_nothing_or_fails_does_nothing(
    engine: Engine, database_url: str, tmp_path: Path, script: str, code: int, told: str
) -> None:
    origin = failed(engine)
    environment = editor(tmp_path, script) | {"VELTRIX_DATABASE_URL": database_url}

    with on_terminal(["replay", "edit", origin, "--reason", "r"], **environment) as terminal:
        assert terminal.code() == code, terminal.shown

    assert told in terminal.shown
    assert all_runs(engine) == 1
