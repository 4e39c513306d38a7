"""Examining: every rule is held against the facts it reads; what cannot be is told, too."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from veltrix.doctor.rule import Evidence, Rule, Severity


class Unread(Exception):
    """These facts cannot be read, for this reason: a sentence with the cure, without secrets."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that is broken in one place. `accepted` says why somebody lives with it."""

    id: str
    severity: Severity
    subject: str
    title: str
    why: str
    found: str
    origin: str
    cure: str
    file: str | None
    line: int | None
    source: str
    accepted: str | None = None


class NotChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that could not be held against anything, and why. It is not fine."""

    id: str
    subject: str
    title: str
    reason: str


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, the worst first; how many rules held, and which were not checked."""

    findings: list[Finding]
    not_checked: list[NotChecked]
    held: int

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings as bad as this or worse that nobody has accepted."""
        return [
            one
            for one in self.findings
            if one.accepted is None and one.severity.rank <= severity.rank
        ]


Reader = Callable[[], object]


def examine(
    rules: Iterable[Rule],
    readers: Mapping[type, Reader],
    accepted: Mapping[str, str] | None = None,
    *,
    is_production: bool = False,
) -> Examination:
    """Read the facts that `rules` need, each once, and hold every rule against its own.

    A reader raises Unread for what cannot be read. A rule without a reader is not asked about: it
    is about something else than what is examined. `accepted` has reasons by id. In production
    nothing is accepted for what the kind of deployment implies.
    """
    facts: dict[type, object | Unread] = {}
    findings: list[Finding] = []
    not_checked: list[NotChecked] = []
    held = 0
    for rule in rules:
        if rule.reads not in readers:
            continue
        if rule.reads not in facts:
            facts[rule.reads] = _read(readers[rule.reads])
        known = facts[rule.reads]
        if isinstance(known, Unread):
            not_checked.append(_not_checked(rule, str(known)))
            continue
        evidence: list[Evidence] = []
        try:
            for one in rule.check(known):
                if is_production or not one.is_of_production:
                    evidence.append(one)  # noqa: PERF401 - what is seen before it fails is true
        except Unread as unread:
            not_checked.append(_not_checked(rule, str(unread)))
        except Exception as error:  # noqa: BLE001 - a rule that fails has checked nothing
            reason = f"the rule failed: {type(error).__name__}; please report it"
            not_checked.append(_not_checked(rule, reason))
        else:
            held += not evidence
        for one in evidence:
            implied = None if is_production else one.implied_by
            findings.append(_finding(rule, one, (accepted or {}).get(rule.id, implied)))
    findings.sort(key=lambda one: (one.accepted is not None, one.severity.rank, one.id))
    return Examination(findings=findings, not_checked=not_checked, held=held)


def subjects_of(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """By subject, in the order in which the worst of each comes."""
    found: dict[str, list[Finding]] = {}
    for one in findings:
        found.setdefault(one.subject, []).append(one)
    return found


def _read(reader: Reader) -> object | Unread:
    try:
        return reader()
    except Unread as unread:
        return unread
    except Exception as error:  # noqa: BLE001 - the other rules are held all the same
        return Unread(f"reading it failed: {type(error).__name__}; please report it")


def _finding(rule: Rule, one: Evidence, accepted: str | None) -> Finding:
    return Finding(
        id=rule.id,
        severity=rule.severity,
        subject=rule.subject,
        title=rule.title,
        why=rule.why,
        found=one.found,
        origin=one.origin,
        cure=one.cure,
        file=one.file,
        line=one.line,
        source=rule.source,
        accepted=accepted,
    )


def _not_checked(rule: Rule, reason: str) -> NotChecked:
    return NotChecked(id=rule.id, subject=rule.subject, title=rule.title, reason=reason)
