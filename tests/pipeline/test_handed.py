"""A run handed over as claimed is begun by its message, once, in time, and is fenced as any."""

import asyncio
import uuid
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, journal_of, let_time_pass
from tests.support.due_runs import add_runs, change_runs, hand_over, read_runs
from tests.support.hands import TestHands
from tests.support.wait import until
from veltrix import Event, current, sleep, step, workflow
from veltrix.broker.message import HANDED, Message
from veltrix.operations.runs.action_rows import cancel
from veltrix.pipeline.execute import claim as claims
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.relay.due_rows import QueueShare, make_due, make_runs_due, scan
from veltrix.store import crashes
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.worker.jobs import ListJob

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@step(retries=0)
def note(what: Any) -> Any:
    calls.append(what)
    return what


@workflow(name="fulfil")
async def fulfil(event: Event[Any]) -> Any:
    return await note(event.data)


@workflow(name="fulfil")
async def slow(event: Event[Any]) -> str:
    first = await note("a")
    await sleep(3600)
    return f"{first}{await note('b')}"


@pytest.fixture
def ready(hands: Hands, engine: Engine) -> TestHands:
    """Hands that know what time it is, as they do after their first claim or write."""
    return knowing(hands(fulfil), engine)


def knowing(hands: TestHands, engine: Engine) -> TestHands:
    hands.execute(hands.receive(hand_over(engine)))
    calls.clear()
    return hands


def claims_of(batch: Batch) -> list[str]:
    """How each run of it came to be here."""
    executions = batch.executions.values()
    return ["claimed" if e.claim.handed_by is None else "begun" for e in executions]


def due(engine: Engine, run_id: str) -> None:
    """Its hold is over, and a relay takes it."""
    change_runs(engine, [run_id], "due_at = now() - interval '1 second'")
    with transaction(engine) as tx:
        found = scan(
            tx,
            [QueueShare("orders", 10)],
            hold_s=8.0,
            hold_s_max=300.0,
            poison_crashes_max=3,
            rescue=["orders"],
        )
    assert found is not None
    assert [run.id for run in found.runs] == [run_id]


def test_a_run_is_begun_by_its_message_and_its_row_tells_the_same_story(
    ready: TestHands, engine: Engine
) -> None:
    message = hand_over(engine, 3, data='{"n": [1.50, "\\u00e9"]}')
    assert (
        read_runs(engine, message.run_ids, "state, attempt, worker_id, lease_token is null")
        == [("queued", 0, None, False)] * 3
    )

    batch = ready.receive(message)
    assert claims_of(batch) == ["begun"] * 3
    assert set(ready.execute(batch).values()) == {"succeeded"}

    assert calls == [{"n": [1.5, "é"]}] * 3
    columns = "state, attempt, hand_overs, worker_id, delivery_id::text, lease_token"
    assert (
        read_runs(engine, message.run_ids, columns)
        == [("succeeded", 1, 0, "tests/1", message.id, None)] * 3
    )
    times = "started_at <= claimed_at and claimed_at <= settled_at as is_in_order"
    assert read_runs(engine, message.run_ids, times) == [(True,)] * 3


def test_it_sees_the_event_that_a_claim_would_have_read(hands: Hands, engine: Engine) -> None:
    seen: list[Event[Any]] = []

    @workflow(name="fulfil")
    async def look(event: Event[Any]) -> None:
        seen.append(event)

    ready = knowing(hands(look), engine)
    seen.clear()
    for data in ('{"a": 1}', "null", '"text"', "[1.0, 1e3]"):
        message = hand_over(engine, data=data)
        assert claims_of(ready.receive(message)) == ["begun"]
        ready.execute(ready.receive(message))
        change_runs(
            engine, message.run_ids, "state = 'queued', life = 0, due_at = now(), settled_at = null"
        )
        ready.run(message.run_ids)

    begun, claimed = seen[::2], seen[1::2]
    assert len(begun) == 4
    for one, other in zip(begun, claimed, strict=True):
        for field in Event.__dataclass_fields__:
            assert repr(getattr(one, field)) == repr(getattr(other, field)), field


def test_a_redelivered_message_takes_nothing_while_the_first_may_be_worked_on(
    ready: TestHands, hands: Hands, engine: Engine
) -> None:
    message = hand_over(engine)
    first = ready.receive(message)

    other = knowing(hands(fulfil), engine)
    assert other.receive(message, is_redelivered=True).executions == {}
    assert ready.execute(first) == {message.id: "succeeded"}
    assert calls == [{}]


@pytest.mark.parametrize("why", ["late", "early", "in doubt", "unsigned", "of another ledger"])
def test_in_doubt_a_run_is_claimed_by_who_was_told_its_token(
    ready: TestHands, engine: Engine, why: str
) -> None:
    within_s = {"late": -0.1, "early": 60.0}.get(why, 4.0)
    message = hand_over(engine, 2, within_s=within_s)
    change: dict[str, dict[str, Any]] = {
        "in doubt": {"until_ms": 0},
        "unsigned": {"signature": ""},
        "of another ledger": {"signature": uuid.uuid4().hex},
    }
    batch = ready.receive(changed(message, change.get(why, {})))

    assert claims_of(batch) == ["claimed"] * 2
    assert set(ready.execute(batch).values()) == {"succeeded"}
    assert read_runs(engine, message.run_ids, "attempt") == [(1,), (1,)]


def test_who_does_not_know_the_time_claims_and_knows_it_then(hands: Hands, engine: Engine) -> None:
    fresh = hands(fulfil)
    first, second = hand_over(engine), hand_over(engine)

    assert claims_of(fresh.receive(first)) == ["claimed"]
    assert claims_of(fresh.receive(second)) == ["begun"]


def test_another_connection_may_lead_to_another_clock(ready: TestHands, engine: Engine) -> None:
    ready.link.close()
    ready.link.call(lambda tx: tx.exec_driver_sql("select 1"))

    assert claims_of(ready.receive(hand_over(engine))) == ["claimed"]
    assert claims_of(ready.receive(hand_over(engine))) == ["begun"]


def changed(message: Message, changes: dict[str, Any]) -> Message:
    """The message with something else in what it carries."""
    args, kwargs, embed = msgspec.json.decode(message.body)
    embed[HANDED] |= changes
    return msgspec.structs.replace(message, body=msgspec.json.encode([args, kwargs, embed]))


@pytest.mark.parametrize(
    "change", [{"events": []}, {"events": "?"}, {"token": 7}, {"events": [["?"]]}, {"queue": None}]
)
def test_what_cannot_be_read_is_claimed_or_left_to_its_hold(
    ready: TestHands, engine: Engine, change: dict[str, Any]
) -> None:
    message = hand_over(engine)

    batch = ready.receive(changed(message, change))

    assert "begun" not in claims_of(batch)
    assert calls == []


def test_a_message_of_runs_that_are_not_in_the_ledger_begins_nothing(
    ready: TestHands, engine: Engine
) -> None:
    message = hand_over(engine)
    body = message.body.replace(message.id.encode(), str(uuid.uuid4()).encode())
    forged = msgspec.structs.replace(message, run_ids=[str(uuid.uuid4())], body=body)

    assert ready.receive(forged).executions == {}


def test_before_anything_but_its_end_is_written_the_row_says_who_runs_it(
    hands: Hands, engine: Engine
) -> None:
    seen: list[Any] = []

    @step
    async def look(run_id: str | None) -> None:
        assert run_id is not None

        def is_written() -> bool:
            return bool(journal_of(engine, run_id))

        await asyncio.to_thread(until, is_written, what="the step before to be journalled")
        columns = "state, attempt, worker_id, delivery_id::text, claimed_at is null"
        seen.extend(await asyncio.to_thread(read_runs, engine, [run_id], columns))

    @workflow(name="fulfil")
    async def two(event: Event[Any]) -> None:
        await note("a")
        if event.data:
            await look(current().run_id)

    ready = hands(two)
    ready.execute(ready.receive(hand_over(engine)))
    message = hand_over(engine, data="1")
    batch = ready.receive(message)
    assert claims_of(batch) == ["begun"]
    assert ready.execute(batch) == {message.id: "succeeded"}

    assert seen == [("running", 1, "tests/1", message.id, False)]
    assert [position for position, _, _ in journal_of(engine, message.id)] == ["1", "2"]


def test_a_run_that_waits_is_claimed_when_it_goes_on(hands: Hands, engine: Engine) -> None:
    ready = knowing(hands(slow), engine)
    message = hand_over(engine)
    assert ready.execute(ready.receive(message)) == {message.id: "waiting"}
    assert read_runs(engine, [message.id], "attempt, lease_token") == [(1, None)]

    let_time_pass(engine)
    due(engine, message.id)
    assert ready.run([message.id]) == {message.id: "succeeded"}
    assert calls == ["a", "b"], "what was done before is read"


def test_a_token_that_was_taken_away_writes_nothing_and_was_an_attempt(
    ready: TestHands, engine: Engine
) -> None:
    message = hand_over(engine)
    late = ready.receive(message)
    due(engine, message.id)
    assert read_runs(engine, [message.id], "attempt, lease_token, hand_overs") == [(1, None, 2)]

    assert ready.execute(late) == {message.id: "lost"}
    assert read_runs(engine, [message.id], "state") == [("queued",)]
    assert journal_of(engine, message.id) == []
    assert ready.run([message.id]) == {message.id: "succeeded"}
    assert read_runs(engine, [message.id], "attempt") == [(2,)]


def test_of_a_list_one_run_may_be_lost_and_the_others_are_written(
    ready: TestHands, engine: Engine
) -> None:
    message = hand_over(engine, 3)
    batch = ready.receive(message)
    due(engine, message.run_ids[1])

    outcomes = ready.execute(batch)

    assert [outcomes[id_] for id_ in message.run_ids] == ["succeeded", "lost", "succeeded"]
    steps = f"(select count(*) from {JOURNAL_OF} j where run_id = id) as steps"
    states = read_runs(engine, message.run_ids, f"state, {steps}")
    assert states == [("succeeded", 1), ("queued", 0), ("succeeded", 1)]


def test_a_dead_child_leaves_an_attempt_and_the_evidence_of_its_end(
    ready: TestHands, engine: Engine
) -> None:
    message = hand_over(engine, 2)
    batch = ready.receive(message)
    crash = crashes.Crash(run_id=message.id, message="it went", worker_id="w/7")
    with transaction(engine) as tx:
        assert crashes.note(tx, batch.tokens, crash, 0.0) == 1
        assert crashes.note(tx, batch.tokens, crash, 0.0) == 0, "a child ends once"
        assert len(lease_rows.release(tx, batch.tokens, message.run_ids, 8.0)) == 2

    columns = "state, attempt, alone, crashes, lease_token"
    assert read_runs(engine, message.run_ids, columns) == [("queued", 1, True, 0, None)] * 2
    again = ready.claim([message.id])
    (execution,) = again.executions.values()
    assert execution.claim.attempt == 2
    assert [one.crashes for one in execution.failures.values()] == [1], "its past was read"


def test_what_was_begun_by_nobody_is_handed_back_as_if_it_had_never_been_handed_over(
    ready: TestHands, engine: Engine
) -> None:
    message = hand_over(engine)
    with open_autocommit(engine) as tx:
        token = read_runs(engine, [message.id], "lease_token::text")[0][0]
        assert lease_rows.hand_back(tx, token, [message.id]) == {message.id}
        assert lease_rows.hand_back(tx, token, [message.id]) == set()

    columns = "state, attempt, hand_overs, lease_token, due_at <= now() as is_due"
    assert read_runs(engine, [message.id], columns) == [("queued", 0, 0, None, True)]


def test_a_cancel_is_a_request_for_who_may_have_it(ready: TestHands, engine: Engine) -> None:
    message, left = hand_over(engine), hand_over(engine)
    batch = ready.receive(message)
    with transaction(engine) as tx:
        moved = cancel(tx, sorted([message.id, left.id]), reason="why", author="me")
    assert [run.state for run in moved] == ["queued", "queued"]

    assert ready.execute(batch) == {message.id: "succeeded"}, "it had begun"
    assert read_runs(engine, [left.id], "state") == [("queued",)]


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_message_that_nobody_has_is_due_and_one_that_somebody_may_have_is_not(
    engine: Engine, is_refused: bool
) -> None:
    (plain,), message = add_runs(engine, 1, is_hinted=True), hand_over(engine)
    ids = [plain, message.id]
    with transaction(engine) as tx:
        make_runs_due(tx, ids, is_refused=is_refused)

    found = read_runs(engine, ids, "due_at <= now(), lease_token is null, attempt")
    assert found == [(True, True, 0), (True, True, 1) if is_refused else (False, False, 0)]


def test_a_queue_that_lost_its_messages_leaves_what_a_worker_may_have(engine: Engine) -> None:
    (plain,), message = add_runs(engine, 1, is_hinted=True), hand_over(engine)
    with transaction(engine) as tx:
        assert make_due(tx, "orders") == 1

    found = read_runs(engine, [plain, message.id], "due_at <= now()")
    assert found == [(True,), (False,)]


def raw_of(message: Message) -> bytes:
    """What the message carries."""
    body = msgspec.json.decode(message.body, type=tuple[Any, Any, dict[str, msgspec.Raw]])
    return bytes(body[2][HANDED])


def list_of(*messages: Message) -> ListJob:
    """A list of all runs of these messages."""
    pairs = [(run_id, message.id) for message in messages for run_id in message.run_ids]
    handed = {message.id: raw_of(message) for message in messages}
    return ListJob(str(uuid.uuid4()), pairs, handed=handed)


def with_plain(engine: Engine, job: ListJob) -> tuple[ListJob, str]:
    """The list with a run before them that has to be claimed."""
    (plain,) = add_runs(engine, 1, is_hinted=True)
    pairs = [(plain, plain), *job.deliveries]
    return msgspec.structs.replace(job, deliveries=pairs), plain


def test_what_may_be_begun_is_looked_at_again_after_a_claim_that_took_long(
    ready: TestHands, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = hand_over(engine)
    job, plain = with_plain(engine, list_of(message))
    in_time, moved = iter([True, False]), iter([message.id])

    def take_away() -> None:
        for run_id in moved:
            due(engine, run_id)

    monkeypatch.setattr(ready.handing, "_is_in_time", lambda _handed: next(in_time))
    ready.on_claim = take_away

    batch = ready.take(job)

    # The relay took its token, so it was claimed as anybody may: with what was done before.
    assert claims_of(batch) == ["claimed"] * 2
    assert batch.executions[message.id].claim.attempt == 2
    assert plain in batch.executions


def test_a_list_that_is_tried_again_begins_nothing_that_it_had_done(
    ready: TestHands, engine: Engine
) -> None:
    done, left, said = hand_over(engine), hand_over(engine), hand_over(engine)
    ready.execute(ready.take(list_of(done)))
    said_token = read_runs(engine, [said.id], "lease_token::text")[0][0]
    with transaction(engine) as tx:
        lease_rows.announce(tx, said_token, "tests/1", [(said.id, said.id, 0.0)], 8.0)
    calls.clear()

    job = list_of(done, left, said)
    batch = ready.take(msgspec.structs.replace(job, plain=job.run_ids, is_again=True))

    assert sorted(batch.executions) == sorted([left.id, said.id])
    assert set(ready.execute(batch).values()) == {"succeeded"}
    assert len(calls) == 2


@pytest.mark.parametrize("token", ["x", "", "0" * 34, "0192f0c1-1111-7111-8111-00000000000"])
def test_a_token_that_is_no_id_stops_nobody(ready: TestHands, engine: Engine, token: str) -> None:
    good, bad = hand_over(engine), changed(hand_over(engine), {"token": token})

    assert ready.execute(ready.take(list_of(good, bad))) == {good.id: "succeeded"}


def test_a_run_that_was_told_to_end_and_that_nobody_had_is_cancelled_when_it_is_due(
    engine: Engine,
) -> None:
    message = hand_over(engine)
    with transaction(engine) as tx:
        cancel(tx, [message.id], reason="why", author="me")
    change_runs(engine, [message.id], "due_at = now() - interval '1 second'")
    limits = {"hold_s": 8.0, "hold_s_max": 300.0, "poison_crashes_max": 3}
    with transaction(engine) as tx:
        found = scan(tx, [QueueShare("orders", 10)], rescue=[], **limits)  # type: ignore[arg-type]
        counted = tx.exec_driver_sql("select sum(cancelled) from counter_deltas").scalar_one()

    assert found is not None
    assert (found.runs, counted) == ([], 1)
    columns = "state, reason, due_at, lease_token"
    assert read_runs(engine, [message.id], columns) == [("cancelled", "requested", None, None)]


def test_what_has_its_outcome_is_not_executed_anew_though_its_answer_was_lost(
    ready: TestHands, engine: Engine
) -> None:
    ended, going_on = hand_over(engine), hand_over(engine)
    batch = ready.take(list_of(ended, going_on))
    old = [batch.executions[one.id] for one in (ended, going_on)]
    change_runs(
        engine,
        [ended.id],
        "state = 'succeeded', due_at = null, lease_token = null, settled_at = now(), steps = '[]'",
    )

    fresh = claims.anew(ready.link, old, ready.workflows, ready.limits)

    assert [one.claim.run_id for one in fresh] == [going_on.id]
    assert all(one.is_over for one in old)
