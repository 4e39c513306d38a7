"""The examination as a page for a terminal: the worst first, each with its cure ready to paste."""

from collections.abc import Iterator
from textwrap import wrap

from veltrix.doctor.examine import Examination, Finding, subjects_of
from veltrix.doctor.rule import Severity

_HUES = {
    Severity.LOSS: "red",
    Severity.DUPLICATE: "magenta",
    Severity.STALL: "yellow",
    Severity.BLIND: "cyan",
    Severity.SLOW: "blue",
}


class Style:
    """Colours and bold, or none."""

    def __init__(self, *, has_colour: bool) -> None:
        self._has_colour = has_colour

    def __call__(self, text: str, hue: str | None = None, *, bold: bool = False) -> str:
        if not self._has_colour:
            return text
        from typer import style

        return style(text, fg=hue, bold=bold)


def lines_of(found: Examination, style: Style, width: int) -> Iterator[str]:
    """The page, line by line."""
    open_ = [one for one in found.findings if one.accepted is None]
    for subject, findings in subjects_of(open_).items():
        yield style(subject[:1].upper() + subject[1:], bold=True)
        for one in findings:
            yield from _finding(one, style, width)
        yield ""
    accepted = [one for one in found.findings if one.accepted is not None]
    if accepted:
        yield style("Accepted", bold=True)
        for one in accepted:
            yield from wrap(
                f"{one.id} {one.title} ({one.found}): {one.accepted}", width, initial_indent="  ",
                subsequent_indent="      ",
            )  # fmt: skip
        yield ""
    if found.not_checked:
        yield style("Not checked", bold=True)
        by_reason: dict[str, list[str]] = {}
        for rule in found.not_checked:
            by_reason.setdefault(rule.reason, []).append(rule.id)
        for reason, ids in by_reason.items():
            text = f"{', '.join(dict.fromkeys(ids))}: {reason}"
            yield from wrap(text, width, initial_indent="  ", subsequent_indent="      ")
        yield ""
    yield _sum(found, style)


def _finding(one: Finding, style: Style, width: int) -> Iterator[str]:
    word = style(f"{one.severity:<9}", _HUES[one.severity], bold=True)
    yield f"  {word} {style(one.id, bold=True)} {one.title}"
    for label, text in (
        ("found", f"{one.found} ({one.origin})"),
        ("why", one.why),
    ):
        yield from wrap(
            f"{label:<6}{text}",
            width,
            initial_indent=" " * 12,
            subsequent_indent=" " * 18,
            break_on_hyphens=False,
        )
    first, *rest = one.cure.splitlines() or [""]  # as it is: it is pasted
    yield " " * 12 + f"{'cure':<6}" + style(first, "green")
    yield from (" " * 18 + style(line, "green") for line in rest)


def _sum(found: Examination, style: Style) -> str:
    open_ = [one for one in found.findings if one.accepted is None]
    counts = {severity: sum(one.severity is severity for one in open_) for severity in Severity}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing"
    hue = "red" if counts[Severity.LOSS] else "green" if not open_ else "yellow"
    beside = f"; {found.held} rules hold"
    if found.not_checked:
        beside += f", {len(found.not_checked)} were not checked"
    return style(f"found: {told}", hue, bold=True) + beside
