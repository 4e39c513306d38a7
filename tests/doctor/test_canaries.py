"""Apis that answer a canary in odd ways: each is named, and the look ends and goes on."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import Engine

from tests.support.accepting import subscribe, subscription
from veltrix.doctor.examine import examine
from veltrix.doctor.facts.canaries import ApiTrouble, CanaryWays
from veltrix.doctor.rules import canaries as rules
from veltrix.doctor.watch import look_rows
from veltrix.doctor.watch.canaries import Canaries
from veltrix.store.transactions import transaction

_TOP = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s"


def answer(status: bytes, body: bytes, head: bytes = b"") -> bytes:
    return _TOP % (status, len(body), head, body)


ODD = {
    "what it packed is none": answer(b"202 OK", b"garbage", b"Content-Encoding: gzip\r\n"),
    "what no text may hold": answer(b"422 No", b'{"status":422,"detail":"bad\\u0000thing"}'),
    "no JSON": answer(b"202 OK", b"<html>"),
    "it leads elsewhere": answer(b"302 Found", b"", b"Location: http://127.0.0.1:9/\r\n"),
    "nothing": b"",
}


@contextmanager
def odd_api(told: bytes | None) -> Iterator[str]:
    """Says this to each, whatever is asked; None: a byte now and then, and never the end."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                try:
                    line, _ = listener.accept()
                except TimeoutError:
                    continue
                with line:
                    line.recv(65_536)
                    if told is not None:
                        line.sendall(told)
                        continue
                    line.sendall(b"HTTP/1.1 202 OK\r\n")
                    try:
                        while not stop.wait(0.5):
                            line.sendall(b"x: y\r\n")
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("what", [*ODD, "an answer without an end"])
def test_an_api_that_answers_oddly_is_named_and_the_look_is_written(
    engine: Engine, what: str
) -> None:
    subscribe(engine, subscription("fulfil", "shop.order.placed"))
    with ExitStack() as ending:
        api = ending.enter_context(odd_api(ODD.get(what)))
        numbers = iter(range(100))
        canaries = Canaries(engine, [api], new_id=lambda: str(next(numbers)), may_take_s=60.0)
        ending.callback(canaries.close)
        assert canaries.look().troubles == [], "its queues are not known to every api yet"

        looks = [_look(engine, canaries) for _ in range(2)]
        with transaction(engine) as tx:
            kept = look_rows.there(tx)
        assert [len(look.appeared) for look in looks] == [1, 0], "the same at each look"
        assert api in kept[0].finding.found


def _look(engine: Engine, canaries: Canaries) -> look_rows.LookChange:
    found = examine(rules.rules, {CanaryWays: canaries.look})
    assert [one.id for one in found.findings] == ["O17"], found
    with transaction(engine) as tx:
        assert look_rows.take(tx, "one", 60.0)
        return look_rows.note(
            tx, "one", found.findings, found.not_checked, held=found.held, took_ms=1
        )


def test_what_one_look_misses_is_not_gone_and_another_watch_writes_nothing(engine: Engine) -> None:
    def look(watcher: str, *, is_seen: bool) -> look_rows.LookChange:
        ways = CanaryWays(troubles=[], late=[], lost=[], may_take_s=1.0)
        broken = CanaryWays(
            troubles=[ApiTrouble("http://api", "no")], late=[], lost=[], may_take_s=1.0
        )
        found = examine(rules.rules, {CanaryWays: lambda: broken if is_seen else ways})
        with transaction(engine) as tx:
            return look_rows.note(tx, watcher, found.findings, [], held=1, took_ms=1)

    with transaction(engine) as tx:
        assert look_rows.take(tx, "one", 60.0)
    assert len(look("one", is_seen=True).appeared) == 1
    assert look("other", is_seen=False) == look_rows.LookChange([], [])
    assert look("one", is_seen=False).gone == []
    assert look("one", is_seen=True) == look_rows.LookChange([], [])
    assert look("one", is_seen=False).gone == []
    assert len(look("one", is_seen=False).gone) == 1
