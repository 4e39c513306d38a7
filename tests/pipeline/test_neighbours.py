"""An author cannot harm a neighbour: contexts, keys, threads, event loops and odd exceptions."""

import asyncio
import contextvars
import inspect
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from tests.pipeline.conftest import Hands, let_time_pass
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import Event, gather, idempotency_key, sleep, step, workflow
from veltrix.authoring import flow
from veltrix.authoring.flow import OutsideRun
from veltrix.store.transactions import transaction

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
keys: list[str] = []
left: list[Any] = []  # that steps leave running


@pytest.fixture(autouse=True)
def _no_keys() -> None:
    keys.clear()


# ---- context variables


@step(retries=0)
def who() -> str:
    seen = tenant.get()
    tenant.set("a step's own")
    return seen


@step(retries=0)
async def who_async() -> str:
    seen = tenant.get()
    tenant.set("an async step's own")
    return seen


async def who_in_branch(name: str) -> list[str]:
    mine = tenant.get()
    tenant.set(name)
    return [mine, await who(), await who_async()]


@workflow(name="fulfil")
async def ask_all(event: Event[Any]) -> list[Any]:
    if event.data is not None:
        tenant.set(event.data)
    seen: list[Any] = [await who(), await who_async(), tenant.get()]
    seen += await gather(who_in_branch("left"), who_in_branch("right"))
    return [*seen, tenant.get()]


def test_a_run_sees_the_context_of_no_other(engine: Engine, hands: Hands) -> None:
    datas = ['"one"', '"two"', "null", '"three"']
    ids = [add_runs(engine, 1, data=data)[0] for data in datas]

    hands(ask_all).run(ids)

    for row, data in zip(read_runs(engine, ids, "outcome"), datas, strict=True):
        own = "nobody" if data == "null" else data.strip('"')
        branches = [[own, name, name] for name in ("left", "right")]
        assert row.outcome == [own, own, own, *branches, own]
    assert tenant.get() == "nobody"


def test_threads_of_a_step_see_its_context(engine: Engine, hands: Hands) -> None:
    pool = ThreadPoolExecutor(1)

    @step(retries=0)
    def ask() -> list[str]:
        seen = [pool.submit(tenant.get).result()]
        thread = threading.Thread(target=lambda: seen.append(tenant.get()))
        thread.start()
        thread.join()
        return seen

    @workflow(name="fulfil")
    async def in_threads(event: Event[Any]) -> list[str]:
        tenant.set(event.data)
        return await ask()

    ids = [add_runs(engine, 1, data=f'"{name}"')[0] for name in "ab"]
    hands(in_threads).run(ids)
    pool.shutdown()

    outcomes = [row.outcome for row in read_runs(engine, ids, "outcome")]
    assert outcomes == [["a", "a"], ["b", "b"]]


# ---- keys


def test_a_key_is_the_same_in_every_attempt_and_thread(engine: Engine, hands: Hands) -> None:
    pool = ThreadPoolExecutor(1)

    @step(retries=1, backoff_s=0.001)
    async def charge() -> None:
        loop = asyncio.get_running_loop()
        keys.append(idempotency_key())
        keys.append(pool.submit(idempotency_key).result())
        keys.append(await loop.run_in_executor(pool, idempotency_key))
        keys.append(await asyncio.to_thread(idempotency_key))
        thread = threading.Thread(target=lambda: keys.append(idempotency_key()))
        thread.start()
        thread.join()
        if len(keys) == 5:
            raise ConnectionError("the answer was lost")

    @workflow(name="fulfil")
    async def pay(event: Event[Any]) -> None:
        await charge()

    (run_id,) = add_runs(engine, 1)
    child = hands(pay)
    child.run([run_id])
    let_time_pass(engine)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")

    assert child.run([run_id]) == {run_id: "succeeded"}
    pool.shutdown()
    assert len(keys) == 10
    assert len(set(keys)) == 1


def test_a_key_of_the_workflow_is_the_same_when_its_code_runs_again(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def pay(event: Event[Any]) -> None:
        keys.extend([idempotency_key(), idempotency_key()])
        await sleep(60)

    ids = add_runs(engine, 2)
    child = hands(pay)
    child.run(ids)
    first = list(keys)
    keys.clear()
    let_time_pass(engine)
    change_runs(engine, ids, "state = 'queued', due_at = now()")
    child.run(ids)

    assert sorted(first) == sorted(keys)
    assert len(set(first)) == 4


def test_a_key_is_nobodys_when_its_attempt_has_ended(engine: Engine, hands: Hands) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def late() -> None:
        go_on.wait(10)
        try:
            keys.append(idempotency_key())
        except RuntimeError as error:
            keys.append(str(error)[:40])
        ended.set()

    @step(retries=0)
    def leave() -> None:
        threading.Thread(target=late).start()

    @step(retries=0)
    def next_one() -> None:
        go_on.set()
        ended.wait(10)

    @workflow(name="fulfil")
    async def pay(event: Event[Any]) -> None:
        await leave()
        await next_one()

    hands(pay).run(add_runs(engine, 1))

    assert keys == ["idempotency_key() was asked for where no"]


def test_in_a_worker_nothing_but_the_engine_starts_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow._Process, "is_worker", True)

    for awaited in (who(), sleep(0), gather(sleep(0))):
        with pytest.raises(OutsideRun, match="outside of its run"):
            asyncio.run(flow.coroutine_of(awaited))
    with pytest.raises(RuntimeError, match="where no step runs"):
        idempotency_key()


# ---- event loops


def _leave(how: str) -> None:
    loop = asyncio.get_running_loop()
    if how == "exits":
        loop.call_later(0.01, sys.exit)
    elif how == "task exits":
        left.append(loop.create_task(_exit()))
    elif how == "stops":
        loop.call_later(0.01, loop.stop)
    elif how == "closes":
        loop.call_later(0.01, lambda: threading.Thread(target=_close, args=[loop]).start())


async def _exit() -> None:
    await asyncio.sleep(0.01)
    sys.exit(3)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)
    end = threading.Event()
    for _ in range(1_000):
        if not loop.is_running():
            try:
                loop.close()
            except RuntimeError:
                end.wait(0.001)
            else:
                return
        end.wait(0.001)


@step(retries=0)
async def leaves(how: str) -> str:
    _leave(how)
    return how


@step(retries=1, backoff_s=0.001)
async def innocent(number: int) -> int:
    await asyncio.sleep(0.1)
    return number


@workflow(name="fulfil")
async def beside(event: Event[Any]) -> list[Any]:
    return await gather(leaves(event.data), innocent(1), innocent(2))


@pytest.mark.parametrize("how", ["exits", "task exits", "stops", "closes"])
def test_a_loop_that_a_step_ends_goes_on_for_the_others(
    engine: Engine, hands: Hands, how: str
) -> None:
    child = hands(beside, step_timeout_s=2.0)
    (run_id,) = add_runs(engine, 1, data=f'"{how}"')
    outcome = child.run([run_id])[run_id]
    if outcome == "waiting":  # its loop was closed: those attempts have failed, and are counted
        let_time_pass(engine)
        change_runs(engine, [run_id], "state = 'queued', due_at = now()")
        outcome = child.run([run_id])[run_id]
    later = add_runs(engine, 3, data='"stays"')

    assert outcome == "succeeded"
    assert set(child.run(later).values()) == {"succeeded"}


# ---- exceptions that misbehave


class Proxy(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NoClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")


class NoName(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=NoName):
    pass


@pytest.mark.parametrize(
    "kind", [Proxy, Exits, NoClass, Nameless], ids=lambda kind: kind.__qualname__
)
@pytest.mark.parametrize("where", ["def", "async def", "workflow"])
def test_an_exception_is_described_whatever_its_class_does(
    engine: Engine, hands: Hands, kind: type[Exception], where: str
) -> None:
    @step(retries=0)
    def refuse() -> None:
        raise kind("no")

    @step(retries=0)
    async def refuse_async() -> None:
        raise kind("no")

    @workflow(name="fulfil", retries=0)
    async def odd(event: Event[Any]) -> None:
        if where == "workflow":
            raise kind("no")
        await (refuse() if where == "def" else refuse_async())

    (run_id,) = add_runs(engine, 1)

    assert hands(odd).run([run_id]) == {run_id: "failed"}
    assert read_runs(engine, [run_id], "reason")[0].reason == "error"
    with transaction(engine) as tx:
        (failed,) = tx.execute(text("select type, message, traceback from failed_attempts"))
    assert failed.type == (kind.__qualname__ if kind is not Nameless else "Exception")
    assert "refuse" in failed.traceback or where == "workflow"


# ---- what a workflow may not await


async def _sleeps() -> None:
    await asyncio.sleep(0.1)


async def _waits() -> None:
    await asyncio.Event().wait()


async def _groups() -> None:
    async with asyncio.TaskGroup():
        pass


async def _yields() -> None:
    await asyncio.sleep(0)


async def _limits() -> None:
    async with asyncio.timeout(1):
        await who()


async def _gathers() -> None:
    await asyncio.gather(who(), who())


async def _waits_for() -> None:
    await asyncio.wait_for(who(), 1)


async def _makes_tasks() -> None:
    await asyncio.create_task(who_in_branch("task"))


async def _calls_out() -> None:
    async with httpx.AsyncClient() as client:
        await client.get("http://127.0.0.1:9/")


@pytest.mark.parametrize(
    ("foreign", "name", "cure"),
    [
        (_sleeps, "asyncio.sleep", "use sleep() of Veltrix"),
        (_waits, "asyncio.Event.wait", "move it into a @step"),
        (_groups, "asyncio.TaskGroup.__aenter__", "use gather() of Veltrix"),
        (_yields, "asyncio.sleep", "use sleep() of Veltrix"),
        (_limits, "asyncio.timeout", "give the step, or the workflow, a timeout_s"),
        (_gathers, "asyncio.gather", "use gather() of Veltrix"),
        (_waits_for, "asyncio.wait_for", "give the step, or the workflow, a timeout_s"),
        (_makes_tasks, "asyncio.create_task", "use gather() of Veltrix"),
        (_calls_out, "httpx.AsyncClient.get", "move it into a @step"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
@pytest.mark.filterwarnings("ignore:coroutine 'who_in_branch' was never awaited")
def test_what_a_workflow_may_not_await_is_named_at_once(
    engine: Engine, hands: Hands, foreign: Any, name: str, cure: str
) -> None:
    @workflow(name="fulfil")
    async def awaits(event: Event[Any]) -> None:
        await foreign()

    (run_id,) = add_runs(engine, 1)

    assert hands(awaits).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert row.outcome["type"] == "ForeignAwait"
    start = f"{name} was awaited in workflow 'fulfil', test_neighbours.py:"
    assert row.outcome["message"].startswith(start), row.outcome["message"]
    assert row.outcome["message"].endswith(f"; {cure}")
    line = int(row.outcome["message"].removeprefix(start).partition(":")[0])
    last_line = inspect.getsource(foreign).splitlines()[-1]
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert source[line - 1] == last_line or name.split(".")[1] in source[line - 1]


def test_an_exception_that_a_branch_returns_is_its_value(engine: Engine, hands: Hands) -> None:
    async def returns() -> Exception:
        return ValueError("a value")

    @workflow(name="fulfil")
    async def gathers(event: Event[Any]) -> list[str]:
        return [repr(one) for one in await gather(returns(), who())]

    (run_id,) = add_runs(engine, 1)

    assert hands(gathers).run([run_id]) == {run_id: "succeeded"}
    assert read_runs(engine, [run_id], "outcome")[0].outcome == [
        "ValueError('a value')",
        "'nobody'",
    ]
    assert isinstance(asyncio.run(flow.coroutine_of(gather(returns())))[0], ValueError)
