"""deploy/prometheus/veltrix-alerts.yml: alerts on findings of doctor's watch, canaries, metrics.

A loss pages at once; what merely waits or cannot be seen is told later.
"""

from collections.abc import Iterable, Iterator

from veltrix.docs.platform_alerts import PLATFORM, WATCH, Alert
from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.facts.canaries import CanaryWays
from veltrix.doctor.facts.platform_settings import PlatformSettings
from veltrix.doctor.facts.postgres import LiveDatabase
from veltrix.doctor.facts.rabbitmq import LiveBroker
from veltrix.doctor.facts.workers import LiveWorkers
from veltrix.doctor.rule import Rule, Severity

# What a watch looks at again and again.
WATCHED = {LiveBroker, LiveDatabase, LiveWorkers, CanaryWays, PlatformSettings}
# For whom it is, and how long it must last.
URGENCY: dict[Severity, tuple[str, str]] = {
    Severity.LOSS: ("critical", ""),
    Severity.DUPLICATE: ("warning", "5m"),
    Severity.STALL: ("warning", "5m"),
    Severity.BLIND: ("warning", "15m"),
    Severity.SLOW: ("info", "30m"),
}
_PAGE = "docs/how-to/doctor.md#read-the-answer"
_HEAD = """# Written by `python -m veltrix.docs`: change the rules in app/veltrix/doctor/rules/, or
# app/veltrix/docs/platform_alerts.py. How to load it: docs/how-to/doctor.md.
groups:
"""


def watched_rules() -> dict[tuple[str, Severity], list[Rule]]:
    """Rules that a watch holds, by what their findings are counted by."""
    found: dict[tuple[str, Severity], list[Rule]] = {}
    for rule in all_rules():
        if rule.reads in WATCHED:
            found.setdefault((rule.id, rule.severity), []).append(rule)
    return dict(sorted(found.items(), key=lambda item: (item[0][1].rank, item[0][0])))


def groups() -> dict[str, list[Alert]]:
    """All alerts, by the name of their group."""
    found = watched_rules()
    return {
        "veltrix-findings": [
            *(_of_finding(id_, severity, rules) for (id_, severity), rules in found.items()),
            *(
                _of_others(severity, [id_ for id_, of in found if of is severity])
                for severity in Severity
            ),
        ],
        "veltrix-watch": WATCH,
        "veltrix-platform": PLATFORM,
    }


def render() -> str:
    """The file's content."""
    parts = [_HEAD]
    for name, alerts in groups().items():
        parts.append(f"  - name: {name}\n    rules:\n")
        parts += [f"{line}\n" for alert in alerts for line in _lines(alert)]
    return "".join(parts)


def _lines(alert: Alert) -> Iterator[str]:
    yield f"      - alert: {alert.name}"
    yield f"        expr: {_quoted(alert.expr)}"
    if alert.lasts:
        yield f"        for: {alert.lasts}"
    for title, texts in (("labels", alert.labels), ("annotations", alert.annotations)):
        yield f"        {title}:"
        yield from (f"          {key}: {_quoted(text)}" for key, text in texts.items())


def _quoted(text: str) -> str:
    """As YAML that says nothing but the text; one of several lines becomes one line."""
    return "'" + " ".join(text.split()).replace("'", "''") + "'"


def _of_finding(id_: str, severity: Severity, rules: list[Rule]) -> Alert:
    level, lasts = URGENCY[severity]
    counted = f'veltrix_doctor_findings{{id="{id_}",severity="{severity}"}}'
    return Alert(
        name=f"Veltrix{id_}{severity.capitalize()}",
        expr=f"max by (id, severity, subject) ({counted}) > 0",
        lasts=lasts,
        level=level,
        effect=severity,
        summary=f"{id_}: {_joined((rule.title for rule in rules), '; or ')}",
        description=_joined((rule.why for rule in rules), " "),
        cure="`veltrix doctor --live` names the place and the cure,"
        f" `veltrix doctor --explain {id_}` the whole story. Safe:"
        f" {_joined((rule.safe.rstrip(';') for rule in rules), '; or ')}",
        runbook=_PAGE,
    )


def _of_others(severity: Severity, ids: list[str]) -> Alert:
    """Those of rules that this file does not know, as of newer code."""
    level, lasts = URGENCY[severity]
    counted = f'veltrix_doctor_findings{{id!~"{"|".join(ids)}",severity="{severity}"}}'
    return Alert(
        name=f"VeltrixOther{severity.capitalize()}",
        expr=f"max by (id, severity, subject) ({counted}) > 0",
        lasts=lasts,
        level=level,
        effect=severity,
        summary="{{ $labels.id }}: a finding about {{ $labels.subject }}",
        description="Doctor has a finding of a rule for which there is no alert of its own.",
        cure="`veltrix doctor --live` names the place and the cure.",
        runbook=_PAGE,
    )


def _joined(texts: Iterable[str], by: str) -> str:
    return by.join(dict.fromkeys(texts))
