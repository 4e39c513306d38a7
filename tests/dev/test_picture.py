"""A page with a picture is complete in itself, and the picture is to scale."""

import re
from xml.etree import ElementTree as ET

from veltrix.dev.picture import Curve, Mark, Panel, page, picture, rates, table


def drawn(markup: str) -> ET.Element:
    """The first picture in it, as a tree."""
    found = re.search(r"<svg.*</svg>", markup, re.DOTALL)
    assert found is not None
    return ET.fromstring(found[0])  # noqa: S314 - we wrote it


def test_curves_are_to_scale_and_marks_where_they_happened() -> None:
    panel = Panel([Curve("open", "open", [(0, 0), (5, 50), (10, 100)])], height_px=100)
    marks = [Mark(2.5, "killed", until_s=5.0), Mark(5.0, "back", is_good=True)]

    tree = drawn(picture([panel], marks, seconds=10, label="it's <open>"))

    assert tree.get("aria-label") == "it's <open>"
    curve = tree.find(".//path[@class='curve open']")
    assert curve is not None
    assert curve.get("d") == "M0 1000L500 500L1000 0"
    assert [line.get("x1") for line in tree.findall("g/line")] == ["25.00%", "50.00%"]
    band = tree.find("g/rect")
    assert band is not None
    assert (band.get("x"), band.get("width")) == ("25.00%", "25.00%")
    assert "at most 100" in [text.text for text in tree.findall("text")]


def test_a_picture_of_nothing_is_empty_and_one_late_mark_stays_inside() -> None:
    tree = drawn(
        picture([Panel([Curve("open", "open", [])])], [Mark(99, "late")], seconds=10, label="")
    )

    assert tree.findall(".//path") == []
    text = tree.find("g/text")
    assert text is not None
    assert (text.get("x"), text.get("text-anchor")) == ("100.00%", "end")


def test_a_rate_is_over_the_last_seconds_and_never_negative() -> None:
    points = [(0.0, 0.0), (1.0, 10.0), (2.0, 30.0), (3.0, 30.0), (4.0, 25.0)]

    assert rates(points, 1.0) == [(1.0, 10.0), (2.0, 20.0), (3.0, 0.0), (4.0, 0.0)]
    assert rates([], 1.0) == rates([(1.0, 5.0)], 1.0) == []


def test_text_in_a_table_is_text() -> None:
    found = table(["<b>"], [["<script>"]])

    assert "<td>&lt;script&gt;</td>" in found
    assert "<b>" not in found


def test_a_page_is_one_document() -> None:
    assert page("a < b", ["<p>c</p>"]).startswith("<!doctype html>")
    assert "<title>a &lt; b</title>" in page("a < b", [])
