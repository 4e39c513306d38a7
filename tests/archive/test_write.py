"""A day in files: every row as it was, archived whole or not at all, one part after the other."""

import base64
import fcntl
import gzip
import json
import os
import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.archive.history import (
    add_day,
    copied,
    day_ago,
    detach,
    dropped,
    files_of,
    minutes_since_noon,
)
from tests.support.old_events import add_old_events
from tests.support.settled import run_sql
from veltrix.archive.folder import parts_of, unfinished_in
from veltrix.archive.manifest import (
    TABLES,
    ArchiveBroken,
    ArchivePart,
    ArchiveRefused,
    ArchiveStopped,
)
from veltrix.archive.verify import check_part, verify_archive
from veltrix.store.tables import events, failed_attempts, journal, runs
from veltrix.store.transactions import open_autocommit, transaction

YESTERDAY = day_ago(1)
ORDER = {
    events: "id",
    runs: "id",
    journal: "run_id, generation, position",
    failed_attempts: "run_id, id",
}


def rows_in(part: ArchivePart, table: str) -> list[dict[str, Any]]:
    with gzip.open(part.file(table)) as lines:
        return [json.loads(line) for line in lines]


def as_written(value: Any, type_: str) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return datetime.fromisoformat(value.isoformat()).astimezone(UTC)
    return value


def test_each_row_is_in_its_file_as_it_is_in_its_table(engine: Engine, tmp_path: Path) -> None:
    add_day(engine, YESTERDAY)
    run_sql(engine, "update events set data_binary = '\\x00010203ff', data = null"
                    " where type = 'nobody'")  # fmt: skip
    add_day(engine, day_ago(2), events=1)

    part = copied(engine, tmp_path, YESTERDAY)

    first, end = part.manifest.first_id, part.manifest.end_id
    for table, order in ORDER.items():
        key = order.split(",")[0]
        columns = ", ".join(
            f"{c.name}::text" if str(c.type) in {"JSON", "CHAR(32)", "UUID"} else c.name
            for c in table.columns
        )
        with transaction(engine) as tx:
            stored = tx.execute(
                text(f"select {columns} from {table.name} as t where {key} >= :first and {key}"
                     f" < :end order by {', '.join(f't.{o.strip()}' for o in order.split(','))}"),
                {"first": first, "end": end},
            ).all()  # fmt: skip
        found = rows_in(part, table.name)
        assert len(found) == len(stored) == part.manifest.files[table.name].rows > 0
        for line, row in zip(found, stored, strict=True):
            assert list(line) == [c.name for c in table.columns]
            for name, value in zip(line, row, strict=True):
                if isinstance(value, datetime):
                    assert datetime.fromisoformat(line[name]) == value
                else:
                    assert line[name] == as_written(value, name)
    assert part.manifest.counts == {
        "accepted": 14, "routed": 12, "unrouted": 2, "started": 12, "succeeded": 4, "failed": 4,
        "cancelled": 4,
    }  # fmt: skip


def test_more_rows_than_a_page_are_each_there_once(engine: Engine, tmp_path: Path) -> None:
    add_day(engine, YESTERDAY, events=70)  # 210 runs with 22 steps each

    part = copied(engine, tmp_path, YESTERDAY)

    keys = [(r["run_id"], r["generation"], r["position"]) for r in rows_in(part, "journal")]
    assert len(keys) == 210 * 22
    assert keys == sorted(set(keys))
    assert len({row["id"] for row in rows_in(part, "events")}) == 212
    assert check_part(part) == 212 + 210 + 210 * 22 + 140


def test_a_manifest_says_what_sha256sum_says_and_names_the_one_before(
    engine: Engine, tmp_path: Path
) -> None:
    days = [day_ago(3), day_ago(2), YESTERDAY]
    parts = []
    for day in days:
        add_day(engine, day, events=1)
        parts.append(copied(engine, tmp_path, day))

    for number, (day, part) in enumerate(zip(days, parts, strict=True), 1):
        manifest = json.loads((tmp_path / day.isoformat() / "manifest.json").read_bytes())
        assert (manifest["day"], manifest["number"], manifest["format"]) == (str(day), number, 1)
        assert manifest["drop"] is None
        for file in manifest["files"].values():
            content = (part.path / file["name"]).read_bytes()
            assert (len(content), sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    links = [part.manifest.before for part in parts]
    assert links[0] is None
    for link, before in zip(links[1:], parts, strict=False):
        assert link is not None
        text_ = (before.path / "manifest.json").read_bytes()
        assert (link.part, link.sha256) == (before.name, sha256(text_).hexdigest())


def test_the_same_rows_make_the_same_bytes(engine: Engine, tmp_path: Path) -> None:
    add_day(engine, YESTERDAY)

    one, two = copied(engine, tmp_path / "a", YESTERDAY), copied(engine, tmp_path / "b", YESTERDAY)

    assert one.manifest.files == two.manifest.files


def test_a_drop_is_archived_as_the_books_say_and_again_is_the_same_part(
    engine: Engine, tmp_path: Path
) -> None:
    add_day(engine, YESTERDAY)
    drop_id = detach(engine, YESTERDAY, "('succeeded', 'cancelled')")
    part = dropped(engine, tmp_path, YESTERDAY, drop_id)
    again = dropped(engine, tmp_path, YESTERDAY, drop_id)
    second = dropped(engine, tmp_path, YESTERDAY, detach(engine, YESTERDAY, "('failed')"))
    with open_autocommit(engine) as tx:
        found = verify_archive(tmp_path, ledger=tx)

    assert again == part
    assert (part.name, second.name) == (str(YESTERDAY), f"{YESTERDAY}.2")
    assert part.manifest.counts["started"] == 8
    assert second.manifest.counts["failed"] == 4
    assert (found.parts, found.findings, found.is_ledger_asked) == (2, [], True)
    assert [p.name for p in parts_of(tmp_path)] == [part.name, second.name]


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("delete from gone_events where id = (select id from gone_events limit 1)", "accepted"),
        ("delete from gone_runs where state = 'failed'", "started 4"),
        ("update gone_runs set state = 'failed' where state = 'succeeded'", "succeeded 4"),
        ("update gone_runs set state = 'queued' where state = 'succeeded'", "are open"),
        ("update gone_events set account_id = 77", "accepted 4, the files have 0"),
        ("update gone_events set minute = minute + 1", "is filed under"),
        ("update gone_runs set id = (left(id::text, 30) || '000001')::uuid", "other ids than"),
        ("update dropped set digest = '\\x00'", "other ids than"),
        ("delete from dropped where failed > 0", "nothing of these rows"),
        ("truncate dropped", "nothing of these rows"),
    ],
)
def test_a_drop_whose_files_and_books_differ_is_not_archived(
    engine: Engine, tmp_path: Path, lie: str, says: str
) -> None:
    add_day(engine, YESTERDAY)
    drop_id = detach(engine, YESTERDAY)
    with transaction(engine) as tx:
        tx.execute(text(lie))

    with pytest.raises(ArchiveBroken, match=says):
        dropped(engine, tmp_path, YESTERDAY, drop_id)

    assert parts_of(tmp_path) == []
    assert unfinished_in(tmp_path) == [str(YESTERDAY)]


@pytest.mark.parametrize("files", [1, 3, 5])
def test_what_a_writer_that_died_left_is_replaced(
    engine: Engine, tmp_path: Path, files: int
) -> None:
    add_day(engine, YESTERDAY)
    whole = copied(engine, tmp_path / "whole", YESTERDAY)
    place = tmp_path / "archive" / whole.name
    place.mkdir(parents=True)
    for name in sorted(file.name for file in whole.manifest.files.values())[:files]:
        (place / name).write_bytes(whole.path.joinpath(name).read_bytes()[:100])
    (place / "manifest.json.partial").write_text("{")
    assert parts_of(tmp_path / "archive") == []

    part = copied(engine, tmp_path / "archive", YESTERDAY)

    assert part.manifest.files == whole.manifest.files
    assert files_of(tmp_path / "archive") == files_of(tmp_path / "whole")
    assert verify_archive(tmp_path / "archive").findings == []


def test_who_is_told_to_stop_leaves_nothing_and_nothing_is_archived(
    engine: Engine, tmp_path: Path
) -> None:
    add_day(engine, YESTERDAY, events=70)
    told: list[int] = []
    stops = (1, 3, 20, 30)
    for stop_at in stops:
        told.clear()

        def show(rows: int, stop_at: int = stop_at) -> bool:
            told.append(rows)
            return len(told) < stop_at

        with pytest.raises(ArchiveStopped):
            copied(engine, tmp_path, YESTERDAY, show)
        assert files_of(tmp_path) == set()
    assert parts_of(tmp_path) == []
    assert copied(engine, tmp_path, YESTERDAY).manifest.number == 1


def test_a_copy_is_of_one_moment(engine: Engine, tmp_path: Path) -> None:
    add_day(engine, YESTERDAY)

    def meanwhile(_rows: int) -> bool:
        add_old_events(engine, minutes_since_noon(YESTERDAY))
        run_sql(engine, "update runs set state = 'cancelled' where state = 'failed'"
                        " or state = 'cancelled'")  # fmt: skip
        return True

    part = copied(engine, tmp_path, YESTERDAY, meanwhile)

    assert (part.manifest.counts["accepted"], part.manifest.counts["failed"]) == (14, 4)


def test_open_runs_of_a_living_day_are_copied_and_counted(engine: Engine, tmp_path: Path) -> None:
    add_old_events(engine, minutes_since_noon(YESTERDAY), 3)

    part = copied(engine, tmp_path, YESTERDAY)

    assert (part.manifest.counts["started"], part.manifest.counts["succeeded"]) == (3, 0)
    assert verify_archive(tmp_path).findings == []


def test_an_archive_is_of_one_ledger_one_writer_and_a_day_is_copied_once(
    engine: Engine, tmp_path: Path
) -> None:
    add_day(engine, YESTERDAY, events=1)
    copied(engine, tmp_path, YESTERDAY)

    with pytest.raises(ArchiveRefused, match="--again"):
        copied(engine, tmp_path, YESTERDAY)
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ArchiveRefused, match="another process writes"):
        copied(engine, tmp_path, day_ago(2))
    os.close(held)
    place = tmp_path / str(day_ago(2))
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    with pytest.raises(ArchiveRefused, match=re.escape("mine.txt' is not ours")):
        copied(engine, tmp_path, day_ago(2))
    assert (place / "mine.txt").read_text() == "mine"
    run_sql(engine, "update ledger set id = gen_random_uuid()")
    with pytest.raises(ArchiveRefused, match="name another folder"):
        copied(engine, tmp_path, day_ago(3))
    run_sql(engine, "delete from ledger")
    with pytest.raises(ArchiveRefused, match="could not say whose it is"):
        copied(engine, tmp_path, day_ago(3))


def test_an_empty_day_is_a_part_without_rows(engine: Engine, tmp_path: Path) -> None:
    part = copied(engine, tmp_path, day_ago(900))

    assert {part.manifest.files[table].rows for table in TABLES} == {0}
    assert verify_archive(tmp_path).findings == []
