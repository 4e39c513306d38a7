"""What pages and files do with what was made to hurt: deep payloads, formulas, slow reads."""

import json
from collections.abc import Iterator
from threading import Thread
from time import monotonic
from urllib.parse import urlencode

import msgspec
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests.console.conftest import OPERATOR, Shown, showing
from tests.console.test_actions import post, session_of
from tests.support.services import Services
from tests.support.wait import until
from veltrix.console.exports import guarded
from veltrix.console.live import PAUSE_S, SHARE_MAX, Live
from veltrix.console.query import FIELDS_MAX
from veltrix.console.rendering import SHOWN_CHARS_MAX, pretty
from veltrix.store.transactions import make_engine, transaction


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console of this test's own."""
    with showing(services) as there:
        yield there


@pytest.mark.parametrize(
    "sent",
    ["[" * 499 + ",".join("1" * 20_000) + "]" * 499, json.dumps(["x"] * SHOWN_CHARS_MAX)],
    ids=["deep", "long"],
)
def test_a_payload_is_never_made_much_longer_by_line_breaks(sent: str) -> None:
    assert pretty(sent) == sent


@pytest.mark.parametrize(
    "sent",
    ['{"a":{"b":[1,2]}}', "[" * 50 + "]" * 50, json.dumps([{"n": n} for n in range(2_000)])],
    ids=["small", "nested", "list"],
)
def test_an_ordinary_payload_has_line_breaks(sent: str) -> None:
    shown = pretty(msgspec.Raw(sent.encode()))

    assert shown.count("\n") > 2
    assert json.loads(shown) == json.loads(sent)


def test_a_deep_and_long_payload_is_looked_at(own: Shown) -> None:
    data: list[object] = [1] * 200_000
    for _ in range(400):
        data = [data]
    own.accept("deep", data)
    cookie, _ = session_of(own, OPERATOR)

    page = own.api.get(f"/console/runs/{own.runs['deep']}", cookie=cookie)

    assert page.status == 200
    assert len(page.text) < 4 * SHOWN_CHARS_MAX
    assert "more characters" in page.text


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("x;=1+1", "x;'=1+1"),
        ("x;  @SUM(A1)", "x;  '@SUM(A1)"),
        ("x\t=1", "x\t'=1"),
        ("=a;=b", "'=a;'=b"),
        ("a;b", "a;b"),
        ("a=b", "a=b"),
    ],
)
def test_a_formula_in_the_middle_of_a_cell_is_text_too(sent: str, kept: str) -> None:
    assert guarded(sent) == kept


def test_a_group_that_no_text_can_name_is_refused_not_an_error_of_ours(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    form = {"csrf": csrf, "reason": "r", "from": "failed_step"}
    for verb in ("note", "resolve", "plan"):
        for group in ("%00", "x" * 101):
            answer = post(own, f"/failures/{group}/{verb}", form, cookie=cookie)

            assert answer.status in {400, 404}, (verb, group)


def test_a_form_of_a_million_fields_is_refused_unread(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    headers = {"content-type": "application/x-www-form-urlencoded", "cookie": cookie}
    body = urlencode({"csrf": csrf}).encode() + b"&a=" * (FIELDS_MAX + 1)

    answer = own.api.request("POST", f"/console/runs/{own.runs['bad']}/edit", body, headers)
    unsigned = own.api.request("POST", "/console/sign-in", b"a=&" * 1_000, headers)

    assert (answer.status, unsigned.status) == (400, 400)
    assert f"at most {FIELDS_MAX} fields" in answer.text


def test_who_looks_at_figures_does_not_wait_for_who_reads_them(engine: Engine) -> None:
    live = Live(engine, lambda: True)
    first, began = live.figures(), monotonic()
    old_s = max(PAUSE_S, live._cost_s / SHARE_MAX)
    until(lambda: monotonic() - began > old_s, 60, "the figures to be old")
    with transaction(engine) as tx:
        tx.execute(text("lock table counters in access exclusive mode"))
        reading = Thread(target=live.figures)
        reading.start()
        until(lambda: waiting(tx), what="a read that waits")

        assert live.figures() is first
    reading.join(30)

    assert live.figures() is not first


def waiting(tx: object) -> bool:
    """Whether somebody waits for the table."""
    query = text("select exists (select from pg_locks where not granted)")
    return bool(tx.execute(query).scalar_one())  # type: ignore[attr-defined]


def test_figures_that_cannot_be_read_are_not_tried_by_everybody_who_waited() -> None:
    nowhere = make_engine("postgresql://127.0.0.1:1/none", application="tests", connections_max=1)
    live = Live(nowhere, lambda: True)
    with pytest.raises(DBAPIError) as first:
        live.figures()
    with pytest.raises(DBAPIError) as second:
        live.figures()
    nowhere.dispose()

    assert second.value is first.value
