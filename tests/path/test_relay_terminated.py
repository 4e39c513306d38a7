"""Relay and api, SIGTERM while what they talk to says nothing more: gone in time."""

import threading
import time
import urllib.request
from contextlib import suppress
from typing import Any

import pytest

from tests.path.seen import Scene, Start
from tests.support.wait import until
from veltrix.processes import api as server
from veltrix.processes import relay
from veltrix.prove.deployment.tcp_proxy import TcpProxy


def test_a_relay_leaves_in_time_though_nobody_answers_it(scene: Start) -> None:
    seen = scene(workers=0, relays=0)
    lines = {
        "BROKER_URL": TcpProxy(seen.platform.broker_url),
        "DATABASE_URL": TcpProxy(seen.platform.database_url),
    }
    try:
        for name, line in lines.items():
            seen.platform.start(name, "relay", {f"VELTRIX_{name}": line.url})
        until(lambda: all(seen.platform.processes[name].is_ready for name in lines), 20, "relays")
        seen.add([["note"]])
        until(lambda: handed_over(seen), what="the first run to be handed over")
        for line in lines.values():
            line.fall_silent()
        seen.add([["note"]], 500)
        for name in lines:
            seen.platform.terminate(name)
        asked = time.monotonic()

        assert [seen.platform.wait_ended(name) for name in lines] == [0, 0]
        assert time.monotonic() - asked < relay.END_S + 2.0
    finally:
        for line in lines.values():
            line.close()


def handed_over(seen: Scene) -> list[Any]:
    """The runs that a relay took up."""
    return seen.ask("select id from runs where due_at > now()")


@pytest.mark.slow
def test_an_api_leaves_in_time_though_a_request_never_ends(scene: Start) -> None:
    seen = scene(workers=0, relays=0)
    line = TcpProxy(seen.platform.database_url)
    try:
        api = seen.platform.start("api-1", "api", {"VELTRIX_DATABASE_URL": line.url})
        until(lambda: api.is_ready, 20, "the api")
        line.fall_silent()

        def ask() -> None:
            with suppress(OSError):
                urllib.request.urlopen(f"{api.url}/v1/runs", timeout=60)  # noqa: S310

        asking: list[Any] = [threading.Thread(target=ask, daemon=True) for _ in range(10)]
        for one in asking:
            one.start()
        seen.platform.terminate("api-1")
        asked = time.monotonic()

        limit_s = server.LEAVE_S + server.GRACE_S + server.END_S
        assert seen.platform.wait_ended("api-1", limit_s + 5) == 0
        assert time.monotonic() - asked < limit_s + 2.0
    finally:
        line.close()
