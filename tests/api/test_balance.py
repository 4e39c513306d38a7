"""`GET /v1/balance`: the books over HTTP."""

from sqlalchemy import Engine

from tests.support.due_runs import add_runs
from tests.support.served import served
from tests.support.settled import run_sql, settle


def test_the_books_are_told_as_documented(engine: Engine, database_url: str) -> None:
    settle(engine, add_runs(engine, 2), "succeeded")
    add_runs(engine, 1)
    add_runs(engine, 1, type_="shop.unknown", is_routed=False)

    with served(engine, database_url) as api:
        answer = api.get("/v1/balance")

    assert answer.status == 200
    told = answer.body
    assert told.pop("as_of").endswith("Z")
    by = {account["type"]: account for account in told.pop("by")}
    none = {"duplicates": 0, "refused": 0, "dead_letters": 0}
    runs = {"started": 3, "succeeded": 2, "failed": 0, "cancelled": 0, "open": 1}
    runs |= {"queued": 1, "running": 0, "waiting": 0}
    assert told == {
        "events": {"accepted": 4, "routed": 3, "unrouted": 1},
        "runs": runs,
        "beside": none,
        "unaccounted": 0,
        "accounts": 2,
    }
    assert by["shop.order.placed"] == {
        "source": "/tests",
        "type": "shop.order.placed",
        "events": {"accepted": 3, "routed": 3, "unrouted": 0},
        "runs": runs,
        "beside": none,
        "unaccounted": 0,
        "is_overflow": False,
    }


def test_the_list_of_accounts_is_bounded(engine: Engine, database_url: str) -> None:
    for number in range(3):
        add_runs(engine, 1, type_=f"shop.{number}")

    with served(engine, database_url) as api:
        assert len(api.get("/v1/balance?by=2").body["by"]) == 2
        assert api.get("/v1/balance?by=0").body["by"] == []
        assert api.get("/v1/balance?by=1001").status == 400


def test_what_is_unaccounted_is_told(engine: Engine, database_url: str) -> None:
    ids = add_runs(engine, 3)
    run_sql(engine, f"delete from runs where id = '{ids[1]}'")

    with served(engine, database_url) as api:
        assert api.get("/v1/balance").body["unaccounted"] == 1
