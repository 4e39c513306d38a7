"""What a workflow may not await is told to its author by name and place, at once and for good."""

from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from veltrix.authoring.flow import NonRetryable
from veltrix.pipeline.execute.coroutines.execution import Branch, Execution
from veltrix.pipeline.execute.coroutines.retry import is_authors, is_ours

# They need a running event loop, and a workflow has none.
_LOOPS = ("asyncio", "anyio", "sniffio", "trio", "uvloop", "aiohttp")
_NO_LOOP = "no running event loop"
_CAUSES_MAX = 20
# Futures are awaited without a frame that would tell their maker.
_MAKERS = {"_GatheringFuture": "asyncio.gather", "Task": "asyncio.create_task"}
_BRANCHES = "use gather() of Veltrix"
_LIMIT = "give the step, or the workflow, a timeout_s"
_MOVE = "move it into a @step"
_CURES = {
    "asyncio.gather": _BRANCHES,
    "asyncio.create_task": _BRANCHES,
    "asyncio.ensure_future": _BRANCHES,
    "asyncio.as_completed": _BRANCHES,
    "asyncio.wait": _BRANCHES,
    "asyncio.TaskGroup": _BRANCHES,
    "asyncio.shield": "await the step itself: its run does not lose it",
    "asyncio.sleep": "use sleep() of Veltrix",
    "asyncio.timeout": _LIMIT,
    "asyncio.wait_for": _LIMIT,
    "anyio.sleep": "use sleep() of Veltrix",
    "anyio.create_task_group": _BRANCHES,
}


class ForeignAwait(NonRetryable, TypeError):
    """A workflow awaited something that is no step, `gather` or `sleep`; no attempt can succeed."""


def as_foreign(execution: Execution, raised: BaseException) -> BaseException:
    """`raised`; or, if it says that there is no event loop, what its author should be told."""
    if not isinstance(raised, Exception):
        return raised
    try:
        return _as_foreign(execution, raised)
    except BaseException:  # noqa: BLE001 - its class may make anything of being asked
        return raised


def _as_foreign(execution: Execution, raised: Exception) -> Exception:
    frames = _foreign_frames(raised)
    if not frames:
        return raised
    # The end of an `async with` fails as what was awaited in it: that is the line to name.
    context = raised.__context__
    for _ in range(_CAUSES_MAX):
        if context is None:
            break
        found = _foreign_frames(context)
        if any(is_authors(frame.f_code.co_filename) for frame, _ in found):
            frames = found
        context = context.__context__
    authors = [n for n, (frame, _) in enumerate(frames) if is_authors(frame.f_code.co_filename)]
    last = authors[-1] if authors else 0
    frame, line = frames[last]
    what = _name_of(frames[last + 1][0]) if len(frames) > last + 1 else "the event loop"
    foreign = _foreign(execution, what, frame.f_code, line)
    foreign.__cause__ = raised
    return foreign.with_traceback(raised.__traceback__)


def _foreign_frames(raised: BaseException) -> list[tuple[FrameType, int]]:
    """Where it went, but for our frames; nothing, if it does not tell of an event loop."""
    frames = [place for place in _places(raised) if not is_ours(place[0].f_code.co_filename)]
    if frames and (_is_of_loop(frames[-1][0]) or raised.args[:1] == (_NO_LOOP,)):
        return frames
    return []


def foreign_request(execution: Execution, frame: Branch, request: object) -> ForeignAwait:
    """What is thrown where the workflow awaited `request`."""
    code, line, what = None, 0, type(request).__name__
    awaited: Any = frame.coroutine
    while awaited is not None:
        inner = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if inner is None:
            maker = _MAKERS.get(type(request).__name__)
            what = maker if maker is not None else type(awaited).__name__
        elif _is_of_loop(inner):
            what = _name_of(inner)
            break
        else:
            code, line = inner.f_code, inner.f_lineno
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return _foreign(execution, what, code, line)


def _foreign(execution: Execution, what: str, code: CodeType | None, line: int) -> ForeignAwait:
    cure = next((_CURES[one] for one in (what, what.rpartition(".")[0]) if one in _CURES), _MOVE)
    where = "" if code is None else f", {code.co_filename.rpartition('/')[2]}:{line}"
    return ForeignAwait(
        f"{what} was awaited in workflow {execution.workflow.name!r}{where}: a workflow can await"
        f" steps, gather() and sleep() of Veltrix; {cure}"
    )


def _places(raised: BaseException) -> Iterator[tuple[FrameType, int]]:
    traceback = raised.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_of_loop(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LOOPS


def _name_of(frame: FrameType) -> str:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return f"{package}.{frame.f_code.co_qualname.removesuffix('.__init__')}"
