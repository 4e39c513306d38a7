"""The pages of promises name tests that exist, and say which of them `make test` leaves out."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("reference/guarantees.md", "reference/security.md")


def named() -> list[tuple[str, str, bool]]:
    """File, test and whether the page calls it slow."""
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES)
    found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`(\s+\(slow\))?", page)
    return [(path, name, bool(slow)) for path, name, slow in found]


def decorators_of(path: str, name: str) -> str | None:
    """What stands above the test; None: there is no such test."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.search(rf"((?:^@.*\n)*)^def {name}\(", text, re.MULTILINE)
    return found[1] if found else None


def test_each_promise_has_what_shows_it() -> None:
    page = (ROOT / "docs" / PAGES[0]).read_text(encoding="utf-8")
    _, wording, *rest = page.split("\n## ")
    shown = [
        (re.sub(r"\s+", " ", promise), "`tests/" in promise)
        for promise in re.split(r"\n- ", "\n## ".join(rest))[1:]
    ]

    assert len(shown) > 80
    assert not [promise for promise, is_shown in shown if not is_shown]
    assert wording.count("*Limits*: ") == wording.count("\n- ")


def test_every_test_that_is_named_as_a_proof_exists() -> None:
    assert len(named()) > 30
    assert not [f"{path}::{name}" for path, name, _ in named() if decorators_of(path, name) is None]


def test_what_only_runs_with_make_test_slow_is_called_slow() -> None:
    wrong = [
        f"{path}::{name}"
        for path, name, is_slow in named()
        if is_slow != ("pytest.mark.slow" in (decorators_of(path, name) or ""))
    ]

    assert not wrong
