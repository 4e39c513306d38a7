"""Code that publishes tasks where they are lost, or where nobody is told."""

import ast
import re
from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_place
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.facts.code import CallPlace, CodePlace, number_of
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("code that publishes")
_CALLING = "https://docs.celeryq.dev/en/stable/userguide/calling.html"
_TRANSACTION = re.compile(r"(^|\.)(atomic|begin|begin_nested|transaction)$")
_SESSION = re.compile(r"(^|\.|_)session(maker|local|_scope)?$", re.IGNORECASE)
_OTHERS = {"Exception", "BaseException", "AMQPError", "OSError", "ConnectionError", "KombuError"}
_DELAY_S_MAX = 2**28 - 1
_AFTER = (
    "transaction.on_commit(lambda: ...)  # Django: .delay_on_commit()\n"
    "else: a row in the same transaction, sent by a relay"
)


@rules.rule(
    "P05",
    Severity.LOSS,
    CeleryApp,
    title="errors of publishing that nobody catches",
    why="What RabbitMQ refuses raises amqp's own errors, which are no OperationalError.",
    safe="except (OperationalError, amqp.exceptions.AMQPError, OSError, EncodeError):",
    source=f"{_CALLING}#connection-error-handling",
)
def caught_too_narrowly(app: CeleryApp) -> Iterator[Evidence]:
    seen = set()
    for call in app.code.publishes:
        tried = next((one for one in reversed(call.parents) if isinstance(one, ast.Try)), None)
        if tried is None or not _is_in(tried.body, call):
            continue
        caught = {name for handler in tried.handlers for name in _names(handler)}
        if "OperationalError" not in caught or caught & _OTHERS or id(tried) in seen:
            continue
        seen.add(id(tried))
        handler = next(one for one in tried.handlers if "OperationalError" in _names(one))
        cure = "except (OperationalError, amqp.exceptions.AMQPError, OSError, EncodeError):"
        yield of_place(CodePlace(call.file, handler, ()), "only OperationalError is caught", cure)


@rules.rule(
    "P15",
    Severity.LOSS,
    CeleryApp,
    title="publishes or connects while it is imported",
    why="A connection made before a fork is shared by the children, which mix their frames.",
    safe="def send():\n    task.delay()  # in a function, after the fork",
    source="https://github.com/celery/celery/issues/2055",
)
def connects_at_import(app: CeleryApp) -> Iterator[Evidence]:
    connects = app.code.named("connection_for_write", "connection_for_read", "producer_or_acquire")
    for call in (*app.code.publishes, *connects):
        if call.function is None and not any(_is_main(one) for one in call.parents):
            yield of_place(call, f"{call.name}() where the module is imported", "in a function")


@rules.rule(
    "P16",
    Severity.LOSS,
    CeleryApp,
    title="publishes inside a transaction of the database",
    why="A rollback leaves a task for nothing; or it runs before the commit and finds no row.",
    safe="transaction.on_commit(lambda: task.delay(order.id))",
    source="https://docs.celeryq.dev/en/stable/userguide/tasks.html#database-transactions",
)
def inside_a_transaction(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.publishes:
        around = _transaction(call)
        if around is not None:
            yield of_place(call, f"{call.name}() inside {around}", _AFTER)


@rules.rule(
    "P18",
    Severity.LOSS,
    CeleryApp,
    title="a call sets a time after which its message is deleted",
    why="The broker deletes an expired message in the queue, and no worker or result tells it.",
    safe="task.apply_async(args)  # without expires; the task itself looks at a deadline",
    source=f"{_CALLING}#expiration",
)
def calls_expire(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.publishes:
        value = call.keyword("expires")
        if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            yield of_place(call, f"{call.name}(expires=...)", "take expires out")


@rules.rule(
    "W08",
    Severity.LOSS,
    CeleryApp,
    title="a countdown under one second raises",
    why="With RabbitMQ's delays it is a ValueError, and in a retry that drops the task.",
    safe="task.apply_async(args, countdown=1)",
    source="docs/internals/loss-modes.md, W08: proved against Celery 5.7.0",
)
def short_countdown(app: CeleryApp) -> Iterator[Evidence]:
    calls = [one for one in app.code.delays if 0 < (_countdown(one) or 0) < 1]
    if calls and app.is_on_amqp and app.is_delayed_by_broker:
        for call in calls:
            yield of_place(call, f"{call.name}(countdown={_countdown(call):g})", "countdown=1")


@rules.rule(
    "W23",
    Severity.STALL,
    CeleryApp,
    title="delayed tasks take the worker's prefetch",
    why="With RabbitMQ 4 a worker that holds as many of them as it prefetches takes no other.",
    safe="a row that is due later, and a beat task that sends what is due",
    source="https://github.com/celery/kombu/issues/2665",
)
def delays_in_workers(app: CeleryApp) -> Iterator[Evidence]:
    calls = [one for one in app.code.delays if one.keyword("countdown") or one.keyword("eta")]
    if not calls or not app.is_on_amqp or app.is_delayed_by_broker:
        return
    kombu = app.version("kombu")
    if kombu is None or kombu >= (5, 7):
        for call in calls:
            name = "countdown" if call.keyword("countdown") else "eta"
            cure = "quorum queues on a topic exchange, or a row that is due later"
            yield of_place(call, f"{call.name}({name}=...)", cure)


@rules.rule(
    "W29",
    Severity.LOSS,
    CeleryApp,
    title="a delay that RabbitMQ's delays cannot hold",
    why="More than 2^28 - 1 seconds overflow the key by which the delay is counted down.",
    safe="a row that is due in years",
    source="docs/internals/loss-modes.md, W29: proved against Celery 5.7.0",
)
def long_countdown(app: CeleryApp) -> Iterator[Evidence]:
    calls = [one for one in app.code.delays if (_countdown(one) or 0) > _DELAY_S_MAX]
    if calls and app.is_on_amqp and app.is_delayed_by_broker:
        for call in calls:
            yield of_place(call, f"{call.name}(countdown={_countdown(call):g})", "a row, due later")


def _countdown(call: CallPlace) -> float | None:
    return number_of(call.keyword("countdown"))


def _is_in(body: list[ast.stmt], call: CallPlace) -> bool:
    return any(one in body for one in (*call.parents, call.node))


def _names(handler: ast.ExceptHandler) -> set[str]:
    """Last names of what it catches; a bare one catches BaseException."""
    if handler.type is None:
        return {"BaseException"}
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(one).rpartition(".")[2] for one in types}


def _is_main(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _transaction(call: CallPlace) -> str | None:
    """What begins the transaction that a call is in."""
    for parent in reversed(call.parents):
        if isinstance(parent, ast.Lambda):
            return None
        if isinstance(parent, ast.With | ast.AsyncWith):
            for item in parent.items:
                name = _called(item.context_expr)
                if _TRANSACTION.search(name):
                    return f"{name}() of line {parent.lineno}"
                if _SESSION.search(name) and _commits_after(parent, call):
                    return f"{name}() of line {parent.lineno}, before its commit"
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef):
            for one in parent.decorator_list:
                if _called(one).endswith("atomic"):
                    return f"@{_called(one)} of line {one.lineno}"
            return None
    return None


def _called(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _commits_after(around: ast.With | ast.AsyncWith, call: CallPlace) -> bool:
    return any(
        isinstance(one, ast.Call)
        and isinstance(one.func, ast.Attribute)
        and one.func.attr == "commit"
        and one.lineno > call.line
        for one in ast.walk(around)
    )
