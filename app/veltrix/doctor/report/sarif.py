"""The examination as SARIF 2.1.0, which code hosts show beside the lines of a change."""

from collections.abc import Iterable
from typing import Any

from veltrix.doctor.examine import Examination, Finding
from veltrix.doctor.rule import Rule, Severity

_LEVELS = {
    Severity.LOSS: "error",
    Severity.DUPLICATE: "error",
    Severity.STALL: "warning",
    Severity.BLIND: "warning",
    Severity.SLOW: "note",
}


def sarif(found: Examination, rules: Iterable[Rule], version: str) -> dict[str, Any]:
    """The document. Findings that somebody accepted are suppressed in it, with the reason."""
    by_id = {rule.id: rule for rule in rules}
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
                "results": [_result(one) for one in found.findings],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\nSafe: {rule.safe}\n\nSource: {rule.source}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"severity": rule.severity.value, "subject": rule.subject},
    }


def _result(one: Finding) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": one.id,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{one.title}: {one.found} ({one.origin}). Cure: {one.cure}"},
    }
    if one.file is not None:
        place: dict[str, Any] = {"artifactLocation": {"uri": one.file}}
        if one.line is not None:
            place["region"] = {"startLine": one.line}
        result["locations"] = [{"physicalLocation": place}]
    if one.accepted is not None:
        result["suppressions"] = [{"kind": "external", "justification": one.accepted}]
    return result
