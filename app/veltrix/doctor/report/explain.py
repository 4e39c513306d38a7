"""The whole story of a rule."""

from collections.abc import Iterator, Sequence
from textwrap import indent, wrap

from veltrix.doctor.rule import Rule


def explain(rules: Sequence[Rule], width: int) -> Iterator[str]:
    """What rules of one id look for, line by line."""
    for number, rule in enumerate(rules):
        if number:
            yield ""
        yield f"{rule.id}  {rule.severity}  {rule.subject}"
        yield from wrap(rule.title[:1].upper() + rule.title[1:] + ".", width)
        yield ""
        yield from wrap(rule.why, width)
        yield ""
        yield "Safe:"
        yield indent(rule.safe, "    ")
        yield ""
        yield f"Source: {rule.source}"
