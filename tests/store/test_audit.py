"""The audit keeps what was done and refused, and is only added to."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from veltrix.access.audit import (
    RUN_IDS_MAX,
    Audited,
    AuditFilter,
    append,
    digest_of,
    entry,
    page,
    redacted,
)
from veltrix.dev.servers.postgres import Postgres
from veltrix.store.schema import upgrade
from veltrix.store.transactions import make_engine, open_autocommit, transaction

RUN_IDS = [str(UUID(int=number)) for number in (3, 1, 2)]
REPLAYED = Audited(
    author="ops",
    action="run.replay",
    reason="payments are back",
    target="group",
    target_id="f" * 16,
    request={"from": "failed_step"},
    run_ids=RUN_IDS,
    result={"replayed": 3},
)
REFUSED = Audited(
    author="shop",
    action="run.cancel",
    reason="",
    target="run",
    is_refused=True,
    request={"x": "<b>"},
)


def test_rows_come_back_as_they_were_added_newest_first(engine: Engine) -> None:
    with transaction(engine) as tx:
        append(tx, [REPLAYED, REFUSED])

    with open_autocommit(engine) as tx:
        refused, replayed = page(tx, AuditFilter()).items
        whole = entry(tx, replayed.id)

    assert (refused.author, refused.is_refused, refused.runs) == ("shop", True, 0)
    assert (replayed.action, replayed.target, replayed.target_id) == (
        "run.replay",
        "group",
        "f" * 16,
    )
    assert (replayed.runs, replayed.runs_digest) == (3, None)
    assert whole is not None
    assert whole.run_ids == sorted(RUN_IDS)
    assert (bytes(whole.request or b""), bytes(whole.result)) == (
        b'{"from":"failed_step"}',
        b'{"replayed":3}',
    )
    assert redacted(replayed).request is None


@pytest.mark.parametrize(
    "change",
    [
        "update audit set author = 'nobody'",
        "delete from audit",
        "truncate audit",
        "update audit set reason = '' where false",
    ],
)
def test_no_row_is_changed_or_deleted(engine: Engine, change: str) -> None:
    with transaction(engine) as tx:
        append(tx, [REPLAYED])

    with pytest.raises(DBAPIError, match="only added to"), transaction(engine) as tx:
        tx.exec_driver_sql(change)

    with open_autocommit(engine) as tx:
        assert len(page(tx, AuditFilter()).items) == 1


def test_an_effect_that_is_rolled_back_leaves_no_row_and_no_line(engine: Engine) -> None:
    def fail() -> None:
        with transaction(engine) as tx:
            append(tx, [REPLAYED])
            raise LookupError

    with capture_logs() as lines:
        with pytest.raises(LookupError):
            fail()
        with transaction(engine) as tx:
            append(tx, [REFUSED])

    assert [(line["event"], line["author"]) for line in lines] == [("action.refused", "shop")]
    with open_autocommit(engine) as tx:
        assert [row.author for row in page(tx, AuditFilter()).items] == ["shop"]


def test_pages_follow_each_other_and_filters_hold(engine: Engine) -> None:
    with open_autocommit(engine) as tx:
        append(tx, [REPLAYED, REFUSED] * 5)
        seen, cursor = [], None
        while True:
            found = page(tx, AuditFilter(author="ops"), cursor=cursor, limit=2, rows_max=3)
            seen += [row.id for row in found.items]
            if found.next is None:
                break
            cursor = int(found.next)
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        counts = [
            len(page(tx, wanted).items)
            for wanted in (
                AuditFilter(action="run.cancel"),
                AuditFilter(target="group", target_id="f" * 16),
                AuditFilter(is_refused=True),
                AuditFilter(since=hour_ago),
                AuditFilter(until=hour_ago),
            )
        ]

    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen, reverse=True)
    assert counts == [5, 5, 5, 10, 0]


def test_of_a_set_too_large_to_keep_there_are_the_count_and_a_digest(engine: Engine) -> None:
    ids = [str(UUID(int=number)) for number in range(RUN_IDS_MAX + 1)]

    with transaction(engine) as tx:
        append(
            tx, [Audited(author="a", action="run.cancel", reason="r", target="run", run_ids=ids)]
        )
        (row,) = page(tx, AuditFilter()).items

    assert row.runs == RUN_IDS_MAX + 1
    assert row.runs_digest == digest_of(ids[::-1]).hex()


def test_texts_that_no_database_keeps_are_kept_as_near_as_can_be(engine: Engine) -> None:
    row = Audited(author="a\x00b", action="x.y", reason="\ud800<script>", target="run")

    with transaction(engine) as tx:
        append(tx, [row])
        (kept,) = page(tx, AuditFilter()).items

    assert (kept.author, kept.reason) == ("a\N{REPLACEMENT CHARACTER}b", "?<script>")


def ids(engine: Engine) -> list[int]:
    with open_autocommit(engine) as tx:
        return list(tx.exec_driver_sql("select id from audit order by id").scalars())


def test_what_is_rolled_back_leaves_no_gap_and_the_order_is_that_of_the_rows(
    engine: Engine,
) -> None:
    with transaction(engine) as tx:
        append(tx, [REPLAYED])
    with pytest.raises(RuntimeError), transaction(engine) as tx:  # noqa: PT012
        append(tx, [REFUSED, REFUSED])
        raise RuntimeError
    with transaction(engine) as tx:
        append(tx, [REFUSED, REPLAYED, REFUSED])

    assert ids(engine) == [1, 2, 3, 4]
    with open_autocommit(engine) as tx:
        assert [row.author for row in page(tx, AuditFilter()).items] == [
            *("shop", "ops", "shop"),
            "ops",
        ]


def test_older_code_and_many_at_once_leave_no_gap_either(engine: Engine) -> None:
    columns = "author, action, target, reason, request, run_ids, runs, result, is_refused"
    values = "'o', 'a', 't', '', '{}', '{}', 0, '{}', false"
    older = f"insert into audit ({columns}) values ({values})"

    def write(number: int) -> None:
        with transaction(engine) as tx:
            if number % 2:
                tx.exec_driver_sql(older)
            else:
                append(tx, [REPLAYED])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(40)))

    assert ids(engine) == list(range(1, 41))


def test_a_crash_of_the_server_leaves_no_gap(own_postgres: Postgres) -> None:
    url = own_postgres.create_database("audited")
    upgrade(url)
    engine = make_engine(url, application="tests")
    for _ in range(2):
        with transaction(engine) as tx:
            append(tx, [REPLAYED])
        own_postgres.kill()
        own_postgres.start()
    with transaction(engine) as tx:
        append(tx, [REPLAYED])

    assert ids(engine) == [1, 2, 3]
