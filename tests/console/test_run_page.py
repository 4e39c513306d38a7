"""The pages of a run and of a group: the error first, where it was raised, what is beside it."""

from playwright.sync_api import expect

from tests.console.conftest import OPERATOR, READER, Shown, Tab
from tests.console.shop import DECLINED_TRACE
from tests.console.test_actions import session_of
from tests.support.settled import run_sql


def test_the_error_comes_first_and_what_is_folded_stays_as_it_was_left(
    tab: Tab, shown: Shown
) -> None:
    tab.go(f"/runs/{shown.runs['bad']}")
    fault, payload = tab.page.locator("#fault"), tab.page.get_by_role("region", name="Payload")
    course = tab.page.get_by_role("heading", name="Course")
    tops = [one.bounding_box() for one in (fault, payload, course)]

    assert [box is not None for box in tops] == [True] * 3
    assert tops[0]["y"] < 300  # type: ignore[index]
    assert tops[1]["y"] < tops[2]["y"]  # type: ignore[index]
    expect(fault).to_contain_text("PaymentRefused in charge")
    expect(tab.page.get_by_text("last delivery")).to_be_hidden()

    tab.go(f"/runs/{shown.runs['open']}")
    tab.page.get_by_text("Ids, times, worker and code").click()
    with tab.page.expect_response(lambda answer: shown.runs["open"] in answer.url):
        pass  # the page of an open run reads itself again

    expect(tab.page.get_by_text(shown.runs["open"]).first).to_be_visible()


def test_a_group_shows_the_traceback_of_a_sample_to_who_may_see_it(shown: Shown) -> None:
    run_sql(
        shown.engine,
        f"update failed_attempts set traceback = {_quoted(DECLINED_TRACE)} where run_id ="
        f" '{shown.runs['bad']}'",
    )
    pages = [
        shown.api.get(f"/console{path}", cookie=session_of(shown, key)[0]).text
        for path in ("/failures/f00d", f"/runs/{shown.runs['bad']}")
        for key in (OPERATOR, READER)
    ]

    for page in pages[::2]:
        assert "/srv/shop/payments/bank.py:31" in page
        assert '<span class="library">  File &#34;/opt/venv' in page
    for page in pages[1::2]:
        assert "bank.py" not in page
        assert "4711" not in page
    assert "in version" in pages[0]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace(":", "\\:") + "'"
