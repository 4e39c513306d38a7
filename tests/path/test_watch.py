"""The doctor's watch on a real platform: canaries, findings that come and go, and who is told."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.path.seen import Scene, Start
from tests.path.site import connect, post
from tests.support.processes import freeze, thaw
from tests.support.wait import until
from veltrix.doctor.rules import canaries as rules_of_canaries
from veltrix.doctor.watch import canary_rows
from veltrix.doctor.watch.canaries import Canaries
from veltrix.operations.books.books import balance
from veltrix.store.transactions import transaction

INTERVAL_S = 1
PATIENCE_S = 40.0


class Hook:
    """A webhook that keeps what it was sent; it refuses the first `refusals`."""

    def __init__(self, refusals: int = 0) -> None:
        self.events: list[dict[str, Any]] = []
        self.refused = 0
        hook = self

        class Take(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_refused = hook.refused < refusals
                hook.refused += is_refused
                if not is_refused:
                    hook.events.append(json.loads(body))
                self.send_response(503 if is_refused else 204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/told?token=secret"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def told(self, id_: str, word: str) -> list[str]:
        """What it was told of this rule with this word in what was found, in order."""
        return [
            event["type"].rpartition(".")[2]
            for event in self.events
            if event["data"]["id"] == id_ and word in event["data"]["found"]
        ]


@pytest.fixture
def hook() -> Iterator[Hook]:
    one = Hook(refusals=1)
    yield one
    one.close()


@contextmanager
def watching(log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`veltrix doctor --watch`, ended in the end whatever it does."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "veltrix.cli", "doctor", "--watch"],
            stdout=output,
            stderr=output,
            env={**os.environ, **env},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def report(seen: Scene) -> dict[str, Any]:
    """`GET /v1/doctor`."""
    found: dict[str, Any] = json.loads(fetched(seen.platform.api_url, "/v1/doctor"))
    return found


def fetched(url: str, path: str) -> str:
    """What is there."""
    with closing(connect(url)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def ids(seen: Scene) -> set[str]:
    """The ids of what is found now, and not accepted."""
    return {
        one["finding"]["id"]
        for one in report(seen)["findings"]
        if one["finding"]["accepted"] is None
    }


def test_what_appears_and_what_goes_is_shown_measured_and_told(
    scene: Start, hook: Hook, tmp_path: Path
) -> None:
    seen = scene(apis=1, workers=1, hold_s=1)
    env = {
        **seen.platform.env,
        "VELTRIX_DOCTOR_INTERVAL_S": str(INTERVAL_S),
        "VELTRIX_DOCTOR_CANARY_S": "4",
        "VELTRIX_DOCTOR_APIS": seen.platform.api_url,
        "VELTRIX_DOCTOR_WEBHOOK": hook.url,
        "VELTRIX_DOCTOR_PORT": "0",
        "VELTRIX_LOG_FORMAT": "json",
    }
    assert report(seen) == {"look": None, "findings": [], "gone": [], "canaries": []}
    log = tmp_path / "watch.log"
    with watching(log, env) as watch:
        queues = {queue for (queue,) in seen.ask("select distinct queue from subscriptions")}
        until(
            lambda: (
                {c["queue"] for c in report(seen)["canaries"] if c["ending"] == "out"} == queues
            ),
            PATIENCE_S,
            "a canary of each queue to come out",
        )
        look = report(seen)["look"]
        assert look["is_watched"]
        assert look["held"] > 50
        assert balance(seen.engine).events.accepted == 0
        assert ids(seen).isdisjoint({"O16", "O17", "O18"})

        freeze(seen.platform.processes["worker-1"].pid)
        until(lambda: "O16" in ids(seen), PATIENCE_S, "the canary to be late")
        assert len(seen.ask("select 1 from canaries where ending is null")) <= len(queues)
        text = _metrics(log)
        assert 'veltrix_doctor_findings{id="O16"' in text
        assert re.search(r'veltrix_canaries_total\{ending="out",queue="path"\} [1-9]', text)
        until(lambda: hook.told("O16", "'path'") == ["appeared"], PATIENCE_S, "the webhook to know")

        thaw(seen.platform.processes["worker-1"].pid)
        until(lambda: "O16" not in ids(seen), PATIENCE_S, "the finding to go")
        assert "O16" in {one["finding"]["id"] for one in report(seen)["gone"]}
        until(
            lambda: hook.told("O16", "'path'") == ["appeared", "gone"],
            PATIENCE_S,
            "the webhook to know that it is gone",
        )
        assert hook.refused == 1
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(10) == 0
    lines = log.read_text()
    assert '"event": "finding.appeared"' in lines
    assert '"event": "finding.gone"' in lines
    assert "token=secret" not in lines
    until(lambda: not report(seen)["look"]["is_watched"], what="that nobody watches")


def test_an_api_that_is_gone_is_named_and_one_canary_waits_for_it(
    scene: Start, tmp_path: Path
) -> None:
    seen = scene(apis=1, workers=1, hold_s=1)
    gone = "http://127.0.0.1:1"
    env = {
        **seen.platform.env,
        "VELTRIX_DOCTOR_INTERVAL_S": str(INTERVAL_S),
        "VELTRIX_DOCTOR_APIS": f"{seen.platform.api_url}, {gone}",
        "VELTRIX_DOCTOR_PORT": "0",
    }
    with watching(tmp_path / "first.log", env):
        until(lambda: "O17" in ids(seen), PATIENCE_S, "the finding")
        (finding,) = (
            one["finding"] for one in report(seen)["findings"] if one["finding"]["id"] == "O17"
        )
        assert gone in finding["found"]
        with watching(tmp_path / "second.log", env) as second:
            until(
                lambda: "health.listening" in (tmp_path / "second.log").read_text(),
                what="another watch",
            )
            assert second.poll() is None
            first = report(seen)["look"]["watcher"]
            assert report(seen)["look"]["watcher"] == first, "one looks, the other stands by"
        assert seen.ask("select count(*) from canaries where api like '%%:1' and event_id is null")
    apis = {api for (api,) in seen.ask("select distinct api from canaries where ending = 'out'")}
    assert apis <= {seen.platform.api_url}


def test_canaries_are_deleted_with_their_events_and_runs_and_nothing_else(scene: Start) -> None:
    seen = scene(apis=1, workers=1, hold_s=1)
    users = seen.add([])
    seen.wait_settled(users)
    event = {
        "specversion": "1.0",
        "id": "mine",
        "source": "/veltrix/canary",
        "type": "veltrix.canary.path",
        "data": {"number": 1},
    }
    with transaction(seen.engine) as tx:
        canary_rows.note_sending(tx, [("mine", "path", "http://api")])
    knows = re.compile(r"^veltrix_subscriptions [1-9]", re.MULTILINE)
    api = seen.platform.api_url
    until(lambda: knows.search(fetched(api, "/metrics")), what="the api to know the queues")
    with closing(connect(api)) as connection:
        status, items = post(connection, [event])
    assert status == 202
    (run,) = items[0]["runs"]
    assert seen.wait_settled([run["id"]]) == {"succeeded": 1}
    with transaction(seen.engine) as tx:
        (one,) = canary_rows.on_way(tx)
        assert one.state == "succeeded"
        ending = canary_rows.CanaryEnding("mine", "out", one.took_s, one.event_id)
        canary_rows.note_endings(tx, [ending])
        assert canary_rows.forget(tx) == 0, "it is kept for a while"
    with transaction(seen.engine) as tx:
        assert canary_rows.forget(tx, kept_s=0) == 1
    left = "select (select count(*) from events), (select count(*) from runs), "
    left += "(select count(*) from canaries), (select count(*) from identities)"
    assert seen.ask(left) == [(1, 1, 0, 1)]


def _metrics(log: Path) -> str:
    """/metrics of the watch whose log this is."""
    port = re.search(r'"port": (\d+)', log.read_text())
    assert port is not None
    return fetched(f"http://127.0.0.1:{port[1]}", "/metrics")


def test_a_canary_that_was_accepted_and_has_no_run_is_lost(scene: Start) -> None:
    seen = scene(apis=1, workers=1)
    event = {
        "specversion": "1.0",
        "id": "lost",
        "source": "/veltrix/canary",
        "type": "veltrix.canary.nobody_has_this_queue",
    }
    with transaction(seen.engine) as tx:
        canary_rows.note_sending(tx, [("lost", "nobody_has_this_queue", "http://api")])
    with closing(connect(seen.platform.api_url)) as connection:
        assert post(connection, [event])[0] == 202

    ways = Canaries(seen.engine, [], new_id=str, may_take_s=0.0).look()

    (evidence,) = rules_of_canaries.lost(ways)
    assert "'nobody_has_this_queue'" in evidence.found
    assert list(rules_of_canaries.late(ways)) == []
    assert list(rules_of_canaries.refusing_api(ways)) == []
