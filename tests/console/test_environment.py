"""The name of the environment on every page, so that nobody replays in the wrong one."""

import pytest
from pydantic import ValidationError

from tests.console.conftest import OPERATOR, showing
from tests.console.test_actions import session_of
from tests.support.services import Services
from veltrix.settings.fields import Settings


def test_every_page_and_its_title_name_the_environment(services: Services) -> None:
    with showing(services, environment="Prod <eu>") as shown:
        cookie, _ = session_of(shown, OPERATOR)
        paths = ("/", "/runs", f"/runs/{shown.runs['bad']}", "/sign-in", "/nothing", "/flower")
        pages = {p: shown.api.get(f"/console{p}", cookie=cookie).text for p in paths}

    for path, page in pages.items():
        title = page.partition("<title>")[2].partition("</title>")[0]
        assert title.endswith("· Prod &lt;eu&gt; · Veltrix"), path
        assert 'class="environment t prod" title="VELTRIX_ENVIRONMENT">Prod &lt;eu&gt;<' in page


def test_without_one_nothing_is_said(services: Services) -> None:
    with showing(services) as shown:
        page = shown.api.get("/console/sign-in").text

    assert "environment" not in page
    assert "· Veltrix</title>" in page


@pytest.mark.parametrize("text", ["x" * 25, "two\nlines", "\x9b31m"])
def test_it_is_a_short_line_of_text(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"environment": text})
