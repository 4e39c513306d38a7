"""What the code refers to is there: who reads `mechanics 9` can look it up."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INTERNALS = ROOT / "docs" / "internals"
CODE = sorted(
    path
    for folder in ("app", "workflows", "tests", "bench", "alembic")
    for path in (ROOT / folder).rglob("*.py")
)
MODE = r"[A-Z]\d{2}"
# As "loss mode D09", "loss modes W01 to W14, W16", or by itself in brackets: "(W16, W37)".
# A page or a module of ours; `tests/docs/` is another folder.
NAMED = re.compile(r"(?<!tests/)\b((?:docs|app/veltrix)/[\w/-]+\.(?:md|py))\b")
MODES = re.compile(rf"(?:loss[- ]modes? |\()({MODE}(?:(?:,| to| and) {MODE})*)(?=[\s).,:;])")


def said(pattern: str) -> Iterator[tuple[str, str]]:
    """(file, what the pattern's group found) of all of the code."""
    for path in CODE:
        text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text(encoding="utf-8"))
        for found in re.finditer(pattern, text):
            yield path.relative_to(ROOT).as_posix(), found[1]


def test_each_mechanism_is_described() -> None:
    page = (INTERNALS / "mechanics.md").read_text(encoding="utf-8")
    there = set(re.findall(r"^### (\d+)\. ", page, re.MULTILINE))
    asked = set(said(r"\bmechanics (\d+)\b"))

    assert len(asked) > 10
    assert not {one for one in asked if one[1] not in there}


def test_each_loss_mode_is_in_the_catalogue() -> None:
    page = (INTERNALS / "loss-modes.md").read_text(encoding="utf-8")
    there = set(re.findall(rf"^\| ({MODE}) \|", page, re.MULTILINE))
    asked = {
        (file, mode) for file, modes in said(MODES.pattern) for mode in re.findall(MODE, modes)
    }

    assert len(asked) > 10
    assert not {one for one in asked if one[1] not in there}


def test_each_decision_is_written_down() -> None:
    there = {int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("*.md")}
    asked = set(said(r"\bdecisions? (\d+)\b"))

    assert asked
    assert not {one for one in asked if int(one[1]) not in there}


@pytest.mark.parametrize("folder", ["docs", "app", "tests"])
def test_each_page_and_module_that_is_named_is_there(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md"}]
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in files
        if not {"static", "internals"} & set(path.relative_to(ROOT).parts)
        for name in NAMED.findall(path.read_text())
    }

    assert len(named) > 5
    assert not {one for one in named if not (ROOT / one[1]).is_file()}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_each_link_and_picture_of_a_page_outside_of_the_site_is_there(page: str) -> None:
    """The site's own links are checked when it is built."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())

    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
