"""Patterns of a key describe what they say, at no cost whatever they are; and a rate is a rate."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.access.key_limits import KeyLimits, mistake_of
from veltrix.access.patterns import PATTERN_CHARS_MAX, PATTERNS_MAX, fits
from veltrix.domain.token_bucket import TokenBucket

LETTERS = st.text("ab*.?[", max_size=8)


@given(LETTERS, st.text("ab.?[", max_size=10))
def test_a_star_is_any_run_and_everything_else_is_itself(pattern: str, name: str) -> None:
    meant = ".*".join(map(re.escape, pattern.split("*")))

    assert fits(pattern, name) == (re.fullmatch(meant, name, re.DOTALL) is not None)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("/shop/*", "/shop/eu", True),
        ("/shop/*", "/shop/", True),
        ("/shop/*", "/shop", False),
        ("/shop/*", "/Shop/eu", False),
        ("/shop/*", "https://evil.example/shop/eu", False),
        ("/shop/*", "/shop/../bank", True),  # a source is text, not a path
        ("a*a", "a", False),
        ("*", "\n", True),
    ],
)
def test_what_fits(pattern: str, name: str, expected: bool) -> None:
    assert fits(pattern, name) is expected


def test_a_hostile_pattern_over_a_long_name_costs_next_to_nothing() -> None:
    pattern, name = "a*" * (PATTERN_CHARS_MAX // 2 - 1) + "b", "a" * 65_536
    began = time.process_time()
    assert not fits(pattern, name)
    assert not fits("*ab" * 80, "a" * 65_536)

    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(
    "limits",
    [
        KeyLimits(sources=()),
        KeyLimits(types=("",)),
        KeyLimits(workflows=("x" * (PATTERN_CHARS_MAX + 1),)),
        KeyLimits(sources=("a\x00",)),
        KeyLimits(sources=("a",) * (PATTERNS_MAX + 1)),
        KeyLimits(rate=0.0),
        KeyLimits(rate=float("nan")),
        KeyLimits(rate=float("inf")),
        KeyLimits(burst=5),
        KeyLimits(rate=1.0, burst=0),
        KeyLimits(body_bytes_max=0),
    ],
)
def test_what_no_key_can_be_limited_by(limits: KeyLimits) -> None:
    assert mistake_of(limits)


def test_who_is_bound_in_anything_does_nothing_else() -> None:
    sender, starter = KeyLimits(sources=("/shop/*",)), KeyLimits(workflows=("fulfil",))

    assert sender.stray_event("/shop/eu", "any") is None
    assert sender.stray_event("/bank", "any")
    assert sender.stray_workflow("fulfil")
    assert starter.stray_workflow("fulfil") is None
    assert starter.stray_workflow("report")
    assert starter.stray_workflow(None), "runs of any workflow"
    assert starter.stray_event("/shop/eu", "any")
    assert KeyLimits(rate=1.0).stray_event("/bank", "any") is None
    assert KeyLimits(rate=1.0).stray_workflow(None) is None


def test_a_bucket_gives_its_rate_in_the_long_run_and_its_burst_at_once() -> None:
    bucket = TokenBucket(rate=10.0, burst=5, now=100.0)

    assert [bucket.take(1, 100.0) for _ in range(6)] == [0.0] * 5 + [0.1]
    assert bucket.take(3, 100.1) == pytest.approx(0.2)
    assert bucket.take(1, 99.0) > 0.0 or bucket.take(1, 100.1) > 0.0, "a clock does not go back"
    assert sum(bucket.take(1, 1_000.0 + n / 100) == 0.0 for n in range(1_000)) == 5 + 99
