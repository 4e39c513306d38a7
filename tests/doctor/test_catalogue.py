"""No row of the catalogue is forgotten, and no rule is of a row that is not there."""

import re
from pathlib import Path

from veltrix.doctor.catalogue import BY_CONSTRUCTION, PROVED_ONLY, all_rules
from veltrix.prove.faults.catalog import FAULTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "internals" / "loss-modes.md"
ROWS = re.findall(r"^\| ([A-Z]\d{2}) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_each_row_is_a_rule_or_impossible_or_proved() -> None:
    ruled = {rule.id for rule in all_rules()}

    assert len(ROWS) == len(set(ROWS)) > 110
    assert set(ROWS) == ruled | BY_CONSTRUCTION.keys() | PROVED_ONLY.keys()


def test_what_is_only_proved_is_a_fault_of_prove() -> None:
    assert set(PROVED_ONLY.values()) <= FAULTS.keys()


def test_each_rule_says_all_that_is_shown_of_it() -> None:
    for rule in all_rules():
        told = (rule.title, rule.why, rule.safe, rule.source, rule.subject)
        assert all(told), rule.id
        assert rule.why.endswith("."), rule.id
        assert not rule.title.endswith("."), rule.id


def test_pages_that_rules_name_are_there() -> None:
    pages = {rule.source.split(",")[0] for rule in all_rules() if rule.source.startswith("docs/")}

    assert pages
    assert not {page for page in pages if not (PAGE.parents[2] / page).is_file()}
