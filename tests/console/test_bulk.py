"""Many runs are cancelled, archived and restored from a page that names their exact number."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import OPERATOR, READER, Shown, Tab, showing, tab_of
from tests.console.test_actions import audited, post, session_of, state_of
from tests.support.services import Services
from tests.support.settled import settle
from veltrix.domain.failure_groups import UNGROUPED
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.store.transactions import transaction


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console with two runs that failed in the same way, and two that are open."""
    with showing(services) as there:
        there.accept("bad-2", {"order": 4})
        there.fail("bad-2")
        there.accept("open-2", {"order": 5})
        fold_groups_once(there.engine)
        yield there


def archived(shown: Shown) -> int:
    with transaction(shown.engine) as tx:
        found = tx.exec_driver_sql("select count(*) from runs where archived_at is not null")
        return int(found.scalar_one())


def press(tab: Tab, link: str, button: str, why: str) -> None:
    tab.page.get_by_role("link", name=link).click()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_label("Why").fill(why)
    dialog.get_by_role("button", name=button).click()


def test_all_of_a_group_are_archived_and_restored_with_a_reason(
    browser: Browser, own: Shown
) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go("/failures/f00d")
        press(tab, "Archive all 2…", "Archive 2 runs", "paid by hand")
        expect(tab.page.get_by_text("2 runs are archived.")).to_be_visible()
        assert archived(own) == 2

        fold_groups_once(own.engine)
        tab.go("/failures/f00d")
        assert tab.page.get_by_role("link", name="Archive all").count() == 0
        press(tab, "Restore all 2…", "Restore 2 runs", "not paid after all")
        expect(tab.page.get_by_text("2 runs are restored.")).to_be_visible()

    assert archived(own) == 0
    assert [state_of(own, name) for name in ("bad", "bad-2")] == [("failed", 0)] * 2
    assert audited(own, "run.archive") == [("anna", "paid by hand", False)]
    assert audited(own, "run.restore") == [("anna", "not paid after all", False)]


def test_all_open_runs_of_a_filter_are_cancelled_and_failed_ones_are_not(
    browser: Browser, own: Shown
) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go("/runs?state=failed")
        assert tab.page.get_by_role("link", name="Cancel all").count() == 0
        tab.page.get_by_label("State").select_option("queued")
        expect(tab.page.get_by_role("link", name="Cancel all 2…")).to_be_visible()
        tab.go("/runs?state=queued&workflow=fulfil")
        press(tab, "Cancel all 2…", "Cancel 2 runs", "the shop is closed")
        expect(tab.page.get_by_text("2 runs are cancelled.")).to_be_visible()
        expect(tab.page.get_by_text("No run is like this")).to_be_visible()

    assert [state_of(own, name)[0] for name in ("open", "open-2")] == ["cancelled"] * 2
    assert [state_of(own, name)[0] for name in ("good", "bad")] == ["succeeded", "failed"]
    assert audited(own, "run.cancel") == [("anna", "the shop is closed", False)]


def test_another_number_than_was_confirmed_is_not_done(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    path = "/bulk/cancel?workflow=fulfil"
    page = own.api.get(f"/console{path}", cookie=cookie).text
    form = {"csrf": csrf, "expected": "2", "reason": "closed", "once": "k"}
    assert 'name="expected" value="2"' in page
    own.accept("open-3", {"order": 6})

    late = post(own, path, form, cookie=cookie)
    done = post(own, path, form | {"expected": "3"}, cookie=cookie)
    again = post(own, path, form | {"expected": "3"}, cookie=cookie)

    assert (late.status, done.status, again.status) == (409, 303, 303)
    assert "3 runs match by now, not 2" in late.text
    assert done.headers["location"] == again.headers["location"]
    assert [refused for _, _, refused in audited(own, "run.cancel")] == [True, False]


def test_every_run_there_is_has_to_be_asked_for(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    form = {"csrf": csrf, "expected": "2", "reason": "closed"}
    path = "/bulk/cancel?state=queued"

    page = own.api.get(f"/console{path}", cookie=cookie).text
    silent = post(own, path, form, cookie=cookie)
    bare = post(own, "/bulk/archive", form, cookie=cookie)
    before = [state_of(own, name)[0] for name in ("open", "open-2", "bad")]
    said = post(own, path, form | {"all": "yes"}, cookie=cookie)

    assert "every queued run there is" in page
    assert [answer.status for answer in (silent, bare, said)] == [400, 400, 303]
    assert before == ["queued", "queued", "failed"]
    assert archived(own) == 0


def test_runs_that_failed_without_a_fingerprint_are_found_and_archived(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    bare = own.accept("bare", {"order": 7})
    settle(own.engine, [bare], "failed", reason="error")
    fold_groups_once(own.engine)
    form = {"csrf": csrf, "expected": "1", "reason": "paid by hand"}

    for query in ("", "&state=failed", "&source=/shop"):
        listed = own.api.get(f"/console/runs?fingerprint={UNGROUPED}{query}", cookie=cookie).text
        assert bare in listed, query
        assert not [name for name, id_ in own.runs.items() if id_ in listed and name != "bare"]
    group = own.api.get(f"/console/failures/{UNGROUPED}", cookie=cookie).text
    done = post(own, f"/bulk/archive?fingerprint={UNGROUPED}", form, cookie=cookie)

    assert bare in group
    assert "Archive all 1" in group
    assert done.status == 303
    assert archived(own) == 1


def test_what_cannot_be_done_to_many_is_refused_and_moves_nothing(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    reader, reader_csrf = session_of(own, READER)
    form = {"csrf": csrf, "expected": "2", "reason": "closed"}
    path = "/bulk/cancel?workflow=fulfil"

    theirs = post(own, path, form | {"csrf": reader_csrf}, cookie=reader)
    forged = post(own, path, form | {"csrf": "x"}, cookie=cookie)
    mute = post(own, path, form | {"reason": ""}, cookie=cookie)
    uncounted = post(own, path, form | {"expected": ""}, cookie=cookie)
    strange = post(own, "/bulk/drop?workflow=fulfil", form, cookie=cookie)
    by_event = post(own, "/bulk/cancel?subject=order-1", form, cookie=cookie)
    none = own.api.get("/console/bulk/restore?fingerprint=f00d", cookie=cookie)

    told = (theirs, forged, mute, uncounted, strange, by_event, none)
    assert [answer.status for answer in told] == [403, 403, 400, 400, 404, 400, 409]
    assert own.api.get(f"/console{path}", cookie=reader).status == 403
    assert "Archive all" not in own.api.get("/console/failures/f00d", cookie=reader).text
    assert "Cancel all" not in own.api.get("/console/runs?state=queued", cookie=reader).text
    assert [state_of(own, name)[0] for name in ("open", "open-2")] == ["queued", "queued"]
    assert len(audited(own, "console.act")) == 2
