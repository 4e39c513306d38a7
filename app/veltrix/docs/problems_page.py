"""docs/reference/problems.md: every problem that the api answers with, from the list of them."""

from http import HTTPStatus
from itertools import groupby
from textwrap import fill

from veltrix.web.problems import PROBLEMS, TYPE_PREFIX

_HEAD = f"""# Problems

*Written by `python -m veltrix.docs` from `app/veltrix/web/problems.py`.*

What the API cannot do it answers with a problem (RFC 9457): JSON of the type
`application/problem+json`. Its `type` is `{TYPE_PREFIX}` and one of the words below.
The words are stable, so programs compare them. `detail` is one sentence for people. Other members,
such as `state` or `errors`, are facts for programs.
"""
COLUMNS = 100


def render() -> str:
    """The page: a list of problems for each status."""
    parts = [_HEAD]
    by_status = sorted(PROBLEMS.items(), key=lambda item: (item[1].status, item[0]))
    for status, problems in groupby(by_status, key=lambda item: item[1].status):
        parts.append(f"\n## {status} {HTTPStatus(status).phrase}\n\n")
        for slug, kind in problems:
            line = f"- `{slug}`: {kind.meaning} {kind.cure}"
            parts.append(fill(line, COLUMNS, subsequent_indent="  ", break_on_hyphens=False) + "\n")
    return "".join(parts)
