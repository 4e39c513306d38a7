"""The console of a real api, looked at with Debian's Chromium; what it shows is put there first."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from sqlalchemy import Engine

from tests.api.conftest import Api, serving
from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.services import Services
from tests.support.settled import fold_all, hold, settle
from veltrix.access import keys
from veltrix.domain.ids import run_id, workflow_suffix
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.operations.replays.plan import PlanRequest, plan
from veltrix.operations.replays.rules import Options
from veltrix.operations.runs.query import RunQuery
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Settlement
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine, open_autocommit, transaction

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=alert(1)>=cmd|'/c calc'!A0 \u202egnp.exe https://evil.example/"
SHOWN = HOSTILE.replace("\u202e", "\\u202e")  # what would turn the text around is spelled
OPERATOR, READER, WRITER, EDITOR = "o" * 43, "r" * 43, "w" * 43, "e" * 43
AXE = Path(__file__).with_name("axe.min.js")
WIDE, PHONE = (1280, 800), (390, 844)


class Shown:
    """A running console and what it shows: runs by what became of them."""

    def __init__(self, api: Api, engine: Engine) -> None:
        self.api, self.engine = api, engine
        self.url = f"http://127.0.0.1:{api.port}/console"
        self.runs: dict[str, str] = {}
        self.events: dict[str, str] = {}
        self.replay = ""

    def accept(self, name: str, data: Any, **fields: str) -> str:
        """An event that starts a run; the run is known by `name`."""
        body = {"specversion": "1.0", "id": name, "source": "/shop", "type": PLACED, "data": data}
        answer = self.api.post_event(body | fields, authorization=f"Bearer {OPERATOR}")
        assert answer.status == 202, answer.text
        event = self.events[name] = answer.body["event"]
        self.runs[name] = run_id(event, workflow_suffix("fulfil"))
        return self.runs[name]

    def fail(self, name: str) -> None:
        """Its second step fails for good, after one attempt that was tried again."""
        run = self.runs[name]
        token = hold(self.engine, [run])
        error = '{"type":"PaymentRefused","message":"card 4711 was refused"}'
        trace = "Traceback (most recent call last):\n  File 'pay.py', line 7\nPaymentRefused: card"
        failed = [
            FailedAttempt(run, "2", "charge", n, "PaymentRefused", HOSTILE, trace, "f00d", wait)
            for n, wait in ((1, 0.5), (2, None))
        ]
        entries = [
            JournalEntry(run, "1", "step", "reserve", output='{"shelf":7}'),
            JournalEntry(run, "2", "step", "charge", error=error, attempts=2),
        ]
        now = time.monotonic()
        for ago_s, one in ((0.9, entries[0]), (0.8, failed[0]), (0.1, failed[1])):
            one.began, one.took_ms = now - ago_s, 90
            one.arguments = '[["card-0815"],{"amount":12.5}]'
        ended = Settlement(
            run_id=run,
            state="failed",
            reason="error",
            failed_step="charge",
            fingerprint="f00d",
            outcome=json.dumps({"type": "PaymentRefused", "message": HOSTILE}),
        )
        with open_autocommit(self.engine) as tx:
            assert journal_rows.write(tx, token, "worker-1@host/1", entries, failed, [ended], now)


@pytest.fixture(scope="module")
def shown(services: Services) -> Iterator[Shown]:
    """A console that asks for keys, with runs of every kind: for tests that only look."""
    with showing(services) as there:
        yield there


@contextmanager
def showing(services: Services, **changes: Any) -> Iterator[Shown]:
    """A console of a database of its own."""
    name, url = services.make_database()
    engine = make_engine(url, application="tests", connections_max=5)
    subscribe(engine, subscription("fulfil", PLACED), subscription("report", queue="reports"))
    with transaction(engine) as tx:
        keys.create(tx, "anna", ["admin"], "tests", OPERATOR)
        keys.create(tx, "viewer", ["runs:read"], "tests", READER)
        keys.create(tx, "till", ["events:write"], "tests", WRITER)
    given = {"database_url": url, "broker_url": "amqp://127.0.0.1:1/", "require_keys": True}
    with serving(Settings.model_validate(given | changes)) as api:
        there = Shown(api, engine)
        there.accept("good", {"order": 1}, subject="order-1")
        settle(engine, [there.runs["good"]], "succeeded", outcome='{"paid":true}', key="order-1")
        there.accept("bad", {"order": 2, "note": HOSTILE}, subject=HOSTILE)
        there.fail("bad")
        there.accept("open", {"order": 3})
        hostile = {"source": HOSTILE.replace(" ", "/"), "subject": HOSTILE}
        there.accept("lonely", {"n": 1}, type="shop.nobody", **hostile)
        fold_all(engine)
        fold_groups_once(engine)
        there.replay = plan(engine, of_group("f00d"), 1_048_576).id
        yield there
    engine.dispose()
    services.drop_database(name)


def of_group(fingerprint: str) -> PlanRequest:
    """A plan of a group's failed runs, as it would be asked for."""
    return PlanRequest(
        wanted=RunQuery(fingerprint=fingerprint),
        options=Options(rate=50.0, stop_share=0.1, canary=1),
        author="anna",
        reason="payments are back",
        request={"group": fingerprint},
    )


@contextmanager
def showing_orders(services: Services) -> Iterator[Shown]:
    """A console whose workflow takes orders with a whole number, and a key that sees no payload."""
    schema = {
        "type": "object",
        "properties": {"order": {"type": "integer"}, "at": {"type": "string", "format": "date"}},
    }
    with showing(services) as there:
        subscribe(
            there.engine, subscription("fulfil", PLACED, code_version="v2", input_schema=schema)
        )
        with transaction(there.engine) as tx:
            keys.create(tx, "blind", ["runs:read", "runs:edit"], "tests", EDITOR)
        yield there


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Playwright's driver, ended with the module: its loop would be in the way of others."""
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


class Tab:
    """A page, what its console said, and every address it asked for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self._url = page, url
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, path: str) -> None:
        """Open a page of the console."""
        self.page.goto(self._url + path)

    def sign_in(self, key: str = OPERATOR) -> None:
        """Sign in and be where the console leads."""
        self.go("/sign-in")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()

    def close(self) -> None:
        """Leave; nothing may have been complained about, and nobody else asked."""
        self.page.close()
        assert not self.said
        assert not [url for url in self.asked if not url.startswith(self._url)]


@contextmanager
def tab_of(
    browser: Browser, shown: Shown, *, size: tuple[int, int] = WIDE, scheme: Any = "light"
) -> Iterator[Tab]:
    """A tab of a browser that was never here."""
    width, height = size
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme
    )
    context.set_default_timeout(10_000)
    tab = Tab(context.new_page(), shown.url)
    try:
        yield tab
        tab.close()
    finally:
        context.close()


@pytest.fixture
def tab(browser: Browser, shown: Shown) -> Iterator[Tab]:
    """A tab that is signed in, on a wide screen."""
    with tab_of(browser, shown) as tab:
        tab.sign_in()
        yield tab
