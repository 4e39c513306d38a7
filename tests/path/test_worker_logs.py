"""Logs of steps are lines like ours, and a worker whose log nobody reads loses its log only."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.path.seen import Scene, Start
from veltrix.dev.platform import command


@contextmanager
def unheard_worker(seen: Scene) -> Iterator[None]:
    """`veltrix worker | head -1`: the reader has ended."""
    own = {"VELTRIX_WORKER_PORT": "0", "VELTRIX_WORKER_NAME": "unheard@localhost"}
    worker = subprocess.Popen(
        command("worker"),
        env={**os.environ, **seen.platform.env, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdout.close()
        seen.wait_registered()
        yield
    finally:
        worker.terminate()
        assert worker.wait(20) == 0, "nothing of its end hangs on its log"


def test_limits_and_leases_are_kept_when_nobody_reads_the_log(scene: Start) -> None:
    seen = scene(workers=0, children=1, hold_s=1, env={"VELTRIX_STEP_OVERRUN_S": "0.5"})
    with unheard_worker(seen):
        stubborn = seen.add([["stubborn"]])
        assert seen.wait_settled(stubborn) == Counter(failed=1)
        assert seen.rows(stubborn, "reason, failed_step") == [("timeout", "stubborn")]

        talking = seen.add([["log", "one"], ["pause", 3.3], ["log", "two"]])
        assert seen.wait_settled(talking) == Counter(succeeded=1)
        assert seen.began_once(2, talking), "its lease was renewed"


def test_what_steps_log_says_its_run_and_step(scene: Start) -> None:
    seen = scene(workers=1, children=1)
    run_ids = seen.add([["log", "one"], ["log", "two"]])
    assert seen.wait_settled(run_ids) == Counter(succeeded=1)
    ((event_id, attempt),) = seen.rows(run_ids, "event_id::text, 1")

    lines = [json.loads(line) for line in seen.log_lines('"logger": "shop"')]
    for line in lines:
        del line["timestamp"]
    assert lines == [
        {
            "logger": "shop",
            "run_id": run_ids[0],
            "event_id": event_id,
            "workflow": "act",
            "step": "log",
            "position": position,
            "attempt": attempt,
            "event": f"logged {word}",
            "order": "A-1",
            "level": "info",
        }
        for position, word in [("1", "one"), ("2", "two")]
    ]
    assert len(seen.log_lines("printed one")) == 1
    assert len(seen.log_lines("printed two")) == 1, "though the step before closed standard output"
    assert not seen.log_lines('"level": "critical"'), "it starts without an alarm"
    assert not seen.log_lines("delayed"), "and declares no queues for countdowns"
