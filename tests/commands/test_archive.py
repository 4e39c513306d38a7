"""`veltrix archive`, as an operator uses it."""

import signal
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.archive.history import add_day, day_ago, detach, dropped, files_of
from tests.commands.conftest import Veltrix, as_process
from tests.support.roles import make_roles
from tests.support.settled import run_sql
from tests.support.wait import until
from veltrix.domain.ids import event_id_of
from veltrix.settings.fields import PREFIX

DAY = day_ago(1)


def test_a_day_is_copied_listed_read_and_verified(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    ids = add_day(engine, DAY)
    folder = str(tmp_path / "archive")

    written = veltrix("archive", "write", str(DAY), "--to", folder)
    again = veltrix("archive", "write", str(DAY), "--to", folder)
    second = veltrix("archive", "write", str(DAY), "--to", folder, "--again", "--json")
    listed = veltrix("archive", "read", folder)
    as_json = veltrix("archive", "read", folder, str(DAY), "--json")
    shown = veltrix("archive", "read", folder, "--event", event_id_of(ids[0]), "--json")
    of_run = veltrix("archive", "read", folder, str(DAY), "--run", ids[-1])
    verified = veltrix("archive", "read", folder, "--verify")
    with_ledger = veltrix("archive", "read", folder, "--verify", "--ledger", "--json")

    assert written.code == 0
    assert f"{DAY} is archived: 14 events, 12 runs, 264 journal, 8 failed attempts" in written.out
    assert (again.code, "--again" in again.err) == (2, True)
    assert (second.code, second.json["part"], second.json["number"]) == (0, 2, 2)
    assert [line.split()[0] for line in listed.lines] == ["part", str(DAY), f"{DAY}.2"]
    assert [part["day"] for part in as_json.json] == [str(DAY)] * 2
    assert shown.json["event"]["id"] == event_id_of(ids[0])
    assert shown.json["runs"][0]["run"]["id"] == ids[0]
    assert len(shown.json["runs"][0]["journal"]) == 22
    assert of_run.code == 0
    assert f"run {ids[-1]}" in of_run.out
    assert "pay" in of_run.out
    assert verified.code == 0
    assert verified.out.startswith(f"2 parts, 596 rows, whole; last {DAY}.2:")
    assert with_ledger.json["is_ledger_asked"]


def test_what_is_not_there_is_said_and_what_is_wrong_is_1(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    ids = add_day(engine, DAY, events=1)
    folder = tmp_path / "archive"
    veltrix("archive", "write", str(DAY), "--to", str(folder))
    (folder / "2020-01-01").mkdir()

    assert "has no manifest" in veltrix("archive", "read", str(folder)).err
    for arguments, code, said in (
        ((str(tmp_path / "none"),), 2, "is no archive"),
        ((str(folder), "2020-01-02"), 2, "is not archived"),
        ((str(folder), "yesterday"), 2, "write it like 2026-12-01"),
        ((str(folder), "--ledger"), 2, "--verify"),
        ((str(folder), "--verify", "--event", ids[0]), 2, "leave --event and --run out"),
        ((str(folder), "--run", ids[0], "--event", ids[0]), 2, "not both"),
        ((str(folder), "--event", "x"), 2, "not an id"),
        ((str(folder), "--event", ids[0]), 1, "no part that was looked at has"),
        ((str(folder), "--run", event_id_of(ids[0])), 1, "no part that was looked at has"),
    ):
        ran = veltrix("archive", "read", *arguments)
        assert (ran.code, said in ran.err) == (code, True), (arguments, ran)
    (folder / str(DAY) / "journal.jsonl.gz").write_bytes(b"")
    wrong = veltrix("archive", "read", str(folder), "--verify")
    assert wrong.code == 1
    assert wrong.lines[0].startswith(f"{DAY}: journal.jsonl.gz has other bytes than were written")
    file = tmp_path / "file"
    file.write_text("")
    refused = veltrix("archive", "write", str(DAY), "--to", str(file))
    assert (refused.code, "name a folder" in refused.err) == (2, True)


def test_a_day_that_is_not_over_is_copied_with_a_word(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    ran = veltrix("archive", "write", str(day_ago(0)), "--to", str(tmp_path / "archive"))

    assert ran.code == 0
    assert "is not over" in ran.err


def test_the_archive_of_a_drop_is_held_against_the_books_of_the_ledger(
    veltrix: Veltrix, engine: Engine, tmp_path: Path
) -> None:
    add_day(engine, DAY)
    dropped(engine, tmp_path / "archive", DAY, detach(engine, DAY))
    arguments = ("archive", "read", str(tmp_path / "archive"), "--verify", "--ledger")

    whole = veltrix(*arguments)
    run_sql(engine, "delete from dropped where failed > 0")
    lied = veltrix(*arguments)

    assert (whole.code, "whole, as in the ledger's books" in whole.out) == (0, True)
    assert (lied.code, "the ledger's books say nothing of these rows" in lied.out) == (1, True)
    assert veltrix(*arguments[:-1]).code == 0


def test_who_only_reads_can_archive_and_reading_needs_no_database(
    veltrix: Veltrix,
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    database_url: str,
    tmp_path: Path,
) -> None:
    add_day(engine, DAY, events=1)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", make_roles(database_url).read)
    written = veltrix("archive", "write", str(DAY), "--to", str(tmp_path / "archive"))
    asked = veltrix("archive", "read", str(tmp_path / "archive"), "--verify", "--ledger")
    monkeypatch.delenv(f"{PREFIX}DATABASE_URL")
    read = veltrix("archive", "read", str(tmp_path / "archive"), "--verify")

    assert [written.code, asked.code, read.code] == [0, 0, 0]


@pytest.fixture
def large_day(engine: Engine) -> None:
    """A day whose journal takes a moment to be written."""
    ids = add_day(engine, DAY, events=10)
    run_sql(
        engine,
        "insert into journal (run_id, generation, position, kind, name, output, attempts)"
        f" select id, 2, p::text, 'step', 'pay', to_json(repeat('x', 200)), 1 from runs,"
        f" generate_series(1, 8000) p where id = '{ids[0]}' or id = '{ids[1]}'"
        f" or id = '{ids[2]}' or id = '{ids[3]}'",
    )


def begun(database_url: str, folder: Path) -> "subprocess.Popen[str]":
    """A copy that is in the middle of the journal."""
    process = as_process(database_url, "archive", "write", str(DAY), "--to", str(folder))
    place = folder / str(DAY) / "journal.jsonl.gz"
    until(place.exists, deadline_s=30, what="the journal to be written")
    return process


def test_ctrl_c_ends_a_copy_with_nothing_archived(
    large_day: None, database_url: str, tmp_path: Path
) -> None:
    process = begun(database_url, tmp_path / "archive")

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert (process.returncode, said.splitlines()[-1]) == (2, "veltrix: stopped")
    assert files_of(tmp_path / "archive") == set()


def test_a_killed_copy_is_not_archived_and_begun_anew(
    large_day: None, veltrix: Veltrix, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    process = begun(database_url, folder)
    process.kill()
    process.communicate(timeout=60)

    listed = veltrix("archive", "read", str(folder), "--json")
    written = veltrix("archive", "write", str(DAY), "--to", str(folder))
    verified = veltrix("archive", "read", str(folder), "--verify")

    assert (listed.json, "has no manifest" in listed.err) == ([], True)
    assert (written.code, verified.code) == (0, 0)
    assert folder.stat().st_mode & 0o777 == 0o700
