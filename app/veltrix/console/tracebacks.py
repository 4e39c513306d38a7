"""Tracebacks as people read them: the frame of the author's code first, libraries dimmed."""

import re
from collections.abc import Iterator

import msgspec

from veltrix.pipeline.execute.coroutines.retry import is_authors

SHOWN_CHARS_MAX = 64 * 1024
_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+)(?:, in (?P<function>.*))?$')
_BEGINS = "Traceback (most recent call last):"
# The worker's installation need not lie where this api's does.
_PLATFORM = re.compile(r"[/\\]veltrix[/\\](?:authoring|pipeline|worker)[/\\]|^<frozen ")


class Frame(msgspec.Struct, frozen=True):
    """One call: where, and its line of code if the traceback has it."""

    file: str
    line: int
    function: str
    code: str


class Part(msgspec.Struct, frozen=True):
    """Lines of a traceback that belong together. `kind`: text, library, own, or useful."""

    kind: str
    text: str


class Trace(msgspec.Struct, frozen=True):
    """A traceback in parts; `useful` is the author's innermost frame of its last error.

    None: there is no frame of the author. `left` characters are not in the parts.
    """

    parts: list[Part]
    useful: Frame | None
    left: int = 0


def trace_of(text: str | None) -> Trace | None:
    """The traceback in parts, of 65,536 characters at most; None: there is none."""
    if not text:
        return None
    cut = text[-SHOWN_CHARS_MAX:]  # its end says what happened
    frames: list[tuple[int, Frame, bool]] = []
    parts: list[Part] = []
    last_error = 0
    for lines in _together(cut.splitlines()):
        frame = _frame_of(lines)
        if frame is None:
            last_error = len(parts) if _BEGINS in lines[0] else last_error
            parts.append(Part("text", "\n".join(lines)))
            continue
        is_own = is_authors(frame.file) and not _PLATFORM.search(frame.file)
        frames.append((len(parts), frame, is_own))
        parts.append(Part("own" if is_own else "library", "\n".join(lines)))
    own = [(at, frame) for at, frame, is_own in frames if is_own]
    best = [(at, frame) for at, frame in own if at >= last_error] or own
    if not best:
        return Trace(parts, None, len(text) - len(cut))
    at, useful = best[-1]
    parts[at] = Part("useful", parts[at].text)
    return Trace(parts, useful, len(text) - len(cut))


def _together(lines: list[str]) -> Iterator[list[str]]:
    """A frame with the lines of code below it; every other line alone."""
    group: list[str] = []
    for line in lines:
        if group and _FRAME.match(group[0]) and line.startswith("    "):
            group.append(line)
            continue
        if group:
            yield group
        group = [line]
    if group:
        yield group


def _frame_of(lines: list[str]) -> Frame | None:
    found = _FRAME.match(lines[0])
    if found is None:
        return None
    code = lines[1].strip() if len(lines) > 1 else ""
    return Frame(found["file"], int(found["line"]), found["function"] or "", code)
