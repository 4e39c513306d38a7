"""What our processes say of themselves: an error that nobody foresaw ends in a traceback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from veltrix.prove.check.properties import SAMPLES_MAX, Property

NAME = "nothing_unforeseen"
PROMISE = "No process meets an error of which it can say no more than where it happened."
_RAW = "Traceback (most recent call last)"
_AUTHORS = "/veltrix/prove/load/authors"
_REFUSED_SLEEP = "OSError: [Errno 22] Invalid argument of a sleep"


def nothing_unforeseen(folder: Path, *, has_faketime: bool = False) -> Property:
    """No traceback in any of the logs in `folder`, raw or in a line of JSON.

    `has_faketime`: a clock that jumps by it may refuse a sleep, as no clock of a machine does.
    """
    found = Property(NAME, PROMISE)
    for path in sorted(folder.glob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as log:
            for said in _tracebacks(log):
                if has_faketime and said == _REFUSED_SLEEP:
                    continue
                found.broken += 1
                if len(found.samples) < SAMPLES_MAX:
                    found.samples = [*found.samples, f"{path.stem}: {said}"]
    return found


def _tracebacks(log: Iterator[str]) -> Iterator[str]:
    """What each came to. A raw one ends with the first line that is not part of it, or the log.

    Those of the odd authors that prove has are none of ours.
    """
    within: list[str] = []
    for line in log:
        if within and line.startswith((" ", "\n")):
            within.append(line)
            continue
        if within and not (_is_authors("".join(within)) or _is_orphans("".join(within), line)):
            yield _said(within[-1], line)
        within = []
        if _RAW not in line:
            continue
        fields = _fields(line)
        if fields is None:
            within = [line]
        elif not _is_authors(line):
            trace = next((str(v) for v in fields.values() if _RAW in str(v)), line)
            yield f"{fields.get('event')}: {trace.strip().rpartition(chr(10))[2]}"[:200]
    if within and not _is_authors("".join(within)):
        yield f"{within[-1].strip()}, and the log ends"[:200]


def _is_orphans(trace: str, error: str) -> bool:
    """A child of a worker that was killed while it began: it has nobody to tell that it is there.

    Celery's own words of it, before any line of ours.
    """
    return "self.on_loop_start(pid=pid)" in trace and error.startswith("BrokenPipeError")


def _is_authors(trace: str) -> bool:
    return _AUTHORS in trace


def _said(last: str, error: str) -> str:
    is_sleep = last.strip().startswith("time.sleep(")
    return f"{error.strip()}{' of a sleep' if is_sleep else ''}"[:200]


def _fields(line: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
