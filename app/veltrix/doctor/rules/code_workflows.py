"""Workflow code of Veltrix: what makes a run differ from its journal, or hold its worker.

A workflow's body runs again after every sleep, crash and deploy, and must then do the same.
"""

import ast
from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_place
from veltrix.doctor.facts.code import PUBLISHES, CallPlace
from veltrix.doctor.facts.workflow_code import WorkflowCode
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("workflow code")
_PAGE = "docs/how-to/writing-workflows.md"
_CLOCKS = {
    "time.time": "now()",
    "time.monotonic": "now()",
    "time.time_ns": "now()",
    "datetime.now": "now()",
    "datetime.utcnow": "now()",
    "datetime.datetime.now": "now()",
    "datetime.datetime.utcnow": "now()",
    "date.today": "now().date()",
    "datetime.date.today": "now().date()",
    "uuid.uuid4": "uuid()",
    "uuid.uuid1": "uuid()",
    "uuid4": "uuid()",
    "os.urandom": "random()",
}
_CHANCE = ("random.", "secrets.")
_LOOPS = ("asyncio.", "anyio.", "trio.")


def _written(call: CallPlace) -> str:
    return f"{call.on}.{call.name}" if call.on else call.name


@rules.rule(
    "D26",
    Severity.STALL,
    WorkflowCode,
    title="a workflow reads a clock or chance of its own",
    why="When its body runs again it sees another value, takes another way, and the run is stuck.",
    safe="from veltrix import now, random, uuid",
    source=_PAGE,
)
def clock_or_chance(code: WorkflowCode) -> Iterator[Evidence]:
    for call in code.in_workflows():
        name = _written(call)
        if name in _CLOCKS:
            yield of_place(call, f"{name}() in a workflow", f"{_CLOCKS[name]} of veltrix")
        elif name.startswith(_CHANCE):
            yield of_place(call, f"{name}() in a workflow", "random() of veltrix, or a step")


@rules.rule(
    "D27",
    Severity.STALL,
    WorkflowCode,
    title="a workflow goes through a set",
    why="A set has another order in every process: steps come in another order than the journal's.",
    safe="for sku in sorted(skus):",
    source=_PAGE,
)
def unordered(code: WorkflowCode) -> Iterator[Evidence]:
    for place in code.code.places:
        if code.workflow_of(place.parents) is None:
            continue
        node = place.node
        if isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter):
            at = place if isinstance(node, ast.For) else None
            line = node.iter.lineno
            yield Evidence(
                found="a loop over a set in a workflow",
                origin=f"{place.file}:{line}",
                cure=f"sorted({ast.unparse(node.iter)[:60]})",
                file=place.file,
                line=at.line if at else line,
            )
    for call in code.in_workflows():
        is_step = call.name in code.steps and not call.on
        given = [*call.call.args, *(one.value for one in call.call.keywords)]
        turned = call.name in {"list", "tuple", "enumerate"} and not call.on
        if (is_step or turned) and any(_is_set(one) for one in given):
            yield of_place(call, f"a set goes into {call.name}() in a workflow", "sorted(...)")


@rules.rule(
    "D28",
    Severity.STALL,
    WorkflowCode,
    title="a workflow waits beside the journal",
    why="A sleep or an await that Veltrix does not know holds the worker, and is lost with it.",
    safe="from veltrix import gather, sleep\n\nawait sleep(60)",
    source=_PAGE,
)
def waits_itself(code: WorkflowCode) -> Iterator[Evidence]:
    for call in code.in_workflows():
        name = _written(call)
        if name == "time.sleep":
            yield of_place(call, "time.sleep() in a workflow", "await sleep(...) of veltrix")
        elif name.startswith(_LOOPS):
            cure = "gather and sleep of veltrix; anything else in a step"
            yield of_place(call, f"{name}() in a workflow", cure)


@rules.rule(
    "D29",
    Severity.LOSS,
    WorkflowCode,
    title="a step that nobody awaits",
    why="A step that is called and not awaited never runs.",
    safe="await ship(order.id)",
    source=_PAGE,
)
def never_awaited(code: WorkflowCode) -> Iterator[Evidence]:
    for call in code.in_workflows():
        is_known = not call.on and (call.name in code.steps or call.name in {"sleep", "gather"})
        if is_known and isinstance(call.parents[-1], ast.Expr):
            yield of_place(call, f"{call.name}() without await", f"await {call.name}(...)")


@rules.rule(
    "P16",
    Severity.LOSS,
    WorkflowCode,
    title="a workflow publishes by itself",
    why="What Celery sends beside the journal is sent again by every run of the body, or lost.",
    safe="await notify(order.id)  # a step",
    source=_PAGE,
)
def publishes(code: WorkflowCode) -> Iterator[Evidence]:
    for call in code.code.calls:
        is_pool = "pool" in call.on.lower()
        if call.name in PUBLISHES and call.on and not is_pool:
            yield of_place(call, f"{call.name}()", "a step, or an event that starts a workflow")


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {"set", "frozenset"}
