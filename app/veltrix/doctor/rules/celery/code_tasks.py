"""Code of tasks that stalls its worker, or loses what comes next."""

import ast
import re
from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_place
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.facts.code import CallPlace, CodePlace
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.doctor.rules.celery.acknowledging import is_late

rules = Rules("code of tasks")
_CANVAS = "https://docs.celeryq.dev/en/stable/userguide/canvas.html"
_ENGINES = ("create_engine", "create_async_engine")
# Of a result, not of an order in somebody's shop.
_STATE = re.compile(r"(result|AsyncResult\(.*\))\.(state|status)$", re.IGNORECASE)
_MARK = re.compile(
    r"\bfrom\s+\S*(outbox|events?|messages?)\S*\s.*\bwhere\b.*\bid\s*>\s*[:%$]",
    re.IGNORECASE | re.DOTALL,
)


@rules.rule(
    "W07",
    Severity.LOSS,
    CeleryApp,
    title="a retry is swallowed",
    why="retry() works by raising: what catches Exception around it ends the task as a success.",
    safe="except OSError as error:\n    raise self.retry(exc=error)",
    source="https://docs.celeryq.dev/en/stable/userguide/tasks.html#retrying",
)
def retry_swallowed(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.retries:
        parent = call.parents[-1]
        throw = call.keyword("throw")
        is_quiet = isinstance(throw, ast.Constant) and throw.value is False
        is_told = isinstance(parent, ast.Raise | ast.Return)
        if (is_quiet and not is_told) or _is_caught(call):
            told = "retry(throw=False)" if is_quiet else "retry() inside `except Exception`"
            yield of_place(call, told, "raise self.retry(exc=error)  # outside of the try")


@rules.rule(
    "W23",
    Severity.SLOW,
    CeleryApp,
    title="a task sleeps",
    why="It holds a child, and the messages that wait behind it, while it does nothing.",
    safe="raise self.retry(countdown=60)  # on a queue that delays in RabbitMQ",
    source="docs/internals/loss-modes.md, W21 and W23",
)
def sleeps(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.named("sleep"):
        if call.task is not None and call.on in {"", "time", "asyncio", "gevent"}:
            yield of_place(call, f"sleep() in task {call.task.name}", "a row that is due later")


@rules.rule(
    "D01",
    Severity.LOSS,
    CeleryApp,
    title="the next step is published after the work",
    why="When publishing the next step fails, the task is a failure although its work is done.",
    safe="write a row for the next step in the transaction of this one",
    source="docs/internals/loss-modes.md, D01: celery/app/trace.py",
)
def chains(app: CeleryApp) -> Iterator[Evidence]:
    for place in _chains(app):
        cure = "a row for the next step in the transaction of this one, sent by a relay"
        yield of_place(place, "a chain or a link", cure)


@rules.rule(
    "D02",
    Severity.DUPLICATE,
    CeleryApp,
    title="a step that runs again sends its chain again",
    why="A crash between sending the next step and the ack repeats both.",
    safe="a unique key of event and step, in the transaction of the step",
    source="docs/internals/loss-modes.md, D02: celery/app/trace.py",
)
def chains_repeat(app: CeleryApp) -> Iterator[Evidence]:
    first = next(iter(_chains(app)), None)
    if first is not None and is_late(app):
        cure = "a unique key of event and step, inserted in the transaction of the step"
        yield of_place(first, "chains, and tasks with acks_late", cure)


@rules.rule(
    "D04",
    Severity.STALL,
    CeleryApp,
    title="a chord that may never run its body",
    why="A member that is lost, revoked or expired leaves the others waiting, without a word.",
    safe="count what is done in a table: UPDATE ... SET open = open - 1 RETURNING open",
    source="https://github.com/celery/celery/issues/4207",
)
def chords(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.canvas("chord"):
        yield of_place(call, "chord(...)", "count what is done in a table of your own")


@rules.rule(
    "D05",
    Severity.STALL,
    CeleryApp,
    title="a task waits for another task",
    why="All children may wait for tasks that no child is free to run.",
    safe="(first.s() | second.s()).delay()",
    source="https://docs.celeryq.dev/en/stable/userguide/tasks.html"
    "#avoid-launching-synchronous-subtasks",
)
def waits_for_task(app: CeleryApp) -> Iterator[Evidence]:
    sent = {id(one.call) for one in app.code.publishes}
    for call in app.code.named("get", "join", "wait"):
        if call.task is None or not isinstance(call.call.func, ast.Attribute):
            continue
        on = call.call.func.value
        is_sent = id(on) in sent or call.on.startswith("AsyncResult(")
        if is_sent or (isinstance(on, ast.Name) and on.id in _results(call.task, sent)):
            told = f"{call.name}() in task {call.task.name}"
            yield of_place(call, told, "go on with a callback, or by a row in your database")


@rules.rule(
    "D06",
    Severity.STALL,
    CeleryApp,
    title="children share connections of the database",
    why="An engine used before the fork has its sockets in every child: answers are mixed.",
    safe="@worker_process_init.connect\ndef forked(**_):\n    engine.dispose(close=False)",
    source="https://docs.sqlalchemy.org/en/20/core/pooling.html"
    "#using-connection-pools-with-multiprocessing-or-os-fork",
)
def engines_before_fork(app: CeleryApp) -> Iterator[Evidence]:
    if app.code.has_name("worker_process_init") or not app.code.tasks:
        return
    for call in app.code.named(*_ENGINES):
        if call.function is None and not _is_unpooled(call):
            cure = "@worker_process_init.connect\ndef forked(**_):\n    engine.dispose(close=False)"
            yield of_place(call, f"{call.name}() where the module is imported", cure)


@rules.rule(
    "D07",
    Severity.STALL,
    CeleryApp,
    title="connections of the database that went stale",
    why="A connection that a firewall or a restart cut fails the next task, or hangs it.",
    safe="create_engine(url, pool_pre_ping=True)",
    source="https://docs.sqlalchemy.org/en/20/core/pooling.html#pool-disconnects-pessimistic",
)
def stale_connections(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.named(*_ENGINES):
        has_more = any(one.arg is None for one in call.call.keywords)  # **options
        if not (call.keyword("pool_pre_ping") or has_more or _is_unpooled(call)):
            told = f"{call.name}() without pool_pre_ping"
            yield of_place(call, told, "pool_pre_ping=True, pool_recycle=3600")


@rules.rule(
    "D09",
    Severity.LOSS,
    CeleryApp,
    title="an outbox read by its highest id",
    why="Ids are committed out of order: a row that commits late is under the mark, and skipped.",
    safe="SELECT ... WHERE state = 'ready' ORDER BY id FOR UPDATE SKIP LOCKED",
    source="https://event-driven.io/en/ordering_in_postgres_outbox/",
)
def high_water_mark(app: CeleryApp) -> Iterator[Evidence]:
    for place in app.code.places:
        text = getattr(place.node, "value", None)
        if isinstance(place.node, ast.Constant) and isinstance(text, str) and _MARK.search(text):
            cure = "WHERE state = 'ready' ORDER BY id FOR UPDATE SKIP LOCKED"
            yield of_place(place, "WHERE id > the last one seen", cure)


@rules.rule(
    "D13",
    Severity.BLIND,
    CeleryApp,
    title="PENDING is taken for waiting",
    why="It also means unknown: a lost task is PENDING for ever.",
    safe="a row for each task before it is sent, with a state and a time",
    source="https://docs.celeryq.dev/en/stable/userguide/tasks.html#pending",
)
def trusts_pending(app: CeleryApp) -> Iterator[Evidence]:
    for place in app.code.places:
        if not isinstance(place.node, ast.Compare):
            continue
        sides = [place.node.left, *place.node.comparators]
        told = [ast.unparse(one) for one in sides]
        is_state = any(_STATE.search(one) for one in told)
        if is_state and any(one in {"'PENDING'", "states.PENDING", "PENDING"} for one in told):
            cure = "a row for each task before it is sent"
            yield of_place(place, "a state is compared with PENDING", cure)


def _chains(app: CeleryApp) -> Iterator[CodePlace]:
    """Chains, callbacks, and signatures that are joined by `|`."""
    yield from app.code.canvas("chain")
    for call in app.code.publishes:
        if call.keyword("link") is not None:
            yield call
    for place in app.code.places:
        node = place.node
        is_joined = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
        is_inner = bool(place.parents) and isinstance(place.parents[-1], ast.BinOp)
        if is_joined and not is_inner and re.search(r"\.(s|si)\(", ast.unparse(node)):
            yield place


def _is_caught(call: CallPlace) -> bool:
    """A try around it, in the same function, catches Exception, and so what retry raises."""
    inner: ast.AST = call.node
    for parent in reversed(call.parents):
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return False
        if isinstance(parent, ast.Try) and inner in parent.body:
            names = [ast.unparse(one.type) if one.type else "" for one in parent.handlers]
            is_let_out = any(one.endswith("Retry") for one in names)
            return bool({"", "Exception", "BaseException"} & set(names)) and not is_let_out
        inner = parent
    return False


def _results(task: ast.FunctionDef | ast.AsyncFunctionDef, sent: set[int]) -> set[str]:
    """Names in it that hold the result of a publish."""
    return {
        target.id
        for one in ast.walk(task)
        if isinstance(one, ast.Assign) and (id(one.value) in sent or "AsyncResult(" in _on(one))
        for target in one.targets
        if isinstance(target, ast.Name)
    }


def _on(assigned: ast.Assign) -> str:
    value = assigned.value
    return ast.unparse(value) if isinstance(value, ast.Call) else ""


def _is_unpooled(call: CallPlace) -> bool:
    pool = call.keyword("poolclass")
    return pool is not None and "NullPool" in ast.unparse(pool)
