"""Alerts and board load where they belong, and every name in them is one that there is."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from tests.docs.pages import ROOT
from veltrix import telemetry
from veltrix.docs import alerts, board
from veltrix.docs.platform_alerts import Alert
from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.rule import Severity

FILE = ROOT / "deploy" / "prometheus" / "veltrix-alerts.yml"
BOARD = ROOT / "deploy" / "grafana" / "veltrix.json"
ALERTS = [alert for group in alerts.groups().values() for alert in group]
DURATION = re.compile(r"\d+[smhd]")
# What Prometheus adds to a series by itself, and histograms have.
ADDED = {"job", "instance", "le"}


def anchors_of(page: str) -> set[str]:
    """Targets of its headings, as GitHub and the site make them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def labels_of() -> dict[str, set[str]]:
    """By each name of a time series that telemetry has: its labels."""
    found: dict[str, set[str]] = {telemetry.WORKER_TROUBLES[0]: {"name"}}
    for metric in vars(telemetry).values():
        if isinstance(metric, MetricWrapperBase):
            for family in metric.describe():
                names = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
                for end in names.get(family.type, [""]):
                    found[family.name + end] = set(metric._labelnames)
    return found


SERIES = labels_of()


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of both files."""
    for alert in ALERTS:
        yield alert.name, alert.expr
    for panel in board.document()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_every_metric_is_one_that_there_is() -> None:
    asked = {
        (where, name)
        for where, expr in expressions()
        for name in re.findall(r"\bveltrix_[a-z_]+", expr)
    }

    assert len({name for _, name in asked}) > 30
    assert not {one for one in asked if one[1] not in SERIES}
    assert board.help_of().keys() >= SERIES.keys()


def test_every_label_is_one_of_its_metric() -> None:
    wrong = []
    for where, expr in expressions():
        names = re.findall(r"\bveltrix_[a-z_]+", expr)
        there = set.intersection(*(SERIES[name] for name in names)) | ADDED
        asked = {
            label.strip() for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(",")
        }
        asked |= set(re.findall(r"[{,](\w+)(?:=|!~)", expr))
        wrong += [(where, asked - there)] if asked - there else []

    assert not wrong


def test_every_label_in_a_text_is_one_that_the_alert_has() -> None:
    for alert in ALERTS:
        kept = {
            label.strip()
            for by in re.findall(r"by \(([^)]*)\)", alert.expr)
            for label in by.split(",")
        }
        texts = " ".join(alert.annotations.values())
        assert set(re.findall(r"\$labels\.(\w+)", texts)) <= kept, alert.name


def test_the_file_is_what_prometheus_loads() -> None:
    """Its shape; promtool says the same, where it is."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))

    assert loaded.keys() == {"groups"}
    read = [rule for group in loaded["groups"] for rule in group["rules"]]
    assert [group["name"] for group in loaded["groups"]] == list(alerts.groups())
    assert [rule["alert"] for rule in read] == [alert.name for alert in ALERTS]
    for rule, alert in zip(read, ALERTS, strict=True):
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["expr"] == alert.expr
        assert rule.get("for", "") == alert.lasts
        assert not alert.lasts or DURATION.fullmatch(alert.lasts)
        assert re.fullmatch(r"[A-Za-z]\w*", alert.name)
        assert alert.level in {"critical", "warning", "info"}
        texts = {**rule["labels"], **rule["annotations"]}
        assert all(isinstance(text, str) and text for text in texts.values())


def test_names_of_alerts_are_unique() -> None:
    names = [alert.name for alert in ALERTS]

    assert len(names) == len(set(names))


def test_what_a_watch_holds_has_an_alert_with_its_title_and_its_reason() -> None:
    by_name = {alert.name: alert for alert in ALERTS}

    held = [rule for rule in all_rules() if rule.reads in alerts.WATCHED]
    assert len(held) > 50
    for rule in held:
        alert = by_name[f"Veltrix{rule.id}{rule.severity.capitalize()}"]
        assert rule.title in alert.summary
        assert rule.why in alert.description
        assert alert.effect == rule.severity


def test_a_loss_pages_at_once_and_nothing_else_does() -> None:
    of_findings = alerts.groups()["veltrix-findings"]

    assert {one.effect for one in of_findings if not one.lasts} == {"loss"}
    for one in of_findings:
        assert (one.level == "critical") is (one.effect == "loss")


def test_a_finding_of_a_rule_that_the_file_does_not_know_is_told_by_its_severity() -> None:
    """Those of each id and severity are in one alert, and in no second one."""
    others = {one.effect: one for one in ALERTS if one.name.startswith("VeltrixOther")}
    known = {(id_, severity) for id_, severity in alerts.watched_rules()}

    assert set(others) == set(Severity)
    for severity, alert in others.items():
        (pattern,) = re.findall(r'id!~"([^"]*)"', alert.expr)
        assert pattern.split("|") == [id_ for id_, of in sorted(known) if of == severity]
        assert not re.fullmatch(pattern, "X99")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_its_page_has_the_heading(alert: Alert) -> None:
    page, _, anchor = alert.runbook.partition("#")

    assert anchor in anchors_of(page)


def test_each_runbook_about_a_symptom_that_metrics_show_is_linked() -> None:
    linked = {alert.runbook.partition("#")[2] for alert in ALERTS}
    not_of_metrics = {"runbooks-by-symptom", "first-always", "a-certificate-ends-soon"}
    not_of_metrics |= {"a-run-fails-as-poison"}  # many runs that fail are told, one is no alarm

    assert anchors_of("docs/how-to/runbooks.md") - linked == not_of_metrics


def test_the_board_is_one_that_grafana_imports() -> None:
    loaded = json.loads(BOARD.read_text(encoding="utf-8"))
    panels = loaded["panels"]

    assert loaded["schemaVersion"] >= 36
    assert {"title", "uid", "time", "templating", "panels"} <= loaded.keys()
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["description"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_board_says_what_ids_mean() -> None:
    (table,) = (panel for panel in board.document()["panels"] if panel["type"] == "table")
    of_ids, of_severities = (
        override["properties"][0]["value"][0]["options"]
        for override in table["fieldConfig"]["overrides"]
    )

    assert of_ids.keys() == {id_ for id_, _ in alerts.watched_rules()}
    assert "commits without waiting" in of_ids["D08"]["text"]
    assert list(of_severities) == list(Severity)


def test_what_the_watch_exposes_is_there() -> None:
    """By the names that alerts and board have."""
    names = {family.name for family in REGISTRY.collect()}

    assert names >= {
        "veltrix_doctor_findings",
        "veltrix_doctor_not_checked",
        "veltrix_doctor_looked_at_seconds",
        "veltrix_canary_seconds",
        "veltrix_canaries",
        "veltrix_canaries_waiting",
    }
