"""The page of a demo: what it says, that it needs nobody else, and that it fits a phone."""

import re
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.console.conftest import CHROMIUM, FLAGS
from tests.dev.test_picture import drawn
from veltrix.dev.demo_page import page_of
from veltrix.dev.demo_result import Demonstration, DemoResult, Kill, Moment

GOOD = DemoResult(400, 400, 0, 0, 0, 0, 0, 1, 20.0, 20.0, True)
SHOWN = Demonstration(
    GOOD,
    [
        Moment(0, 0, 0, 0),
        Moment(5, 300, 100, 200),
        Moment(10, 400, 150, 250),
        Moment(20, 400, 400, 0),
    ],
    [Kill("worker-1", 4711, 5.0, 64, recovery_s=8.25)],
)


def test_the_page_of_a_demo_is_complete_and_tells_kill_and_recovery() -> None:
    markup = page_of(SHOWN, made="here")

    assert not set(re.findall(r"<(\w+)", markup)) & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"\b(?:src|href)=|url\(|@import|https?://", markup)
    assert SHOWN.sentence() in markup
    assert "nothing lost" in markup
    marks = [line.get("x1") for line in drawn(markup).findall("g/line")]
    assert marks == ["25.00%", "66.25%"]


def test_the_page_of_a_demo_that_failed_says_so() -> None:
    failed = Demonstration(
        DemoResult(4, 3, 0, 0, 1, 0, 1, 0, 1.0, 4.0, False), [], [], "1 run is open & stuck"
    )

    markup = page_of(failed, made="here")

    assert "not shown" in markup
    assert "nothing lost" not in markup
    assert "1 run is open &amp; stuck" in markup
    assert "No worker was killed." in markup


def test_it_fits_a_phone_and_a_desk_with_letters_of_one_size(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(SHOWN, made="here"), encoding="utf-8")
    asked: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        for width in (360, 1280):
            tab.set_viewport_size({"width": width, "height": 800})

            assert tab.evaluate("document.documentElement.scrollWidth") == width
            boxes = tab.locator("svg[role=img] text").evaluate_all(
                "all => all.map(one => one.getBoundingClientRect())"
                ".map(box => [box.left, box.right, box.height])"
            )
            assert len(boxes) == 13
            for left, right, height in boxes:
                assert 0 <= left < right <= width
                assert 12 <= height <= 20
        browser.close()
    assert asked == [file.as_uri()]
