"""Whoever has a key may be refused as often as he likes: the audit grows by a few rows a minute."""

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.cut import line_to
from tests.support.served import served
from veltrix.access import keys
from veltrix.access.audit import Audited
from veltrix.access.sessions import SESSIONS_MAX
from veltrix.store.transactions import make_engine, transaction
from veltrix.web.refusals import MINUTE_S, OWN_ROWS, Refusals

READER, TILL = "r" * 43, "t" * 43


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    with transaction(engine) as tx:
        found = tx.exec_driver_sql(
            "select author, action, target_id, (result ->> 'repeats')::int, is_refused from audit"
            " order by id"
        )
        return [tuple(row) for row in found]


def refused(n: int = 0, author: str = "till") -> Audited:
    return Audited(
        author=author,
        action="api.call",
        reason="",
        target="api",
        target_id=f"POST /v1/runs/{n}/cancel",
        result={"status": 403},
        is_refused=True,
    )


ROUTE = "POST /v1/runs/{run_id}/cancel"


def test_the_first_refusals_are_rows_at_once_and_repeats_are_one_row_a_minute(
    engine: Engine,
) -> None:
    clock = Clock()
    refusals = Refusals(engine, clock)

    for n in range(500):
        refusals.note(refused(n), "runs:replay", ROUTE)
    at_once = rows(engine)
    assert at_once == [
        ("till", "api.call", f"POST /v1/runs/{n}/cancel", None, True) for n in range(OWN_ROWS)
    ]
    assert refusals.flush_once() == 0, "the minute is not over"

    clock.now = MINUTE_S
    assert refusals.flush_once() == 1
    assert refusals.flush_once() == 0
    assert rows(engine)[OWN_ROWS:] == [("till", "api.call", ROUTE, 500 - OWN_ROWS, True)]


def test_another_key_reason_or_route_is_seen_at_once_beside_a_flood(engine: Engine) -> None:
    refusals = Refusals(engine, Clock())
    for n in range(100):
        refusals.note(refused(n), "runs:replay", ROUTE)
    before = len(rows(engine))

    refusals.note(refused(author="other"), "runs:replay", ROUTE)
    refusals.note(refused(), "payloads:read", ROUTE)
    refusals.note(refused(), "runs:replay", "GET /v1/audit")

    assert len(rows(engine)) == before + 3


@pytest.mark.parametrize("odd", ["%3F", "%23", "%0A", "%09", "%20", "%C3%A9", "%25"])
def test_no_name_in_a_path_makes_another_route(engine: Engine, database_url: str, odd: str) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "till", ["events:write"], "tests", TILL)

    with served(engine, database_url, require_keys=True) as api:
        connection = HTTPConnection("127.0.0.1", int(api.url.rpartition(":")[2]), timeout=30)
        for n in range(2 * OWN_ROWS):
            headers = {"authorization": f"Bearer {TILL}", "content-type": "application/json"}
            connection.request("POST", f"/v1/runs/{n}{odd}{n}/cancel", "{}", headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 403
        connection.close()

    found = rows(engine)
    assert len(found) == OWN_ROWS + 1
    assert found[-1][2:4] == (ROUTE, OWN_ROWS)


def test_a_new_minute_begins_with_rows_again(engine: Engine) -> None:
    clock = Clock()
    refusals = Refusals(engine, clock)
    refusals.note(refused(), "runs:replay", ROUTE)

    clock.now = MINUTE_S
    for n in range(10):
        refusals.note(refused(n), "runs:replay", ROUTE)

    assert len(rows(engine)) == 1 + OWN_ROWS


def test_what_was_counted_is_written_at_the_end_and_kept_while_the_database_is_away(
    engine: Engine, database_url: str
) -> None:
    with line_to(database_url) as line:
        far = make_engine(line.url, application="refusals", connect_timeout_s=1)
        clock = Clock()
        refusals = Refusals(far, clock)
        for n in range(10):
            refusals.note(refused(n), "runs:replay", ROUTE)
        line.take_down()
        clock.now = MINUTE_S
        with pytest.raises(Exception, match="connection"):
            refusals.flush_once()
        line.bring_up()
        refusals.start()
        refusals.stop()
        far.dispose()

    assert rows(engine)[OWN_ROWS:] == [("till", "api.call", ROUTE, 10 - OWN_ROWS, True)]


def test_who_signs_in_again_and_again_fills_neither_the_audit_nor_the_sessions(
    engine: Engine, database_url: str
) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "viewer", ["runs:read"], "tests", READER)
        keys.create(tx, "till", ["events:write"], "tests", TILL)

    def sign_in(key: str) -> int:
        connection = HTTPConnection("127.0.0.1", int(api.url.rpartition(":")[2]), timeout=30)
        kind = {"content-type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/console/sign-in", f"key={key}", kind)
        status = connection.getresponse().status
        connection.close()
        return status

    with served(engine, database_url, require_keys=True) as api, ThreadPoolExecutor(8) as threads:
        viewed = list(threads.map(sign_in, [READER] * (SESSIONS_MAX + 19)))
        viewed.append(sign_in(READER))  # those at once did not see each other
        refused = list(threads.map(sign_in, [TILL] * 20))

    assert (set(viewed), set(refused)) == ({303}, {403})
    with transaction(engine) as tx:
        assert tx.exec_driver_sql("select count(*) from sessions").scalar_one() == SESSIONS_MAX
    found = rows(engine)
    assert len(found) == 2 * (OWN_ROWS + 1)
    assert {(name, repeats) for name, _, _, repeats, _ in found if repeats} == {
        ("viewer", SESSIONS_MAX + 20 - OWN_ROWS),
        ("till", 20 - OWN_ROWS),
    }


def test_a_key_without_a_right_fills_no_table_that_nobody_may_empty(
    engine: Engine, database_url: str
) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "reader", ["runs:read"], "tests", READER)
        keys.create(tx, "till", ["events:write"], "tests", TILL)
    header = {"Authorization": f"Bearer {READER}"}
    with served(engine, database_url, require_keys=True) as api, ThreadPoolExecutor(8) as threads:
        sent = [("POST", "/v1/events")] * 40
        sent += [("POST", f"/v1/runs/{n}/cancel") for n in range(40)]
        sent += [("POST", f"/v1/failures/{n:016x}/resolve") for n in range(40)]
        sent += [("GET", f"/v1/events?source=/{n}&id=1") for n in range(20)]
        told = list(
            threads.map(lambda call: api.call(call[0], call[1], {}, header).status, sent[:120])
        )
        looks = [
            api.call("GET", path, None, {"Authorization": f"Bearer {TILL}"}).status
            for _, path in sent[120:]
        ]
        at_once = rows(engine)

    assert set(told) == set(looks) == {403}
    assert len(at_once) == 4 * OWN_ROWS
    counted = {target: repeats for _, _, target, repeats, _ in rows(engine)[4 * OWN_ROWS :]}
    assert counted == {
        "POST /v1/events": 40 - OWN_ROWS,
        "POST /v1/runs/{run_id}/cancel": 40 - OWN_ROWS,
        "POST /v1/failures/{group_id}/resolve": 40 - OWN_ROWS,
        "GET /v1/events": 20 - OWN_ROWS,
    }
