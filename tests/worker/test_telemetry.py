"""Metrics of lists are those of their members."""

from prometheus_client import CollectorRegistry, Histogram

from veltrix.telemetry import ListHistogram

BUCKETS = (0.1, 1.0)
VALUES = [0.0, 0.1, 0.10001, 1.0, 5.0, 5.0]


def samples(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
    (metric,) = histogram.collect()
    return [(s.name, s.labels, s.value) for s in metric.samples if not s.name.endswith("_created")]


def test_values_observed_together_count_as_each_by_itself() -> None:
    one_by_one = Histogram("x", "x", buckets=BUCKETS, registry=CollectorRegistry())
    together = ListHistogram("x", "x", buckets=BUCKETS, registry=CollectorRegistry())
    for value in VALUES:
        one_by_one.observe(value)
    together.observe_all(VALUES)
    together.observe_all([])

    assert samples(together) == samples(one_by_one)
