"""What an API key may do."""

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """The rights a key can have. `admin` implies all others."""

    EVENTS_WRITE = "events:write"  # post events, start workflows
    RUNS_READ = "runs:read"  # read events, runs, workflows and the books
    RUNS_REPLAY = "runs:replay"  # replay, cancel and archive runs, judge failure groups
    RUNS_EDIT = "runs:edit"  # run a payload again that was edited
    PAYLOADS_READ = "payloads:read"  # see payloads, outputs and messages of what may be read
    METRICS_READ = "metrics:read"  # read the metrics of apis
    ADMIN = "admin"


ALL_SCOPES = frozenset(scope.value for scope in Scope)


def allows(scopes: Iterable[str], wanted: str) -> bool:
    """Whether a key with these scopes may do what `wanted` names."""
    return wanted in scopes or Scope.ADMIN in scopes


def unknown_scopes(scopes: Iterable[str]) -> list[str]:
    """The names among `scopes` that are none, sorted; empty when all are known."""
    return sorted(set(scopes) - ALL_SCOPES)
