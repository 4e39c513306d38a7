"""`docs/guarantees.md` names tests that exist."""

import re
from pathlib import Path


def test_every_test_that_is_named_as_a_proof_exists() -> None:
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)

    missing = [
        f"{path}::{name}"
        for path, name in named
        if f"def {name}(" not in (root / path).read_text(encoding="utf-8")
    ]
    assert len(named) > 30
    assert not missing
