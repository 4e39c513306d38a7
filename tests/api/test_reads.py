"""Lists of events, dead letters and workers over HTTP, and one of each, by who may see what."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs
from tests.support.served import Answer, Client, served
from veltrix.access import keys
from veltrix.domain.dead_letters import DeadLetter
from veltrix.pipeline.relay import dead_letter_rows
from veltrix.releases import release_rows
from veltrix.store import loads
from veltrix.store.transactions import transaction

SECRET = "4711"
UNKNOWN = "01990000-0000-7000-8000-000000000000"
TOKENS = {"blind": "b" * 43, "seeing": "s" * 43, "till": "t" * 43}


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    scopes = {"blind": ["runs:read"], "seeing": ["runs:read", "payloads:read"]}
    with transaction(engine) as tx:
        for name, allowed in (scopes | {"till": ["events:write", "payloads:read"]}).items():
            keys.create(tx, name, allowed, "tests", TOKENS[name])
    with served(engine, database_url, require_keys=True) as client:
        yield client


def get(api: Client, path: str, who: str = "seeing") -> Answer:
    return api.get(path, Authorization=f"Bearer {TOKENS[who]}")


def items(api: Client, path: str, who: str = "seeing") -> list[Any]:
    answer = get(api, path, who)
    assert answer.status == 200, answer.body
    found: list[Any] = answer.body["items"]
    return found


def test_events_are_listed_by_what_is_asked(engine: Engine, api: Client) -> None:
    add_runs(engine, 2, data=f'{{"card": "{SECRET}"}}')
    lost = add_runs(engine, 2, type_="shop.lost", is_routed=False)

    rows = items(api, "/v1/events")
    assert [row["event"] for row in rows] == sorted((r["event"] for r in rows), reverse=True)
    assert [row["event"] for row in items(api, "/v1/events?unrouted=true")] == lost[::-1]
    assert len(items(api, "/v1/events?unrouted=false")) == 2
    assert len(items(api, "/v1/events?type=shop.lost&source=/tests")) == 2
    assert items(api, "/v1/events?until=2020-01-01T00:00:00Z") == []
    assert [r["id"] for r in items(api, f"/v1/events?id={rows[1]['id']}")] == [rows[1]["id"]]
    first = get(api, "/v1/events?limit=3").body
    assert first["items"] == rows[:3]
    assert items(api, f"/v1/events?limit=3&cursor={first['next']}") == rows[3:]
    assert SECRET not in str(get(api, "/v1/events", "seeing").body)
    for wrong in ("source=/tests&id=1&limit=5", "limit=0", "limit=201", "type=%00", "id="):
        assert get(api, f"/v1/events?{wrong}").status == 400, wrong


def test_an_event_is_told_by_either_id_and_redacted(engine: Engine, api: Client) -> None:
    (run,) = add_runs(engine, 1, data=f'{{"card": "{SECRET}"}}')
    (row,) = items(api, "/v1/events")

    by_ours = get(api, f"/v1/events/{row['event']}").body
    by_theirs = get(api, f"/v1/events?source=/tests&id={row['id']}").body
    assert by_ours == by_theirs
    assert by_ours["data"] == {"card": SECRET}
    assert by_ours["runs"] == [{"id": run, "workflow": "fulfil"}]
    for path in (f"/v1/events/{row['event']}", f"/v1/events?source=/tests&id={row['id']}"):
        hidden = get(api, path, "blind").body
        assert hidden["redacted"] is True
        assert SECRET not in str(hidden)
        assert get(api, path, "till").status == 403
    for unknown in (UNKNOWN, "x", "%00"):
        assert get(api, f"/v1/events/{unknown}").status == 404


def bury(engine: Engine, *bodies: bytes) -> None:
    letters = [
        DeadLetter(
            queue="orders",
            reason="malformed",
            detail=f"what is {body!r}",
            content_type="text/plain",
            headers=f'{{"x-card": "{SECRET}"}}',
            body=body,
            run_ids=[UNKNOWN],
        )
        for body in bodies
    ]
    with transaction(engine) as tx:
        dead_letter_rows.insert(tx, letters)


def test_dead_letters_are_listed_and_told_by_id(engine: Engine, api: Client) -> None:
    bury(engine, f"card {SECRET}".encode(), b"\xff\xfe", b"third")
    rows = items(api, "/v1/dead-letters")
    with transaction(engine) as tx:
        dead_letter_rows.mark_seen(tx, [rows[0]["id"]], "anna")

    assert [row["body_bytes"] for row in rows] == [9, 2, 5]
    assert rows[0]["run_ids"] == [UNKNOWN]
    assert [r["id"] for r in items(api, "/v1/dead-letters?unseen=true")] == [
        row["id"] for row in rows[1:]
    ]
    page = get(api, "/v1/dead-letters?limit=2").body
    assert items(api, f"/v1/dead-letters?limit=2&cursor={page['next']}") == rows[2:]
    text, binary = (get(api, f"/v1/dead-letters/{row['id']}").body for row in rows[:2])
    assert (text["body"], text["headers"]) == (f"card {SECRET}", {"x-card": SECRET})
    assert (text["seen_by"], binary["body"], binary["body_base64"]) == ("anna", None, "//4=")
    for path in ("/v1/dead-letters", f"/v1/dead-letters/{rows[0]['id']}"):
        hidden = get(api, path, "blind")
        assert hidden.status == 200
        assert SECRET not in str(hidden.body)
        assert get(api, path, "till").status == 403
    assert get(api, "/v1/dead-letters/9").status == 404
    assert get(api, "/v1/dead-letters/x").status == 400


def report(engine: Engine, node: str, pid: int, **load: Any) -> None:
    with transaction(engine) as tx:
        said = {"queues": {"orders": {"claimed_2s": 3}}, "children": 1} | load
        loads.report(tx, f"{node}/{pid}", node, said)


def test_workers_are_told_with_their_children_by_what_they_last_said(
    engine: Engine, api: Client
) -> None:
    with transaction(engine) as tx:
        release_rows.take_turn(tx)
        release_rows.put(tx, "r1", {"fulfil": "v1", "refund": "v7"}, restart_s=5.0)
    report(engine, "a@one", 1, release="r1")
    report(engine, "a@one", 2, release="r1", queues={"mail": {"claimed_2s": 0}})
    report(engine, "a@one", 3, release="r1", left=True)
    report(engine, "b@two", 1)
    report(engine, "c@\N{SNOWMAN}", 1)
    with transaction(engine) as tx:
        tx.exec_driver_sql(
            "update workers set seen_at = now() - interval '1 minute' where node = 'b@two'"
        )

    one, two, three = items(api, "/v1/workers", "blind")

    assert (one["name"], one["is_present"], one["releases"]) == ("a@one", True, ["r1"])
    assert (one["queues"], one["workflows"]) == (["mail", "orders"], ["fulfil", "refund"])
    assert one["code_versions"] == {"fulfil": ["v1"], "refund": ["v7"]}
    assert [(c["id"], c["claimed_2s"]) for c in one["children"]] == [("a@one/1", 3), ("a@one/2", 0)]
    assert (two["name"], two["is_present"], two["releases"]) == ("b@two", False, [])
    found, query = [], "limit=1"
    while query:
        page = get(api, f"/v1/workers?{query}", "blind").body
        found += page["items"]
        query = f"limit=1&cursor={page['next']}" if page["next"] else ""
    assert [row["name"] for row in found] == [one["name"], two["name"], three["name"]]
    assert get(api, "/v1/workers", "till").status == 403
