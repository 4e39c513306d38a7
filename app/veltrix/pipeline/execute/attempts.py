"""What follows an execution of a transactional step: every one is an attempt, counted and kept.

Whatever became of its connection or its commit, the function has run. What was the step's own doing
stops at its policy. What was not gets more attempts than that, so that an outage fails nobody, but
so many that it ends: a query that takes the server down would do so for ever.
"""

from veltrix.pipeline.execute.coroutines.execution import PendingStep
from veltrix.pipeline.execute.coroutines.retry import retry_delay_s
from veltrix.store.errors import Answer, answer_of, sqlstate_of

# Attempts beyond the policy, by what ended them.
RACE_EXTRA = 10  # it lost a race for a lock, or a deadlock
OURS_EXTRA = 10  # what we write with it could not be written
AWAY_EXTRA = 10  # the server said that it goes away, and is away
LOST_AWAY_EXTRA = 3  # nobody said anything, and the server is away: perhaps of this step
LOST_EXTRA = 1  # the connection ended, and the server is there: probably of this step
_PAUSE_S_MAX = 30.0
# The session was ended for what the step did: it held its transaction open for too long.
_OWN_DOING = {"25P03", "25P04"}


def extra_of(error: BaseException, *, is_ours: bool, is_there: bool) -> int:
    """How many attempts an error of the database is worth beyond the policy.

    `is_ours`: a statement of ours met it, after the step had ended. `is_there`: the server can be
    reached now.
    """
    answer, state = answer_of(error), sqlstate_of(error)
    if is_ours:
        return OURS_EXTRA
    if answer is Answer.AGAIN:
        return RACE_EXTRA
    if answer is not Answer.CANNOT_SERVE or state in _OWN_DOING:
        return 0
    if is_there:
        return LOST_EXTRA
    return LOST_AWAY_EXTRA if state is None else AWAY_EXTRA


def next_attempt_s(step: PendingStep, error: BaseException, extra: int) -> float | None:
    """Seconds until the attempt after this one, by its policy and beyond it; None: none follows.

    The first one beyond, and any after a lost race, follows at once.
    """
    policy = step.call.step.policy
    if policy.is_final(error):
        return None
    beyond = step.tries - policy.retries
    if extra == RACE_EXTRA and answer_of(error) is Answer.AGAIN and beyond <= extra:
        return 0.0
    delay_s = retry_delay_s(policy, step.tries, step.execution.limits.jitter())
    if delay_s is not None or beyond > extra:
        return delay_s
    return 0.0 if beyond == 1 else min(_PAUSE_S_MAX, 2.0 ** (beyond - 2))
