"""`/v1/retention`: policies read, previewed and set over HTTP."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import subscribe
from tests.support.old_ledger import add_past, days_ago
from tests.support.served import Client, served
from veltrix.access.audit import AuditFilter, page
from veltrix.access.key_limits import KeyLimits
from veltrix.access.keys import create
from veltrix.domain.states import RunState
from veltrix.operations.retention.rules import DAY_S, JudgedEvent, JudgedRun
from veltrix.store.transactions import transaction

READER, BOUND = "r" * 43, "b" * 43
POLICY = {"outcome": "succeeded", "content_s": 30 * DAY_S, "lines_s": 400 * DAY_S}


def add_days(engine: Engine, *days: float) -> None:
    now = datetime.now(UTC)
    for one in days:
        at = days_ago(now, one)
        ended = [JudgedRun("a", RunState.SUCCEEDED, at)]
        add_past(engine, [JudgedEvent(at, False, True, ended)])


def test_policies_are_previewed_set_and_planned(engine: Engine, database_url: str) -> None:
    add_days(engine, 40, 50)
    with served(engine, database_url) as api:
        before = api.get("/v1/retention").body
        preview = api.call("POST", "/v1/retention/preview", {"policies": [POLICY]})
        unchanged = api.get("/v1/retention/plan").body
        done = api.call("PUT", "/v1/retention", {"policies": [POLICY], "reason": "agreed"})
        first = api.get("/v1/retention/plan?limit=1").body
        rest = api.get(f"/v1/retention/plan?cursor={first['next']}").body
        after = api.get("/v1/retention").body

    assert (before["policies"], len(before["defaults"])) == ([], 4)
    assert [day["leaving"] for day in preview.body["days"]] == [1, 1]
    assert unchanged["days"] == []
    assert done.status == 200
    assert done.body["policies"] == after["policies"]
    assert after["policies"][0] | POLICY == after["policies"][0]
    assert after["policies"][0]["changed_by"] == "local"
    assert first["days"] + rest["days"] == preview.body["days"]
    with transaction(engine) as tx:
        (row,) = page(tx, AuditFilter()).items
    assert (row.action, row.reason, row.author) == ("retention.set", "agreed", "local")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content_s": 60}, "from one day"),
        ({"content_s": 2**70}, "from one day"),
        ({"lines_s": DAY_S}, "as long as content"),
        ({"workflow": "nobody"}, "was ever registered"),
        ({"workflow": "a", "outcome": "unrouted"}, "no workflow"),
        ({"workflow": "\u0000"}, "NUL"),
        ({"outcome": "lost"}, "lost"),
        ({"kept_s": 1}, "no field is called"),
    ],
)
def test_a_policy_that_cannot_be_is_a_problem_and_none_is_set(
    engine: Engine, database_url: str, change: dict[str, object], says: str
) -> None:
    subscribe(engine, "a")
    body = {"policies": [POLICY | {"outcome": "failed"}, POLICY | change], "reason": "r"}
    with served(engine, database_url) as api:
        done = api.call("PUT", "/v1/retention", body)
        seen = api.call("POST", "/v1/retention/preview", {"policies": body["policies"]})
        assert api.get("/v1/retention").body["policies"] == []

    assert (done.status, seen.status) == (400, 400)
    assert says in done.body["detail"]


def test_who_may_only_read_may_plan_and_a_bound_key_sets_its_own_workflows(
    engine: Engine, database_url: str
) -> None:
    subscribe(engine, "a")
    with transaction(engine) as tx:
        create(tx, "reader", ["runs:read"], "tests", READER)
        create(tx, "bound", ["admin"], "tests", BOUND, KeyLimits(workflows=("a",)))
    body = {"policies": [POLICY], "reason": "r"}
    own = {"policies": [POLICY | {"workflow": "a"}], "reason": "r"}
    bound = {"authorization": f"Bearer {BOUND}"}
    with served(engine, database_url, require_keys=True) as api:
        key = {"authorization": f"Bearer {READER}"}
        seen = api.call("POST", "/v1/retention/preview", {"policies": [POLICY]}, key)
        refused = api.call("PUT", "/v1/retention", body, key)
        nobody = api.call("PUT", "/v1/retention", body)
        of_others = api.call("PUT", "/v1/retention", body, bound)
        of_its_own = api.call("PUT", "/v1/retention", own, bound)

    assert seen.status == 200
    assert (refused.status, nobody.status) == (403, 401)
    assert "admin" in refused.body["detail"]
    with transaction(engine) as tx:
        rows = page(tx, AuditFilter(is_refused=True)).items
    assert [row.author for row in rows] == ["bound", "reader"]
    assert (of_others.status, of_its_own.status) == (403, 200)


def test_a_client_is_told_what_it_sent(engine: Engine, database_url: str) -> None:
    with served(engine, database_url) as api:
        answers = [
            api.call("PUT", "/v1/retention", body)
            for body in (b"", b"[]", {"policies": [], "reason": "r"}, {"policies": [POLICY]})
        ]
        cursors = [status(api, cursor) for cursor in ("-1", "x", "1" * 20, "0")]

    assert [answer.status for answer in answers] == [400] * 4
    assert cursors == [400, 400, 400, 200]


def status(api: Client, cursor: str) -> int:
    return api.get(f"/v1/retention/plan?cursor={cursor}").status
