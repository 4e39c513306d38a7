"""A shop by SQL: the orders of a day, and what came of them. The same each time but the clock."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table, text

from tests.support.accepting import subscribe, subscription
from tests.support.settled import fold_all
from tests.support.workers import report
from veltrix.domain.ids import workflow_suffix
from veltrix.operations.failures.triage import check_groups, fold_groups_once
from veltrix.pipeline.accept import ledger_rows
from veltrix.releases.subscription_rows import release_of
from veltrix.store.tables import counter_deltas, events, failed_attempts, journal, runs
from veltrix.store.transactions import transaction

OLD, NEW = "2026-11-28.1", "2026-11-30.1"
DECLINED, OUT_OF_STOCK, CARRIER = "9c285ae1f63c1dec", "41d7be09c2aa5310", "e07b4f2d91c86a35"
NAMES = ("Lena Fischer", "Tom Becker", "Aylin Kaya", "Jonas Weber", "Marta Nowak", "Paul Schmitt")
GOODS = (("MUG-07", "Mug, blue", 1290), ("TEE-31", "T-shirt, M", 2400), ("BAG-02", "Bag", 3950))
ORDER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Order",
    "required": ["order", "customer", "items"],
    "properties": {
        "order": {"type": "string", "description": "Number of the order", "minLength": 1},
        "customer": {"type": "string"},
        "express": {"type": "boolean", "default": False},
        "carrier": {"enum": ["dhl", "ups", "post"], "default": "dhl"},
        "deliver_by": {"type": "string", "format": "date"},
        "parcels": {"type": "integer", "minimum": 1, "default": 1},
        "items": {"type": "array", "items": {"type": "object"}},
    },
}
RELEASE = (
    subscription("place_order", "shop.order.placed", code_version=NEW, input_schema=ORDER_SCHEMA),
    subscription("ship_order", "shop.order.paid", queue="shipping", code_version=NEW),
    subscription("remind_cart", "shop.cart.left", queue="mail", code_version=NEW),
)
LIBRARY = """\
  File "/opt/venv/lib/python3.13/site-packages/veltrix/pipeline/execute/coroutines/execution.py", \
line 214, in call
    return step.function(*positional, **keywords)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""
DECLINED_TRACE = f"""Traceback (most recent call last):
{LIBRARY}  File "/srv/shop/workflows/orders.py", line 48, in charge_card
    receipt = bank.charge(order.card, order.total)
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/payments/bank.py", line 31, in charge
    answer = self.session.post("/charges", json=body, timeout=5)
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/opt/venv/lib/python3.13/site-packages/httpx/_models.py", line 829, in raise_for_status
    raise HTTPStatusError(message, request=request, response=self)
payments.errors.CardDeclined: the bank declined the card: 402 insufficient funds
"""


class Shop(msgspec.Struct):
    """Runs that pages are about, by what they are known for."""

    failed: str
    sleeping: str
    succeeded: str


class _Row(msgspec.Struct, kw_only=True):
    workflow: str
    queue: str
    type: str
    source: str = "/shop/web"
    ago_s: float
    took_s: float = 0.0
    state: str = "succeeded"
    version: str = NEW
    data: dict[str, Any]
    subject: str
    failure: tuple[str, str, str, str, str] | None = None  # fingerprint, step, type, message, trace
    sleep_s: float | None = None


class _Books:
    """Rows to be, table by table."""

    def __init__(self, now: datetime) -> None:
        self.now, self.count = now, 0
        self.rows: dict[Table, list[dict[str, Any]]] = {}
        self.moved: Counter[tuple[int, int, str]] = Counter()

    def put(self, table: Table, **values: Any) -> None:
        self.rows.setdefault(table, []).append(values)


def open_shop(engine: Engine) -> Shop:
    """Everything there is: subscriptions, workers, settled, failed, sleeping and queued runs."""
    order = ("place_order", "shop.order.placed")
    subscribe(engine, subscription(*order, code_version=OLD))
    subscribe(engine, subscription("weekly_report", queue="reports", code_version=OLD))
    subscribe(engine, *RELEASE)
    hear_of_workers(engine)
    with transaction(engine) as tx:
        now = tx.execute(text("select now()")).scalar_one()
        books = _Books(now)
        shop = _fill(tx, books)
        for table, rows in books.rows.items():
            for names in {tuple(row) for row in rows}:
                tx.execute(table.insert(), [row for row in rows if tuple(row) == names])
        for (account, minute, name), number in sorted(books.moved.items()):
            tx.execute(
                counter_deltas.insert(), {"account_id": account, "minute": minute, name: number}
            )
    fold_all(engine)
    check_groups(engine, is_corrected=True)
    while fold_groups_once(engine):
        pass
    return shop


def hear_of_workers(engine: Engine) -> None:
    """Its workers are there; for a quarter of a minute."""
    queues = ["orders", "shipping", "mail"]
    for child in range(1, 4):
        report(engine, f"worker-1@shop-a/{child}", release_of(RELEASE), queues)


def _fill(tx: Connection, books: _Books) -> Shop:
    chance = Random(7)
    told: dict[str, str] = {}
    for row in _rows(chance):
        told[row.subject] = _add(tx, books, row, chance)
    return Shop(
        failed=told["A-10977"],
        sleeping=told["cart-5519"],
        succeeded=told["A-10990"],
    )


def _rows(chance: Random) -> Sequence[_Row]:
    found = [_order(n, chance, ago_s=86_000 - n * 89.1) for n in range(960)]
    found += [_order(n, chance, ago_s=400 - (n - 960) * 10.0) for n in range(960, 1_000)]
    found += [_shipped(n, chance, ago_s=80_000 - n * 260.0) for n in range(300)]
    found += [_cart(n, chance, ago_s=7_800 - n * 700.0) for n in range(5_510, 5_522)]
    found += [
        _Row(
            workflow="weekly_report",
            queue="reports",
            type="veltrix.workflow.start",
            source="/veltrix/starts/weekly_report",
            ago_s=ago_s,
            state="queued",
            data={"week": week},
            subject=f"week-{week}",
        )
        for week, ago_s in ((47, 5_400.0), (48, 1_800.0))
    ]
    return sorted(found, key=lambda row: -row.ago_s)


def _order(n: int, chance: Random, ago_s: float) -> _Row:
    sku, name, cents = chance.choice(GOODS)
    number = f"A-{10_000 + n}"
    data = {
        "order": number,
        "customer": NAMES[n % len(NAMES)],
        "items": [{"sku": sku, "name": name, "count": 1 + n % 2}],
        "total": f"{cents * (1 + n % 2) / 100:.2f}",
        "currency": "EUR",
    }
    row = _Row(
        workflow="place_order",
        queue="orders",
        type="shop.order.placed",
        ago_s=ago_s,
        took_s=0.4 + chance.random() * 0.5 + (2.6 if n > 940 and n % 3 == 0 else 0),
        data=data,
        subject=number,
        version=OLD if ago_s > 30_000 else NEW,
    )
    if n == 977 or (n > 900 and n % 9 == 5):
        message = "the bank declined the card: 402 insufficient funds"
        row.state, row.took_s = "failed", 4.1
        row.failure = (DECLINED, "charge_card", "CardDeclined", message, DECLINED_TRACE)
    elif n % 97 == 13:
        message = f"no {sku} is left in warehouse BER-2"
        row.state = "failed"
        row.failure = (OUT_OF_STOCK, "reserve_stock", "OutOfStock", message, _stock_trace(message))
    elif ago_s < 24:
        row.state = "running" if ago_s < 12 else "queued"
    return row


def _shipped(n: int, chance: Random, ago_s: float) -> _Row:
    row = _Row(
        workflow="ship_order",
        queue="shipping",
        type="shop.order.paid",
        ago_s=ago_s,
        took_s=1.5 + chance.random() * 3,
        data={"order": f"A-{10_000 + n * 3}", "carrier": chance.choice(["dhl", "ups"])},
        subject=f"parcel-{n}",
        version=OLD if ago_s > 30_000 else NEW,
    )
    if n in {12, 40, 77}:
        row.state = "failed"
        message = "dhl answered 503 for 3 minutes"
        row.failure = (CARRIER, "book_parcel", "CarrierAway", message, _stock_trace(message))
    return row


def _cart(n: int, chance: Random, ago_s: float) -> _Row:
    return _Row(
        workflow="remind_cart",
        queue="mail",
        type="shop.cart.left",
        ago_s=max(ago_s + 5_510 * 700.0, 30.0),
        state="waiting",
        sleep_s=172_800.0,
        data={"cart": n, "customer": chance.choice(NAMES)},
        subject=f"cart-{n}",
    )


def _stock_trace(message: str) -> str:
    return (
        f"Traceback (most recent call last):\n{LIBRARY}"
        '  File "/srv/shop/workflows/stock.py", line 19, in reserve\n'
        f"    raise Unavailable(sku)\nshop.errors.Unavailable: {message}\n"
    )


def _add(tx: Connection, books: _Books, row: _Row, chance: Random) -> str:
    books.count += 1
    began = books.now - timedelta(seconds=row.ago_s)
    ms = int(began.timestamp() * 1_000)
    digits = f"{ms:012x}7{books.count % 4096:03x}8{chance.getrandbits(36):09x}"
    event_id, run_id = (_uuid(digits + end) for end in ("000000", workflow_suffix(row.workflow)))
    account = ledger_rows.accounts(tx, [(row.source, row.type)], 1_000)[row.source, row.type]
    data = json.dumps(row.data)
    minute, digest = ms // 60_000, sha256(data.encode()).digest()
    for name in ("accepted", "routed", "started"):
        books.moved[account, minute, name] += 1
    if row.state in {"succeeded", "failed"}:
        books.moved[account, minute, row.state] += 1
    books.put(
        events,
        id=event_id,
        account_id=account,
        minute=minute,
        unrouted=False,
        accepted_at=began,
        source=row.source,
        sender_id=f"{row.subject}-{row.type.rpartition('.')[2]}",
        type=row.type,
        subject=row.subject,
        time=began.isoformat(),
        datacontenttype="application/json",
        data=row.data,
        digest=digest,
    )
    ended = began + timedelta(seconds=row.took_s)
    is_settled = row.state in {"succeeded", "failed"}
    fingerprint, step, type_, message, _ = row.failure or (None, None, None, None, None)
    values = {
        "id": run_id,
        "event_id": event_id,
        "account_id": account,
        "minute": minute,
        "payload_bytes": len(data),
        "started_at": began,
        "generation": 0,
        "alone": False,
        "attempt": 0 if row.state == "queued" else 1,
        "hand_overs": 1,
        "crashes": 0,
        "priority": 0,
        "state": row.state,
        "workflow": row.workflow,
        "queue": row.queue,
        "key": row.subject,
        "code_version": None if row.state == "queued" else row.version,
        "claimed_at": None if row.state == "queued" else began + timedelta(milliseconds=40),
        "worker_id": None if row.state == "queued" else f"worker-1@shop-a/{1 + books.count % 3}",
        "delivery_id": None if row.state == "queued" else run_id,
    }
    values |= _standing(books, row, began, ended if is_settled else None, run_id)
    if row.failure is not None:
        values |= {"reason": "error", "failed_step": step, "fingerprint": fingerprint}
        values["outcome"] = {"type": type_, "message": message}
    books.put(runs, **values)
    if row.state not in {"queued", "running"}:
        _steps(books, row, run_id, began)
    return run_id


def _standing(
    books: _Books, row: _Row, began: datetime, ended: datetime | None, run_id: str
) -> dict[str, Any]:
    """When it is due, held or settled."""
    if ended is not None:
        if row.failure is not None:
            return {"settled_at": ended}
        return {"settled_at": ended, "outcome": {"order": row.data.get("order"), "sent": True}}
    if row.state == "running":
        return {"due_at": books.now + timedelta(seconds=8), "lease_token": run_id}
    if row.sleep_s is not None:
        return {"due_at": began + timedelta(seconds=row.sleep_s + 0.3)}
    return {"due_at": books.now + timedelta(minutes=5)}


def _steps(books: _Books, row: _Row, run_id: str, began: datetime) -> None:
    """Its journal: what it did in the time it took."""
    names = {
        "place_order": ("reserve_stock", "charge_card", "send_confirmation"),
        "ship_order": ("quote", "book_parcel"),
        "remind_cart": ("note_cart",),
    }[row.workflow]
    at, failed_step = began + timedelta(milliseconds=50), row.failure and row.failure[1]
    took_s = (row.took_s or 0.4) / (len(names) + 0.5)
    for number, name in enumerate(names, 1):
        arguments = json.dumps([[row.subject], {}])
        common = {"run_id": run_id, "generation": 0, "position": str(number), "began_at": at}
        if name == failed_step and row.failure is not None:
            _failing(books, row, common | {"arguments": arguments}, took_s)
            return
        over = at + timedelta(seconds=took_s)
        books.put(
            journal,
            **common,
            kind="step",
            name=name,
            output={"id": f"{name[:2]}-{books.count}"},
            attempts=1,
            recorded_at=over,
            took_ms=int(took_s * 1_000),
            arguments=arguments,
        )
        at = over + timedelta(milliseconds=8)
    if row.sleep_s is not None:
        books.put(
            journal,
            run_id=run_id,
            generation=0,
            position=str(len(names) + 1),
            kind="sleep",
            name="sleep",
            output=row.sleep_s,
            attempts=1,
            recorded_at=at,
        )


def _failing(books: _Books, row: _Row, common: dict[str, Any], took_s: float) -> None:
    """Three attempts with pauses; the last is in the journal too."""
    assert row.failure is not None
    fingerprint, step, type_, message, trace = row.failure
    at: datetime = common["began_at"]
    last = over = at
    step_s = min(took_s, 0.35)
    for attempt, pause in enumerate((0.6, 1.1, None), 1):
        over = at + timedelta(seconds=step_s)
        books.put(
            failed_attempts,
            **(common | {"began_at": at}),
            step=step,
            attempt=attempt,
            type=type_,
            message=message,
            traceback=trace,
            fingerprint=fingerprint,
            worker_id="worker-1@shop-a/1",
            retry_delay_s=pause,
            failed_at=over,
            took_ms=int(step_s * 1_000),
            is_crash=False,
        )
        last, at = at, over + timedelta(seconds=pause or 0)
    books.put(
        journal,
        **(common | {"began_at": last}),
        kind="step",
        name=step,
        error={"type": type_, "message": message},
        attempts=3,
        recorded_at=over,
        took_ms=int(step_s * 1_000),
    )


def _uuid(digits: str) -> str:
    return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
