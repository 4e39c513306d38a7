"""The examination as SARIF 2.1.0, which code hosts show beside the lines of a change."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from veltrix.doctor.examine import Examination, Finding
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.rule import Rule, Severity

_LEVELS = {
    Severity.LOSS: "error",
    Severity.DUPLICATE: "error",
    Severity.STALL: "warning",
    Severity.BLIND: "warning",
    Severity.SLOW: "note",
}


def sarif(
    found: Examination, rules: Iterable[Rule], version: str, folder: Path = Path()
) -> dict[str, Any]:
    """The document. Findings that somebody accepted are suppressed in it, with the reason.

    Its paths begin in the current folder, in which a code host looks for them; those of a Celery
    application are known from `folder`.
    """
    by_id: dict[str, list[Rule]] = {}
    below: dict[str, Path] = {}
    for rule in rules:
        by_id.setdefault(rule.id, []).append(rule)
        below[rule.subject] = folder if rule.reads is CeleryApp else Path()
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "veltrix doctor",
                        "version": version,
                        "rules": [_rule(by_id[id_]) for id_ in sorted(by_id)],
                    }
                },
                "results": [_result(one, below[one.subject]) for one in found.findings],
            }
        ],
    }


def _rule(rules: list[Rule]) -> dict[str, Any]:
    """Rules of one id are one row of the catalogue, seen in several places: one rule of SARIF."""
    worst = min(rules, key=lambda rule: rule.severity.rank)
    stories = [f"{one.why}\n\nSafe: {one.safe}\n\nSource: {one.source}" for one in rules]
    return {
        "id": worst.id,
        "shortDescription": {"text": "; ".join(dict.fromkeys(rule.title for rule in rules))},
        "fullDescription": {"text": " ".join(dict.fromkeys(rule.why for rule in rules))},
        "help": {"text": "\n\n".join(stories)},
        "defaultConfiguration": {"level": _LEVELS[worst.severity]},
        "properties": {"severity": worst.severity.value, "subject": worst.subject},
    }


def _uri(file: Path) -> str:
    """Of a file outside of the current folder with its scheme, as the standard asks."""
    whole, here = file.resolve(), Path.cwd()
    if whole.is_relative_to(here):
        return quote(whole.relative_to(here).as_posix())
    return whole.as_uri()


def _result(one: Finding, folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": one.id,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{one.title}: {one.found} ({one.origin}). Cure: {one.cure}"},
    }
    # Code hosts refuse a result without a place: what is a default is in no file.
    where = folder if one.file is None else folder / one.file
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(where)}}
    if one.line is not None:
        place["region"] = {"startLine": one.line}
    result["locations"] = [{"physicalLocation": place}]
    if one.accepted is not None:
        result["suppressions"] = [{"kind": "external", "justification": one.accepted}]
    return result
