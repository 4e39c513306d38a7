"""deploy/grafana/veltrix.json: a board of the books, what comes and goes, findings and canaries.

Panels say of each metric what `veltrix.telemetry` says of it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from prometheus_client import REGISTRY

from veltrix import telemetry
from veltrix.docs.alerts import watched_rules
from veltrix.docs.platform_alerts import of_the_watch

_COLUMNS = 24
_HEAD_ROWS, _PANEL_ROWS = 1, 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}
# Letters of doctor's severities, the worst first.
_COLOURS = {
    "loss": "dark-red",
    "duplicate": "red",
    "stall": "orange",
    "blind": "yellow",
    "slow": "blue",
}


class BoardPanel(msgspec.Struct, frozen=True, kw_only=True):
    """A panel: a title, and (PromQL, legend) of each line. `bad`: from this value on it is red."""

    title: str
    lines: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    bad: float | None = None


def _rate(counter: str, by: str = "") -> str:
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} (rate({counter}_total[$__rate_interval]))"


def _quantile(share: float, histogram: str, by: str = "") -> str:
    kept = f"le, {by}" if by else "le"
    counted = f"sum by ({kept}) (rate({histogram}_bucket[$__rate_interval]))"
    return f"histogram_quantile({share}, {counted})"


def _latency(title: str, histogram: str, by: str = "", width: int = 8) -> BoardPanel:
    legend = f" {{{{{by}}}}}" if by else ""
    lines = tuple(
        (_quantile(share, histogram, by), f"p{share * 100:g}{legend}")
        for share in (0.5, 0.95, 0.99)
    )
    return BoardPanel(title=title, lines=lines, unit="s", width=width)


def _largest(gauge: str, by: str = "") -> str:
    return f"max by ({by}) ({gauge})" if by else f"max({gauge})"


ROWS: dict[str, tuple[BoardPanel, ...]] = {
    "Books": (
        BoardPanel(
            title="Unaccounted",
            lines=((_largest("veltrix_unaccounted"), ""),),
            kind="stat",
            width=4,
            bad=1,
        ),
        BoardPanel(
            title="Oldest open run",
            lines=((_largest("veltrix_oldest_open_seconds"), ""),),
            kind="stat",
            unit="s",
            width=4,
            bad=3600,
        ),
        BoardPanel(
            title="Open runs",
            lines=((_largest("veltrix_open_runs", "state"), "{{state}}"),),
            width=16,
        ),
    ),
    "Findings": (
        BoardPanel(
            title="Findings now",
            lines=((f"{_largest('veltrix_doctor_findings', 'id, severity, subject')} > 0", ""),),
            kind="table",
            width=16,
        ),
        BoardPanel(
            title="Not checked",
            lines=((of_the_watch("veltrix_doctor_not_checked"), ""),),
            kind="stat",
            width=4,
            bad=1,
        ),
        BoardPanel(
            title="Since the last look",
            lines=(("time() - max(veltrix_doctor_looked_at_seconds)", ""),),
            kind="stat",
            unit="s",
            width=4,
            bad=120,
        ),
    ),
    "Canaries": (
        _latency("From submission to outcome", "veltrix_canary_seconds", "queue"),
        BoardPanel(
            title="Canaries by how they ended",
            lines=(
                (
                    "sum by (queue, ending) (increase(veltrix_canaries_total[5m]))",
                    "{{queue}} {{ending}}",
                ),
            ),
        ),
        BoardPanel(
            title="Canaries that wait",
            lines=((of_the_watch("veltrix_canaries_waiting"), "waiting"),),
        ),
    ),
    "Throughput": (
        BoardPanel(
            title="Events",
            lines=(
                (_rate("veltrix_events_accepted"), "accepted"),
                (_rate("veltrix_events_duplicate"), "duplicate"),
                (_rate("veltrix_events_refused", "reason"), "refused: {{reason}}"),
            ),
            unit="cps",
        ),
        BoardPanel(
            title="Runs settled",
            lines=((_rate("veltrix_runs_settled", "state"), "{{state}}"),),
            unit="cps",
        ),
        BoardPanel(
            title="Attempts that failed",
            lines=((_rate("veltrix_failed_attempts", "workflow"), "{{workflow}}"),),
            unit="cps",
        ),
    ),
    "Latency": (
        _latency("From acceptance to outcome", "veltrix_outcome_seconds", width=12),
        _latency("Accept, per list", "veltrix_accept_seconds", width=12),
    ),
    "Relay and queues": (
        BoardPanel(
            title="How late due runs are",
            lines=((_largest("veltrix_relay_lag_seconds", "queue"), "{{queue}}"),),
            unit="s",
        ),
        BoardPanel(
            title="Open runs that no worker serves",
            lines=((_largest("veltrix_unserved_runs", "queue"), "{{queue}}"),),
        ),
        BoardPanel(
            title="Handed over, by hint or because due",
            lines=(
                (_rate("veltrix_runs_relayed", "by"), "{{by}}"),
                (_rate("veltrix_messages_published"), "messages"),
            ),
            unit="cps",
        ),
        BoardPanel(
            title="Messages that came back, or nowhere",
            lines=(
                (_rate("veltrix_publish_nacks"), "refused by a queue"),
                (_rate("veltrix_publish_returns"), "without a queue"),
                (_rate("veltrix_messages_given_back"), "given back by workers"),
                (_rate("veltrix_dead_letters", "reason"), "dead: {{reason}}"),
            ),
            unit="cps",
        ),
        BoardPanel(
            title="Taken from workers",
            lines=(
                (_rate("veltrix_runs_rescued"), "rescued"),
                (_rate("veltrix_leases_lost"), "leases lost"),
                (_rate("veltrix_children_killed", "reason"), "children ended: {{reason}}"),
            ),
            unit="cps",
        ),
        BoardPanel(
            title="Not confirmed yet",
            lines=(("sum(veltrix_unconfirmed_messages)", "messages"),),
        ),
    ),
}


def render() -> str:
    """The file's content."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def document() -> dict[str, Any]:
    """The board, as Grafana imports it: it asks for the Prometheus."""
    return {
        "uid": "veltrix",
        "title": "Veltrix",
        "description": "Written by `python -m veltrix.docs` from app/veltrix/docs/board.py",
        "tags": ["veltrix"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    number = top = 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": _HEAD_ROWS}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place}
        top, left = top + _HEAD_ROWS, 0
        for panel in panels:
            if left + panel.width > _COLUMNS:
                top, left = top + _PANEL_ROWS, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": _PANEL_ROWS}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left += panel.width
        top += _PANEL_ROWS


def _panel(panel: BoardPanel) -> dict[str, Any]:
    is_now = panel.kind != "timeseries"
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad is not None:
        steps.append({"color": "red", "value": panel.bad})
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": "\n\n".join(_said_of(expr) for expr, _ in panel.lines),
        "datasource": _SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend or "__auto",
                "instant": is_now,
                "range": not is_now,
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for number, (expr, legend) in enumerate(panel.lines)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": _titles() if panel.kind == "table" else [],
        },
    }
    if panel.kind == "table":
        hidden = {"id": "organize", "options": {"excludeByName": {"Time": True}}}
        made |= {"transformations": [hidden]}
    return made


def _titles() -> list[dict[str, Any]]:
    """What ids mean, and severities in colours."""
    titles: dict[str, list[str]] = {}
    for (id_, _), rules in watched_rules().items():
        titles.setdefault(id_, []).extend(rule.title for rule in rules)
    ids = {
        id_: {"text": f"{id_} {'; or '.join(dict.fromkeys(said))}"} for id_, said in titles.items()
    }
    colours = {
        severity: {"text": severity, "color": colour, "index": index}
        for index, (severity, colour) in enumerate(_COLOURS.items())
    }
    cell = {"id": "custom.cellOptions", "value": {"type": "color-text"}}
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": "mappings", "value": [{"type": "value", "options": options}]},
                *extra,
            ],
        }
        for name, options, extra in (("id", ids, []), ("severity", colours, [cell]))
    ]


def _said_of(expr: str) -> str:
    """What telemetry says of the metric that it is about."""
    name = re.findall(r"veltrix_[a-z_]+", expr)[0]
    return f"{name}: {help_of()[name]}"


def help_of() -> dict[str, str]:
    """By each name that a time series of `veltrix.telemetry` has: what it says of itself."""
    found = dict([telemetry.WORKER_TROUBLES])
    for metric in REGISTRY.collect():
        for name in _series(metric.name, metric.type):
            found[name] = metric.documentation
    return {name: said for name, said in found.items() if name.startswith("veltrix_")}


def _series(name: str, type_: str) -> Iterator[str]:
    if type_ == "counter":
        yield f"{name}_total"
    elif type_ == "histogram":
        yield from (f"{name}_bucket", f"{name}_sum", f"{name}_count")
    else:
        yield name
