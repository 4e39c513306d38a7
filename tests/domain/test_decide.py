"""Decide: pauses grow and are bounded, final errors are final, texts can always be stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.authoring.steps import RetryPolicy
from veltrix.domain.text import storable_text
from veltrix.pipeline.execute.coroutines.retry import described, fingerprint, retry_delay_s

policies = st.builds(
    RetryPolicy,
    retries=st.integers(0, 10_000),
    backoff_s=st.floats(0, 100),
    backoff_factor=st.floats(1, 10),
    backoff_s_max=st.floats(100, 10_000),
)
jitters = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, 20_000), jitters)
def test_a_pause_is_within_its_bounds_or_there_is_none(
    policy: RetryPolicy, attempt: int, jitter: float
) -> None:
    delay_s = retry_delay_s(policy, attempt, jitter)

    if attempt > policy.retries:
        assert delay_s is None
    else:
        assert delay_s is not None
        assert 0 <= delay_s <= policy.backoff_s_max


@given(policies, st.integers(1, 50), jitters)
def test_a_later_attempt_never_waits_less(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    first = retry_delay_s(policy, attempt, jitter)
    second = retry_delay_s(policy, attempt + 1, jitter)

    if second is not None:
        assert first is not None
        assert first <= second


@given(policies, jitters)
def test_a_final_error_is_not_tried_again(policy: RetryPolicy, jitter: float) -> None:
    assert retry_delay_s(policy, 1, jitter, is_final=True) is None


@given(st.text(), st.integers(200, 10_000))
def test_any_text_can_be_stored(text: str, chars_max: int) -> None:
    stored = storable_text(text + "\x00\ud800", chars_max)

    assert "\x00" not in stored
    stored.encode()
    assert len(stored) <= chars_max


def test_an_error_that_cannot_say_its_text_has_one_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    said = described(Mute(), "w", "s", 1_000)

    assert said.message == "(no message: RuntimeError in its __str__)"


def raised(depth: int, text: str) -> BaseException:
    """What a function that called itself so often raised."""

    def sink(left: int) -> None:
        if left:
            sink(left - 1)
        else:
            raise ValueError(text)

    try:
        sink(depth)
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 17 of 'anna'", "order 4711 of 'bert'"),
        ("no answer from 10.0.0.1:5432", "no answer from 10.0.0.27:5432"),
        ("object at 0x7f3a", "object at 0xdeadbeef"),
        ("key 01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b", "key a1990f2e-7c4b-7a10-9d3e-5b0c3c5fffff"),
        ("no mail to anna@example.org", "no mail to bert@example.com"),
        ("GET https://shop/a failed", "GET https://shop/b/c failed"),
        ('"a" is taken', '"b c" is taken'),
        ("refused\nat 12:00 by Anna", "refused\nat noon by Bert"),
        ("order a17  is gone", "order b4 is gone"),
    ],
)
def test_equal_failures_share_a_fingerprint_whatever_their_values(one: str, other: str) -> None:
    assert fingerprint("fulfil", "charge", "ValueError", one, None) == fingerprint(
        "fulfil", "charge", "ValueError", other, None
    )


def test_other_failures_have_other_fingerprints() -> None:
    parts = ("fulfil", "charge", "ValueError", "it can't be paid, it isn't ours", None)
    others = [
        ("report", *parts[1:]),
        ("fulfil", "ship", *parts[2:]),
        ("fulfil", "charge", "KeyError", *parts[3:]),
        (*parts[:3], "it can't be sent, it isn't ours", None),
        (*parts[:4], raised(0, "x").__traceback__),
    ]

    assert len({fingerprint(*each) for each in (parts, *others)}) == 6


def test_how_deep_a_function_called_itself_and_in_which_line_makes_no_other_failure() -> None:
    shallow, deep = raised(1, "x"), raised(50, "x")

    assert fingerprint("w", "s", "E", "x", shallow.__traceback__) == fingerprint(
        "w", "s", "E", "x", deep.__traceback__
    )
