"""Whatever is changed in an archive is found, and what is asked for is found in it."""

import gzip
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.archive.history import ODD_JSON, add_day, copied, day_ago, detach, dropped
from tests.support.settled import run_sql
from veltrix.archive.folder import parts_of
from veltrix.archive.manifest import ArchiveBroken, ArchiveRefused, ArchiveStopped
from veltrix.archive.read import find_event
from veltrix.archive.verify import VerifiedArchive, verify_archive
from veltrix.domain.ids import event_id_of
from veltrix.store.transactions import open_autocommit

DAYS = [day_ago(3), day_ago(2), day_ago(1)]
OLDEST, MIDDLE, NEWEST = map(str, DAYS)


@pytest.fixture
def archive(engine: Engine, tmp_path: Path) -> Path:
    """Three days, the first two of them dropped, the last a copy."""
    folder = tmp_path / "archive"
    for day in DAYS:
        add_day(engine, day, events=2)
        if str(day) == NEWEST:
            copied(engine, folder, day)
            continue
        dropped(engine, folder, day, detach(engine, day))
    return folder


def verified(engine: Engine, folder: Path) -> VerifiedArchive:
    with open_autocommit(engine) as tx:
        return verify_archive(folder, ledger=tx)


def packed(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """The rows of a file after this change, packed again."""
    with gzip.open(path) as lines:
        rows = [json.loads(line) for line in lines]
    change(rows)
    with gzip.open(path, "wb") as out:
        for row in rows:
            out.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")


def believed(folder: Path, part: str, table: str, **says: object) -> None:
    """The manifest says of this file what is there now, as a careful liar would."""
    path = folder / part / "manifest.json"
    manifest = json.loads(path.read_bytes())
    file = manifest["files"][table]
    content = (folder / part / file["name"]).read_bytes()
    file |= {"bytes": len(content), "sha256": sha256(content).hexdigest()} | says
    path.write_text(json.dumps(manifest))


def test_a_whole_archive_is_whole_with_and_without_its_ledger(
    engine: Engine, archive: Path
) -> None:
    for found in (verify_archive(archive), verified(engine, archive)):
        assert found.findings == []
        assert (found.parts, found.is_complete, found.begins_after) == (3, True, None)
        last = (archive / NEWEST / "manifest.json").read_bytes()
        assert (found.last, found.last_sha256) == (NEWEST, sha256(last).hexdigest())


@pytest.mark.parametrize("table", ["events", "runs", "journal", "failed_attempts", "books"])
def test_one_changed_bit_and_a_lost_end_are_found(archive: Path, table: str) -> None:
    path = archive / MIDDLE / f"{table}.jsonl.gz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        whole[:-1],
        b"",
    ):
        path.write_bytes(damaged)
        (finding,) = verify_archive(archive).findings
        assert finding.part == MIDDLE
        assert "has other bytes than were written" in finding.says
    path.unlink()
    (finding,) = verify_archive(archive).findings
    assert "cannot be read" in finding.says


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("events", lambda rows: rows.pop(), "the part's books say accepted"),
        ("runs", lambda rows: rows[0].update(state="failed"), "the part's books say"),
        ("events", lambda rows: rows[-1].update(id="x"), "has a line that is no row"),
        ("runs", lambda rows: rows.reverse(), "the part's books say"),
        ("journal", lambda rows: rows.pop(), "journal has"),
        ("books", lambda rows: rows.pop(), "nothing of these rows"),
        ("books", lambda rows: rows.clear(), "nothing of these rows"),
    ],
)
def test_a_liar_who_mends_the_manifest_is_found_by_counts_and_by_the_chain(
    archive: Path, table: str, change: Callable[[list[dict[str, Any]]], object], says: str
) -> None:
    packed(archive / MIDDLE / f"{table}.jsonl.gz", change)
    believed(archive, MIDDLE, table)

    found = verify_archive(archive).findings

    assert {finding.part for finding in found} == {MIDDLE}
    told = [finding.says for finding in found]
    assert any(says in one for one in told)
    assert f"its manifest was changed after {NEWEST} was written" in told


def test_the_ledger_finds_what_a_liar_made_agree(engine: Engine, archive: Path) -> None:
    """In the part that no other follows, with books that fit."""
    shutil.rmtree(archive / NEWEST)
    place = archive / MIDDLE
    with gzip.open(place / "runs.jsonl.gz") as lines:
        lost = [json.loads(line) for line in lines if b'"succeeded"' in line]
    packed(
        place / "runs.jsonl.gz",
        lambda rows: [row.update(state="failed") for row in rows if row["state"] == "succeeded"],
    )

    def move(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["failed"] += row["succeeded"]
            row["succeeded"] = 0

    packed(place / "books.jsonl.gz", move)
    for table in ("runs", "books"):
        believed(archive, MIDDLE, table)
    path = place / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["counts"]["failed"] += len(lost)
    manifest["counts"]["succeeded"] = 0
    path.write_text(json.dumps(manifest))

    assert verify_archive(archive).findings == []
    (finding,) = verified(engine, archive).findings
    assert finding.part == MIDDLE
    assert "the ledger's books say succeeded 2, the files have 0" in finding.says


def test_a_part_that_is_gone_is_found(engine: Engine, archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "kept")
    shutil.rmtree(archive / MIDDLE)
    assert [f.part for f in verify_archive(archive).findings] == [NEWEST]
    assert MIDDLE in [f.part for f in verified(engine, archive).findings]

    shutil.rmtree(archive / NEWEST)  # now it is cut off the end: only the ledger knows
    assert verify_archive(archive).findings == []
    assert [f.part for f in verified(engine, archive).findings] == [MIDDLE]

    shutil.rmtree(tmp_path / "kept" / OLDEST)  # the beginning may be kept elsewhere
    found = verified(engine, tmp_path / "kept")
    assert (found.findings, found.begins_after) == ([], OLDEST)


def test_a_part_under_another_name_or_of_another_ledger_is_found(
    engine: Engine, archive: Path
) -> None:
    (archive / NEWEST).rename(archive / f"{NEWEST}.2")
    (finding,) = verify_archive(archive).findings
    assert finding.says == f"its manifest is that of {NEWEST}"
    run_sql(engine, "update ledger set id = gen_random_uuid()")
    with pytest.raises(ArchiveRefused, match="leave --ledger out"):
        verified(engine, archive)


def test_books_that_the_ledger_lost_are_found(engine: Engine, archive: Path) -> None:
    run_sql(engine, "delete from dropped where failed > 0")

    found = verified(engine, archive)

    assert [finding.part for finding in found.findings] == [OLDEST, MIDDLE]
    assert all("nothing of these rows" in finding.says for finding in found.findings)


def test_a_look_that_is_stopped_says_so(engine: Engine, tmp_path: Path) -> None:
    ids = add_day(engine, DAYS[0], events=20)
    copied(engine, tmp_path, DAYS[0])
    told: list[int] = []

    def show(rows: int) -> bool:
        told.append(rows)
        return False

    found = verify_archive(tmp_path, show=show)

    assert (found.is_complete, found.findings) == (False, [])
    with pytest.raises(ArchiveStopped):  # in the journal, which has more than 1,000 rows
        find_event(parts_of(tmp_path), event_id_of(ids[-1]), show)


def test_an_event_is_found_with_all_that_came_of_it(engine: Engine, tmp_path: Path) -> None:
    ids = {day: add_day(engine, day, events=2) for day in DAYS}
    for day in DAYS:
        copied(engine, tmp_path, day)
    parts = parts_of(tmp_path)

    for run_id in ids[DAYS[1]]:
        found = find_event(parts, event_id_of(run_id))
        assert found is not None
        (run,) = found.runs
        assert (found.part, run.run["id"]) == (MIDDLE, run_id)
        assert found.event["data"] == ODD_JSON
        assert [row["position"] for row in run.journal] == sorted(map(str, range(1, 12))) * 2
        assert {row["output"] for row in run.journal} == {'{"x": 1.50}'}
        assert len(run.failed_attempts) == (2 if run.run["state"] == "failed" else 0)
        assert {row["run_id"] for row in (*run.journal, *run.failed_attempts)} == {run_id}
    assert find_event(parts, ids[DAYS[1]][0]) is None, "the id of a run is not that of an event"
    assert find_event(parts, "00000000-0000-7000-8000-000000000000") is None


def test_a_file_that_is_not_whole_is_said_by_who_reads_it(engine: Engine, tmp_path: Path) -> None:
    ids = add_day(engine, DAYS[0], events=2)
    part = copied(engine, tmp_path, DAYS[0])
    path = part.file("journal")
    whole = path.read_bytes()
    no_row = gzip.compress(b"no row\n")
    for damaged in (whole[:-40], b"", b"x" * len(whole), no_row.ljust(len(whole), b"\x00")):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveBroken, match=r"journal\.jsonl\.gz"):
            find_event(parts_of(tmp_path), event_id_of(ids[-1]))


def test_a_drop_of_two_days_is_missed_where_one_of_them_is_not_archived(
    engine: Engine, tmp_path: Path
) -> None:
    for day in DAYS[:2]:
        add_day(engine, day, events=1)
    dropped(engine, tmp_path, DAYS[0], detach(engine, DAYS[0]))
    run_sql(
        engine,
        "insert into dropped select minute + 1440, account_id, drop_id, accepted, routed, unrouted,"
        " started, succeeded, failed, cancelled, 0, digest from dropped",
        "insert into dropped (minute, account_id, drop_id, dead_letters)"
        " select minute, 0, drop_id, 1 from dropped where failed > 0",
    )

    found = verified(engine, tmp_path).findings

    assert [finding.part for finding in found] == [MIDDLE]


def test_a_manifest_that_is_none_or_newer_is_said(archive: Path) -> None:
    path = archive / MIDDLE / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace('"format": 1', '"format": 2'))
    with pytest.raises(ArchiveRefused, match="format 2"):
        verify_archive(archive)
    path.write_text(whole.replace('"runs.jsonl.gz"', '"../runs.jsonl.gz"'))
    with pytest.raises(ArchiveBroken, match="names other files"):
        verify_archive(archive)
    path.write_text(whole[:-10])
    with pytest.raises(ArchiveBroken, match="is no manifest"):
        verify_archive(archive)
