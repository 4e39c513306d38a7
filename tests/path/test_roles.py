"""The platform does all its work as a role that owns nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.path.seen import Scene, options
from tests.support.roles import Roles, make_roles
from tests.support.served import Client
from tests.support.wait import until
from veltrix.access.audit_check import verify
from veltrix.broker.names import INBOUND
from veltrix.dev.platform import Platform
from veltrix.store.transactions import make_engine, transaction

KEY = "k" * 40
SIDES = ("api-1", "relay-1", "worker-1")
BATCH, ONE = "application/cloudevents-batch+json", "application/cloudevents+json"


def event(number: int, deeds: Any, type_: str = "path.act") -> dict[str, Any]:
    named = {"specversion": "1.0", "id": str(number), "source": "/roles", "type": type_}
    return named | {"data": deeds}


def publish_to_nobody(broker_url: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    connection.channel().basic_publish(INBOUND, "nobody", b"to nobody's queue")
    connection.close()


@pytest.fixture
def roles(database_url: str) -> Roles:
    return make_roles(database_url)


@pytest.fixture
def seen(platform: Callable[..., Platform], roles: Roles, tmp_path: Path) -> Iterator[Scene]:
    """A platform as the role that `veltrix db grants` names, whose children die for good."""
    (tmp_path / "admin").write_text(KEY)
    env = {
        "VELTRIX_DATABASE_URL": roles.app,
        "VELTRIX_DATABASE_OWNER_URL": "",
        "VELTRIX_REQUIRE_KEYS": "true",
        "VELTRIX_ADMIN_KEY_FILE": str(tmp_path / "admin"),
        "VELTRIX_POISON_CRASHES_MAX": "1",
    }
    effects = tmp_path / "effects"
    seen = Scene(platform(**options(effects, env=env, apis=1)), effects)
    with transaction(seen.engine) as tx:
        tx.exec_driver_sql(f"grant insert on bookings to {roles.name('app')}")
    seen.wait_registered()
    yield seen
    seen.engine.dispose()


def test_no_process_needs_a_right_that_is_not_granted(
    seen: Scene, roles: Roles, database_url: str
) -> None:
    api = Client(seen.platform.processes["api-1"].port)

    def post(path: str, body: Any, kind: str = "application/json") -> Any:
        head = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
        answer = api.call("POST", path, body, head)
        assert answer.status in {200, 201, 202}, answer
        return answer.body

    def states() -> Counter[str]:
        return Counter(state for (state,) in seen.ask("select state from runs"))

    def is_settled() -> bool:
        found = states()
        return found.total() == 24 and not found.keys() & {"queued", "running", "waiting"}

    deeds = [[["note"], ["book"]]] * 20 + [[["pause_async", 0.3]], [["spin"]], [["kill"]], [["x"]]]
    post("/v1/events", [event(number, one) for number, one in enumerate(deeds)], BATCH)
    post("/v1/events", event(99, None, "nobody.asks"), ONE)
    publish_to_nobody(seen.platform.broker_url)
    until(is_settled, 20, "the runs to settle")
    assert states() == Counter(succeeded=21, failed=3)
    failed = [row_id for (row_id,) in seen.ask("select id::text from runs where state = 'failed'")]
    post(f"/v1/runs/{failed[0]}/replay", {"reason": "r", "from": "beginning"})
    plan = post("/v1/replays", {"reason": "r", "ids": failed[1:2]})
    post(f"/v1/replays/{plan['id']}/start", {"reason": "r"})
    post("/v1/runs/archive", {"reason": "r", "ids": failed[2:]})
    started = post("/v1/workflows/act/runs", {"input": [["pause_async", 30]]})
    post("/v1/runs/cancel", {"reason": "r", "ids": [run["id"] for run in started["runs"]]})
    until(lambda: seen.ask("select 1 from dead_letters"), 10, "the dead letter")
    until(lambda: len(seen.ask("select 1 from failure_groups")) == 5, 30, "the groups")
    until(lambda: seen.ask("select 1 from replays where state = 'done'"), 20, "the replay")

    logs = {line for side in SIDES for word in ("permission denied", "duty.failed", "role.powerful")
            for line in seen.log_lines(word, side)}  # fmt: skip
    assert logs == set()
    with transaction(make_engine(roles.read, application="tests"), snapshot=True) as tx:
        assert verify(tx).is_whole
    seen.platform.start("relay-2", "relay", {"VELTRIX_DATABASE_URL": database_url})
    until(lambda: seen.log_lines("role.powerful", "relay-2"), 20, "the superuser to be named")
