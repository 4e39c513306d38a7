"""Execution: whenever a worker dies, the journal leads the next one to the same end."""

import asyncio
import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import executions
from veltrix import Event, StepFailed, gather, now, step, uuid, workflow
from veltrix.authoring.encoding import digest, encode
from veltrix.authoring.workflows import Workflow
from veltrix.pipeline.execute.coroutines import moves
from veltrix.pipeline.execute.coroutines.execution import Execution
from veltrix.pipeline.execute.journal_rows import JournalEntry, Past

# A program: a list of instructions; a nested list is a gather of branches.
leaves = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 5)),
    st.tuples(st.just("fail"), st.integers(0, 5)),
    st.tuples(st.just("value"), st.integers(0, 5)),
)
programs = st.recursive(
    st.lists(leaves, max_size=4),
    lambda inner: st.lists(
        st.one_of(leaves, st.tuples(st.just("gather"), st.lists(inner, min_size=1, max_size=3))),
        max_size=4,
    ),
    max_leaves=12,
)
calls: Counter[str] = Counter()


@step(retries=0)
def act(number: int) -> dict[str, int]:
    return {"number": number}


@step(retries=0)
def refuse(number: int) -> None:
    raise ValueError(f"no {number}")


async def interpret(program: list[Any]) -> list[Any]:
    found: list[Any] = []
    for kind, argument in program:
        if kind == "step":
            found.append(await act(argument))
        elif kind == "fail":
            try:
                await refuse(argument)
            except StepFailed as failed:
                found.append(f"{failed.type}: {failed.message}")
        elif kind == "value":
            found.append([now().isoformat(), str(uuid())])
        else:
            found.append(await gather(*(interpret(branch) for branch in argument)))
    return found


@workflow(name="program")
async def run_program(event: Event[Any]) -> list[Any]:
    return await interpret(event.data)


def execution_of(
    program: list[Any],
    journal: dict[str, JournalEntry],
    flow: Workflow[Any, Any] = run_program,
) -> Execution:
    claim = executions.claim_of(encode(program, 10**6))
    return executions.execution_of(claim, flow, Past(dict(journal), {}))


def live(execution: Execution, journal: dict[str, JournalEntry], chance: random.Random) -> bool:
    """Execute with writes at random; True when the run is settled, False when the worker died."""
    moves.begin(execution)
    waiting = []
    while execution.settlement is None:
        waiting += moves.runnable(execution)
        if waiting and chance.random() < 0.7:
            one = waiting.pop(chance.randrange(len(waiting)))
            calls[one.position] += 1
            try:
                value = one.call.step.function(*one.call.arguments)
            except ValueError as error:
                moves.fail_step(one, error)
            else:
                moves.finish_step(one, value, encode(value, 10**6))
        else:
            for entry in execution.unwritten:
                assert entry.position not in journal, "no entry is written twice"
                journal[entry.position] = entry
            execution.unwritten, execution.failed_attempts = [], []
        if chance.random() < 0.15:
            for one in waiting:
                one.call.is_accounted = True
            execution.close()
            return False
    journal.update((entry.position, entry) for entry in execution.unwritten)
    return True


@settings(max_examples=150, deadline=None)
@given(programs, st.integers(0, 2**32))
def test_a_run_that_crashes_anywhere_ends_as_if_it_had_not(program: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    journal: dict[str, JournalEntry] = {}
    recorded_calls: Counter[str] = Counter()
    execution = execution_of(program, journal)
    for _ in range(200):
        calls.clear()
        before = set(journal)
        execution = execution_of(program, journal)
        if live(execution, journal, chance):
            break
        assert not before & set(calls), "what the journal holds is not run again"
        recorded_calls += calls
    assert execution.settlement is not None

    again = execution_of(program, journal)
    moves.begin(again)

    assert again.settlement is not None, "the whole journal answers everything"
    assert again.settlement.outcome == execution.settlement.outcome
    assert execution.settlement.state == "succeeded"


def test_a_workflow_is_plain_code_outside_a_run() -> None:
    @workflow(name="plain")
    async def plain(event: Event[Any]) -> list[Any]:
        return await gather(act(1), act(2))

    event = Event("/s", "1", "t", None)

    async def call() -> Any:
        return await plain(event)

    assert asyncio.run(call()) == [{"number": 1}, {"number": 2}]


# ---- runs that are long, or wide

WIDE = 10_000


@workflow(name="program", retries=0)
async def many_rounds(event: Event[Any]) -> int:
    total = 0
    for number in range(1_000):
        total += sum(found["number"] for found in await gather(act(number), act(number)))
    total += len(await gather(*(act(number) for number in range(WIDE))))
    await act(1)
    return total


def rounds_of(rounds: int) -> dict[str, JournalEntry]:
    """The journal of so many of its rounds."""
    positions = [(f"{n + 1}.{branch}.1", n) for n in range(rounds) for branch in (0, 1)]
    return {
        position: JournalEntry("r", position, "step", "act", digest((n,), {}), f'{{"number":{n}}}')
        for position, n in positions
    }


def test_a_gather_of_any_width_works_after_any_number_of_them() -> None:
    execution = execution_of([], rounds_of(1_000), many_rounds)
    moves.begin(execution)
    wide = moves.runnable(execution)
    assert [step.position for step in (wide[0], wide[-1])] == ["1001.0.1", f"1001.{WIDE - 1}.1"]

    for step_ in wide:
        moves.finish_step(step_, {"number": 0}, '{"number":0}')

    (last,) = execution.pending
    assert last.position == "1002"
    assert len(execution.branches) == 1  # what has ended is not kept
    execution.close()
