"""A rule: one way to lose, duplicate, stall or hide work, and how it shows in what is known.

Ids are those of docs/internals/loss-modes.md, which tells the whole story of each.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

Facts = TypeVar("Facts")


class Severity(StrEnum):
    """What it does to events, the worst first."""

    LOSS = "loss"
    DUPLICATE = "duplicate"
    STALL = "stall"
    BLIND = "blind"
    SLOW = "slow"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a rule is broken. No secrets in it.

    `found` is the value that is there and of what it is, `origin` where it comes from (a file with
    its line, a default, a policy), `cure` the exact setting or command.
    """

    found: str
    origin: str
    cure: str
    file: str | None = None
    line: int | None = None
    implied_by: str | None = None
    is_of_production: bool = False


Check = Callable[[Any], Iterable[Evidence]]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for in facts of one type (`reads`).

    `title` is the fault in a few words, `why` one sentence, `safe` an example without the fault,
    `source` where it is known from.
    """

    id: str
    severity: Severity
    subject: str
    reads: type
    title: str
    why: str
    safe: str
    source: str
    check: Check


class Rules:
    """The rules of one subject, in the order in which they are written."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._rules: list[Rule] = []

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def rule(
        self,
        id_: str,
        severity: Severity,
        reads: type[Facts],
        *,
        title: str,
        why: str,
        safe: str,
        source: str,
    ) -> Callable[[Callable[[Facts], Iterable[Evidence]]], Callable[[Facts], Iterable[Evidence]]]:
        """Makes a rule of a function that gives the evidence against some facts; none: it holds."""

        def add(check: Callable[[Facts], Iterable[Evidence]]) -> Any:
            self._rules.append(
                Rule(
                    id=id_,
                    severity=severity,
                    subject=self.subject,
                    reads=reads,
                    title=title,
                    why=why,
                    safe=safe,
                    source=source,
                    check=check,
                )
            )
            return check

        return add
