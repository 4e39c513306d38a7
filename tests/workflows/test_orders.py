"""Orders as plain code, and what a run makes of a carrier that is busy."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, read_runs
from tests.support.hands import TestHands
from veltrix import Event, StepFailed
from workflows import orders
from workflows.orders import Carrier, CarrierBusy, Fulfilment, Order, fulfil_order


def placed(**changes: object) -> Event[Order]:
    values: dict[str, object] = {"id": "o-1", "sku": "lamp", "quantity": 2, "cents": 4_990}
    return Event("/shop", "1", "shop.order.placed", Order(**(values | changes)))  # type: ignore[arg-type]


def outcome_of(event: Event[Order]) -> Fulfilment:
    async def run() -> Fulfilment:
        fulfilment: Fulfilment = await fulfil_order(event)
        return fulfilment

    return asyncio.run(run())


def test_an_order_is_reserved_charged_and_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "carrier", Carrier(busy_share=0.0))

    fulfilment = outcome_of(placed())

    assert fulfilment.status == "shipped"
    assert fulfilment.payment.startswith("payment-")
    assert (fulfilment.parcel or "").startswith("parcel-")


def test_an_order_that_cannot_be_shipped_is_refunded_and_its_goods_are_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undone: list[tuple[str, str]] = []

    async def ship(_order_id: str, country: str) -> str:
        raise StepFailed("ship", "NotServed", f"no parcels to {country}")

    async def refund(payment: str) -> None:
        undone.append(("refund", payment))

    async def release(reservation: str) -> None:
        undone.append(("release", reservation))

    for name, replacement in {"ship": ship, "refund": refund, "release": release}.items():
        monkeypatch.setattr(orders, name, replacement)

    fulfilment = outcome_of(placed(country="AQ"))

    assert fulfilment == Fulfilment("refunded", fulfilment.payment, reason="no parcels to AQ")
    assert undone == [("refund", fulfilment.payment), ("release", "2 x lamp")]


def test_the_carrier_is_busy_for_the_share_of_calls_that_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orders, "random", random.Random(1).random)

    async def answers() -> list[bool]:
        carrier = Carrier(busy_share=0.2)
        return [await is_busy(carrier, number) for number in range(1_000)]

    assert 150 < sum(asyncio.run(answers())) < 250


async def is_busy(carrier: Carrier, number: int) -> bool:
    try:
        parcel = await carrier.book(f"o-{number}", "US", "key")
    except CarrierBusy:
        return True
    assert parcel == "parcel-key"
    return False


@pytest.fixture
def hands(engine: Engine) -> Iterator[TestHands]:
    hands = TestHands(engine, [fulfil_order])
    yield hands
    hands.close()


def add(engine: Engine, data: str) -> list[str]:
    return add_runs(engine, 1, workflow="fulfil_order", queue="orders", data=data)


LAMP = '{"id":"o-7","sku":"lamp","quantity":1,"cents":4990}'


def test_a_run_waits_while_the_carrier_is_busy_and_is_charged_once(
    engine: Engine, hands: TestHands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "carrier", Carrier(busy_share=1.0))
    run_ids = add(engine, LAMP)

    assert hands.run(run_ids) == {run_ids[0]: "waiting"}
    assert read_runs(engine, run_ids, "state, key") == [("waiting", "o-7")]


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        (("4990", "1000001"), "failed", "error"),
        (('"US"', '"AQ"'), "succeeded", None),
        (("1,", "0,"), "failed", "invalid_input"),
    ],
    ids=["declined", "not served", "no quantity"],
)
def test_a_run_that_cannot_ship_ends_as_its_author_said(
    engine: Engine,
    hands: TestHands,
    change: tuple[str, str],
    state: str,
    reason: str | None,
) -> None:
    data = LAMP.replace("}", ',"country":"US"}').replace(*change)
    run_ids = add(engine, data)

    assert hands.run(run_ids) == {run_ids[0]: state}
    assert read_runs(engine, run_ids, "reason") == [(reason,)]
