"""Decide: pauses grow and are bounded, final errors are final, texts can always be stored."""

from hypothesis import given
from hypothesis import strategies as st

from app.domain.decide import fingerprint, message_of, retry_delay_s, storable_text
from app.domain.workflows import RetryPolicy

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

    assert message_of(Mute(), 1_000) == "(no message: RuntimeError in its __str__)"


def test_equal_failures_share_a_fingerprint_whatever_their_numbers() -> None:
    def of(message: str) -> str:
        return fingerprint("charge", "ValueError", message, None)

    assert of("order 17 of 'anna'") == of("order 4711 of 'bert'")
    assert of("order 17") != of("invoice 17")
    assert fingerprint("ship", "ValueError", "x", None) != fingerprint(
        "charge", "ValueError", "x", None
    )
