"""Apis that answer a canary in odd ways: each is named, and the look ends and goes on."""

from contextlib import ExitStack
from itertools import product

import pytest
from sqlalchemy import Engine

from tests.support.accepting import subscribe, subscription
from tests.support.odd_server import answer, odd_server
from veltrix.doctor.examine import examine
from veltrix.doctor.facts.canaries import ApiTrouble, CanaryWays
from veltrix.doctor.rules import canaries as rules
from veltrix.doctor.watch import canary_rows, look_rows
from veltrix.doctor.watch.canaries import Canaries
from veltrix.doctor.watch.watch import DoctorWatch
from veltrix.store.transactions import transaction

ODD = {
    "what it packed is none": answer(b"202 OK", b"garbage", b"Content-Encoding: gzip\r\n"),
    "what no text may hold": answer(b"422 No", b'{"status":422,"detail":"bad\\u0000thing"}'),
    "no JSON": answer(b"202 OK", b"<html>"),
    "it leads elsewhere": answer(b"302 Found", b"", b"Location: http://127.0.0.1:9/\r\n"),
    "nothing": b"",
}


@pytest.mark.parametrize("what", [*ODD, "an answer without an end"])
def test_an_api_that_answers_oddly_is_named_and_the_look_is_written(
    engine: Engine, what: str
) -> None:
    subscribe(engine, subscription("fulfil", "shop.order.placed"))
    with ExitStack() as ending:
        api = ending.enter_context(odd_server(ODD.get(what)))
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


def test_each_queue_goes_by_each_api_in_its_turn(engine: Engine) -> None:
    queues = {"orders", "mails", "bills"}
    subscribe(engine, *(subscription(f"of_{queue}", "shop.*", queue=queue) for queue in queues))
    apis = ["http://127.0.0.1:9", "http://127.0.0.1:13"]  # nobody is there, so all of them wait
    numbers = iter(range(100))
    canaries = Canaries(engine, apis, new_id=lambda: str(next(numbers)), may_take_s=60.0)
    try:
        for _ in range(4):
            canaries.look()
    finally:
        canaries.close()

    with transaction(engine) as tx:
        found = [(one.queue, one.api) for one in canary_rows.on_way(tx)]
    assert sorted(found) == sorted(product(queues, apis)), "one of each, and no more"


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


def test_a_watch_that_stands_still_says_so(engine: Engine) -> None:
    ways = CanaryWays(troubles=[], late=[], lost=[], may_take_s=1.0)
    now = [100.0]
    watch = DoctorWatch(
        engine,
        "one",
        rules.rules,
        {CanaryWays: lambda: ways},
        {},
        is_production=False,
        interval_s=10.0,
        webhook=None,
        monotonic=lambda: now[0],
        unix_s=lambda: 0.0,
    )
    assert watch.is_turning(), "it has just begun"
    now[0] += 31
    assert not watch.is_turning()
    watch.once()
    assert (watch.is_turning(), watch.is_looking) == (True, True)
