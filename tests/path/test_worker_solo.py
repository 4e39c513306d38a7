"""A debugger in a step has the terminal of `veltrix worker --solo`, for as long as it wants."""

import signal
from collections import Counter

from tests.path.seen import Start
from tests.support.pseudo_terminal import on_terminal
from tests.support.wait import until


def test_a_step_stands_still_in_the_debugger_longer_than_its_limit(scene: Start) -> None:
    seen = scene(workers=0, hold_s=1)
    (run_id,) = seen.add([], workflow="debugged")
    env = {**seen.platform.env, "VELTRIX_WORKFLOWS": "tests.path.solo_flows"}
    with on_terminal(["worker", "--solo"], **env) as solo:
        until(lambda: "(Pdb)" in solo.shown, 30.0, "the debugger")
        # Longer than the step's limit, and than the lease of its run.
        solo.type("__import__('threading').Event().wait(2.5)\n")
        until(lambda: "False" in solo.shown, what="what was typed")
        solo.type("!number = 42\n")
        solo.type("continue\n")

        assert seen.wait_settled([run_id]) == Counter(succeeded=1)
        assert seen.rows([run_id], "outcome::text, attempt, crashes") == [("42", 1, 0)]
        (foreign,) = seen.add([], workflow="nobody_has_this")
        (letter,) = until(
            lambda: (
                seen.ask("select reason from dead_letters")
                or seen.ask(
                    "select state from runs where id = any(%s::uuid[]) and attempt > 0", [foreign]
                )
            ),
            what="what becomes of a run whose workflow is not here",
        )
        assert letter

        solo.process.send_signal(signal.SIGINT)
        assert solo.code() == 0
    assert seen.failed_attempts([run_id]) == []
