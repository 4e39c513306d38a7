"""Signing in, acting once with a reason, and being refused."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from io import StringIO
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, expect

from tests.api.conftest import Answer
from tests.console.conftest import (
    HOSTILE,
    OPERATOR,
    READER,
    WRITER,
    Shown,
    Tab,
    showing,
    tab_of,
)
from tests.support.services import Services
from tests.support.settled import hold
from tests.support.wait import until
from veltrix.access import keys
from veltrix.access.key_limits import KeyLimits
from veltrix.console.exports import guarded
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, Settlement
from veltrix.store.transactions import open_autocommit, transaction


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console of this test's own."""
    with showing(services) as there:
        yield there


def post(shown: Shown, path: str, fields: dict[str, str], **headers: str) -> Answer:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    body = urlencode(fields).encode()
    return shown.api.request("POST", f"/console{path}", body, kind | headers)


def session_of(shown: Shown, key: str) -> tuple[str, str]:
    """Cookie and form token of a new session."""
    answer = post(shown, "/sign-in", {"key": key})
    assert answer.status == 303
    cookie = answer.headers["set-cookie"].partition(";")[0]
    page = shown.api.get("/console/runs", cookie=cookie).text
    return cookie, page.partition('name="csrf" value="')[2].partition('"')[0]


def audited(shown: Shown, action: str) -> list[tuple[str, str, bool]]:
    with transaction(shown.engine) as tx:
        rows = tx.exec_driver_sql(
            "select author, reason, is_refused from audit where action = %(action)s order by id",
            {"action": action},
        )
        return [(row[0], row[1], row[2]) for row in rows]


def state_of(shown: Shown, name: str) -> tuple[str, int]:
    with transaction(shown.engine) as tx:
        row = tx.exec_driver_sql(
            "select state, generation from runs where id = %(id)s", {"id": shown.runs[name]}
        ).one()
    return row[0], row[1]


def test_a_failed_run_is_replayed_with_a_reason_from_its_page(browser: Browser, own: Shown) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go(f"/runs/{own.runs['bad']}")
        tab.page.get_by_role("link", name="Replay…", exact=True).click()
        dialog = tab.page.get_by_role("dialog")
        expect(dialog).to_contain_text("results of 1 finished step are kept (reserve)")
        dialog.get_by_label("Why").fill("payments are back")
        dialog.get_by_role("button", name="Replay 1 run").click()

        expect(tab.page.get_by_text("queued again")).to_be_visible()
        expect(tab.page.locator("main")).to_contain_text("payments are back")

    assert state_of(own, "bad") == ("queued", 1)


def test_an_open_run_is_cancelled_with_a_reason_without_javascript(
    browser: Browser, own: Shown
) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = Tab(context.new_page(), own.url)
    tab.sign_in()
    tab.go(f"/runs/{own.runs['open']}")
    tab.page.get_by_role("link", name="Cancel…").click()
    expect(tab.page.get_by_text("A cancelled run cannot be replayed")).to_be_visible()
    tab.page.get_by_label("Why").fill("a test order")
    tab.page.get_by_role("button", name="Cancel 1 run").click()
    expect(tab.page.get_by_text("The run is cancelled.")).to_be_visible()
    context.close()

    assert state_of(own, "open") == ("cancelled", 0)


def test_a_form_sent_twice_acts_once_and_a_stale_one_moves_nothing(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    path = f"/runs/{own.runs['bad']}/replay"
    form = {"csrf": csrf, "once": "k1", "from": "failed_step", "reason": "again"}

    first = post(own, path, form, cookie=cookie)
    second = post(own, path, form, cookie=cookie)
    stale = post(own, path, form | {"once": "k2"}, cookie=cookie)

    assert (first.status, second.status, stale.status) == (303, 303, 409)
    assert first.headers["location"] == second.headers["location"]
    assert state_of(own, "bad") == ("queued", 1)
    assert "is queued: only a failed run can be replayed" in stale.text


def test_what_is_refused_moves_nothing_and_is_written_down(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    reader, reader_csrf = session_of(own, READER)
    path = f"/runs/{own.runs['bad']}/replay"
    form = {"once": "k", "from": "beginning", "reason": "mine"}

    assert post(own, path, form, cookie=cookie).status == 403
    assert post(own, path, form | {"csrf": reader_csrf}, cookie=cookie).status == 403
    assert post(own, path, form | {"csrf": reader_csrf}, cookie=reader).status == 403
    good = form | {"csrf": csrf}
    assert post(own, path, good, cookie=cookie, origin="https://evil.example").status == 403
    assert post(own, path, good, cookie=cookie, **{"sec-fetch-site": "cross-site"}).status == 403
    assert post(own, path, good).headers["location"] == "/console/sign-in"
    assert post(own, path, good | {"reason": " "}, cookie=cookie).status == 400
    assert post(own, path, good | {"from": "x"}, cookie=cookie).status == 400

    assert state_of(own, "bad") == ("failed", 0)
    refused = audited(own, "console.act")
    assert [(author, is_refused) for author, _, is_refused in refused] == [
        ("anna", True),
        ("anna", True),
        ("viewer", True),
        ("anna", True),
        ("anna", True),
    ]
    assert "runs:replay" in refused[2][1]
    assert "another site" in refused[3][1]


def test_a_key_that_may_not_read_cannot_sign_in_and_a_wrong_one_is_not_told_why(own: Shown) -> None:
    wrong = post(own, "/sign-in", {"key": "x" * 43})
    writer = post(own, "/sign-in", {"key": WRITER})

    assert (wrong.status, writer.status) == (403, 403)
    assert "set-cookie" not in wrong.headers
    assert "set-cookie" not in writer.headers
    assert "unknown, revoked or expired" in wrong.text
    assert "runs:read" in writer.text
    assert audited(own, "session.begin") == [("till", "signed in to the console", True)]


def test_a_revoked_key_and_a_sign_out_end_the_session_at_once(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    reader, _ = session_of(own, READER)
    with transaction(own.engine) as tx:
        assert keys.revoke(tx, "viewer")

    assert own.api.get("/console/runs", cookie=reader).status == 303
    assert own.api.get("/console/live", cookie=reader).status == 401
    assert post(own, "/sign-out", {"csrf": csrf}, cookie=cookie).status == 303
    assert own.api.get("/console/runs", cookie=cookie).headers["location"] == (
        "/console/sign-in?next=%2Fconsole%2Fruns"
    )
    assert [reason for _, reason, _ in audited(own, "session.end")] == ["signed out of the console"]


def test_the_cookie_and_the_headers_are_strict(services: Services) -> None:
    with showing(services, console_url="https://ops.example/console") as shown:
        answer = post(shown, "/sign-in", {"key": OPERATOR, "next": "//evil.example/"})
        page = shown.api.get("/console/sign-in")

    flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "secure", "path=/console"} <= flags
    assert answer.headers["location"] == "/console/"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"


def test_without_keys_it_is_open_as_local_to_loopback_names_only(services: Services) -> None:
    with showing(services, require_keys=False) as shown:
        page = shown.api.get("/console/")
        connection = HTTPConnection("127.0.0.1", shown.api.port)
        connection.request("GET", "/console/", headers={"host": "rebound.example"})
        other = connection.getresponse().status
        connection.close()
        forged = post(shown, f"/runs/{shown.runs['open']}/cancel", {"reason": "x", "csrf": ""})

    assert page.status == 200
    assert "open as <b>local</b>" in page.text
    assert (other, forged.status) == (403, 403)


def test_a_failed_attempt_says_where_it_was_and_with_what_arguments(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    page = own.api.get(f"/console/runs/{own.runs['bad']}", cookie=cookie).text

    attempt = page.partition('<details class="attempt"')[2]
    summary = attempt[attempt.index("<summary>") : attempt.index("</summary>")]
    words = re.sub(r"<[^>]*>", "", summary)
    assert words.startswith(
        "charge(&#34;card-0815&#34;, amount=12.5) at 2, attempt 2 of generation 0: PaymentRefused"
    )


def test_an_attempt_before_any_step_says_that_it_was_the_workflows_own(own: Shown) -> None:
    run = own.accept("early", {"order": 5})
    token = hold(own.engine, [run])
    early = FailedAttempt(run, "", "", 1, "InvalidInput", "no", "", "f1")
    ended = Settlement(run_id=run, state="failed", reason="invalid_input", fingerprint="f1")
    with open_autocommit(own.engine) as tx:
        assert journal_rows.write(tx, token, "worker-1@host/1", [], [early], [ended])
    cookie, _ = session_of(own, OPERATOR)

    page = own.api.get(f"/console/runs/{run}", cookie=cookie).text

    assert "the workflow&#39;s own code</span>, attempt 1 of generation 0" in page


def test_a_group_says_since_when_its_bars_are_and_how_high(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    page = own.api.get("/console/failures/f00d", cookie=cookie).text

    now = datetime.now(UTC)
    chart = page[page.index('<div class="chart"') :].partition("</div>")[0]
    hours = [f"{now - timedelta(hours=ago):%m-%d %H:00}" for ago in (0, 1, 47, 48)]
    assert hours[0] in chart or hours[1] in chart
    assert hours[2] in chart or hours[3] in chart
    assert "<span>1</span><span>0</span>" in chart
    versions = page[page.index("Versions of the code") :].partition("</table>")[0]
    assert ":00:00" not in re.sub(r'datetime="[^"]*"', "", versions), "known to the hour only"


def test_payloads_are_withheld_from_a_key_that_may_not_see_them(own: Shown) -> None:
    reader, _ = session_of(own, READER)
    pages = [
        own.api.get(f"/console/{path}", cookie=reader).text
        for path in (f"runs/{own.runs['bad']}", f"events/{own.events['bad']}")
    ]

    for page in pages:
        assert "payloads:read" in page
        assert "&#34;order&#34;" not in page
        assert "shelf" not in page
        assert "card-0815" not in page
        assert "Traceback" not in page
        assert "Replay…" not in page


def test_lists_are_saved_as_csv_without_formulas_and_as_json(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    own.accept("formula", {"order": 4}, source="=1+1", subject="=HYPERLINK(1)")
    lists = ("runs", "events", "workflows", "audit", "failures", "replays")
    for name in (*lists, f"replays/{own.replay}/runs"):
        as_csv = own.api.get(f"/console/{name}.csv", cookie=cookie)
        as_json = own.api.get(f"/console/{name}.json", cookie=cookie)

        assert as_csv.headers["content-disposition"].startswith("attachment")
        assert len(as_csv.text.splitlines()) == len(json.loads(as_json.text)["items"]) + 1
    rows = list(csv.DictReader(StringIO(own.api.get("/console/events.csv", cookie=cookie).text)))
    assert ("'=1+1", "'=HYPERLINK(1)") in {(row["source"], row["subject"]) for row in rows}
    assert HOSTILE in own.api.get("/console/events.json", cookie=cookie).text
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\uff1d1"):
        assert guarded(text) == f"'{text}"
    assert guarded("order-1") == "order-1"


def test_files_withhold_what_pages_do(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    reader, _ = session_of(own, READER)
    form = {"csrf": csrf, "from": "failed_step", "reason": "4711 was mended", "canary": "1"}
    assert post(own, "/failures/f00d/plan", form, cookie=cookie).status == 303

    for name in ("failures", "audit"):
        for suffix in ("csv", "json"):
            whole = own.api.get(f"/console/{name}.{suffix}", cookie=cookie).text
            blind = own.api.get(f"/console/{name}.{suffix}", cookie=reader).text
            secret = "onerror" if name == "failures" else "failed_step"
            # A source is shown to all; the message of an error is not.
            assert whole.count(secret) == blind.count(secret) + 1, (name, suffix)


def test_a_bad_field_is_named_and_an_unknown_page_is_not_found(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    for query in ("state=odd", "cursor=1", "since=soon", "event=%00", "until=9999-99-99"):
        answer = own.api.get(f"/console/runs?{query}", cookie=cookie)

        assert answer.status == 400, query
        field = query.partition("=")[0].capitalize()
        assert f'role="alert">{field} must be' in answer.text
    for path in ("runs/1", "events/1", "audit/999", "audit/x", "deliveries/x", "nothing"):
        assert own.api.get(f"/console/{path}", cookie=cookie).status in {400, 404}, path


def test_a_task_of_flower_leads_to_its_run(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)

    answer = own.api.get(f"/console/deliveries/{own.runs['bad']}", cookie=cookie)

    assert answer.status == 303
    assert answer.headers["location"] == f"/console/runs/{own.runs['bad']}"


def test_figures_that_somebody_watches_do_not_keep_an_api_from_ending(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    connection = HTTPConnection("127.0.0.1", own.api.port, timeout=10)
    connection.request("GET", "/console/live", headers={"cookie": cookie})
    response = connection.getresponse()
    first = response.readline()

    own.api.app.state.is_leaving = True
    rest = response.read()

    connection.close()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert b"event: figures" in first + rest


def test_a_session_of_a_bound_key_acts_on_no_other_workflow(own: Shown) -> None:
    bound, late = "q" * 43, "l" * 43
    with transaction(own.engine) as tx:
        keys.create(tx, "bound", ["admin"], "tests", bound, KeyLimits(workflows=("report",)))
        soon = tx.exec_driver_sql("select now() + interval '1 second'").scalar_one()
        keys.create(tx, "late", ["admin"], "tests", late, None, soon)
    ending, _ = session_of(own, late)
    cookie, csrf = session_of(own, bound)
    bad, opened = own.runs["bad"], own.runs["open"]
    asked = [
        (f"/runs/{bad}/replay", {"from": "beginning"}),
        (f"/runs/{bad}/edit", {"data": "{}", "version": "*"}),
        (f"/runs/{opened}/cancel", {}),
        ("/bulk/cancel", {"expected": "1"}),
        ("/bulk/archive?workflow=fulfil", {"expected": "1"}),
        ("/bulk/archive?fingerprint=f00d", {"expected": "1"}),
        ("/failures/f00d/plan", {"from": "beginning"}),
        ("/failures/f00d/edit", {"patch": "[]"}),
        ("/failures/f00d/ignore", {}),
        (f"/replays/{own.replay}/start", {}),
    ]
    form = {"csrf": csrf, "reason": "a test"}

    told = [post(own, path, form | more, cookie=cookie) for path, more in asked]

    assert [answer.status for answer in told] == [403] * len(asked)
    assert own.api.get("/console/runs", cookie=cookie).status == 200, "reading is not bound"
    refused = audited(own, "console.act")
    assert {(author, is_refused) for author, _, is_refused in refused} == {("bound", True)}
    until(
        lambda: own.api.get("/console/runs", cookie=ending).status == 303,
        what="the end of a key and its session",
    )
