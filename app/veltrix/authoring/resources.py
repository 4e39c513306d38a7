"""What lives as long as a process that runs steps: clients and pools, and what is done first.

A worker's child is a process with one main thread, in which plain steps run one after the other,
and one event loop, on which all its `async def` steps run. So a client of each kind is enough.
"""

import inspect
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from veltrix.authoring.code import name_of
from veltrix.authoring.definitions import DefinitionError, check_options
from veltrix.authoring.flow import NonRetryable, here, is_part_of_step

if TYPE_CHECKING:
    import asyncio  # the front door loads none: who has a loop has it loaded

T = TypeVar("T")
StartHook = Callable[[], Any]
Closer = Callable[[], Any]

start_hooks: list[StartHook] = []


def on_worker_start(function: StartHook = cast(Any, None), /) -> StartHook:  # noqa: B008 - a mark
    """`@on_worker_start`: called once in each child of a worker, before its first run.

    A `def` or `async def` without arguments. What it raises is logged, and the child goes on: a
    step that needs what is not there fails by itself, and is tried again.
    """
    if not inspect.isroutine(function):
        raise DefinitionError("@on_worker_start takes a function; write it without parentheses")
    if any(
        parameter.default is parameter.empty and parameter.kind not in _VARIABLE
        for parameter in inspect.signature(function).parameters.values()
    ):
        raise DefinitionError(f"@on_worker_start: {name_of(function)!r} must take no arguments")
    start_hooks.append(function)
    return function


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@overload
def resource(function: Callable[[], Iterator[T]], /) -> Callable[[], T]: ...
@overload
def resource(function: Callable[[], AsyncIterator[T]], /) -> Callable[[], Awaitable[T]]: ...
def resource(function: Any = None, /, **options: Any) -> Callable[[], Any]:
    """Make a generator that yields once a resource: calling it gives what it yielded.

    It is made when a step of this process first asks for it, is the same for all later ones, and
    the generator goes on when the process ends. Of an `async def` generator, `await` it in async
    steps. If making it fails, so does the attempt of the step, and the next one makes it anew. A
    process that is killed closes nothing. Raises DefinitionError if it is no such generator.
    """
    check_options("@resource", options, {})
    if inspect.isasyncgenfunction(function):
        return _AsyncResource(function)
    if inspect.isgeneratorfunction(function):
        return _SyncResource(function)
    raise DefinitionError(
        "@resource takes a generator that yields once: what it yields is the resource, and what"
        " comes after the yield closes it; write it without parentheses"
    )


class ResourceMisplaced(NonRetryable, RuntimeError):
    """A resource was asked for where there can be none; no attempt can succeed."""


class _Resource(Generic[T]):
    def __init__(self, function: Callable[[], Any]) -> None:
        if inspect.signature(function).parameters:
            raise DefinitionError(f"resource {name_of(function)!r} must take no arguments")
        self.name, self._function = name_of(function), function

    def _check_here(self) -> None:
        if here.recorder is not None:
            raise ResourceMisplaced(
                f"resource {self.name!r} was asked for in a workflow's own code, which may do"
                " nothing but call steps; ask for it in a step"
            )

    def __repr__(self) -> str:
        return f"<resource {self.name}>"


class _SyncResource(_Resource[T]):
    """One in each process."""

    def __init__(self, function: Callable[[], Iterator[T]]) -> None:
        super().__init__(function)
        self._here: tuple[int, threading.RLock, list[T]] = 0, threading.RLock(), []

    def __call__(self) -> T:
        self._check_here()
        pid, lock, made = self._here
        if pid != os.getpid():  # a copy of a process has connections of its own
            pid, lock, made = self._here = os.getpid(), threading.RLock(), []
        if not made:
            with lock:
                if not made:
                    made.append(self._make())
        return made[0]

    def _make(self) -> T:
        generator = self._function()
        value: T = next(generator, _NOTHING)
        if value is _NOTHING:
            raise RuntimeError(f"resource {self.name!r} ended without a yield")
        _opened.append((os.getpid(), None, lambda: self._close(generator)))
        return value

    def _close(self, generator: Iterator[T]) -> None:
        self._here = 0, threading.RLock(), []
        if next(generator, _NOTHING) is not _NOTHING:
            raise RuntimeError(f"resource {self.name!r} yields more than once")


class _AsyncResource(_Resource[T]):
    """One in each event loop."""

    def __init__(self, function: Callable[[], AsyncIterator[T]]) -> None:
        super().__init__(function)
        self._made: dict[asyncio.AbstractEventLoop, asyncio.Task[T]] = {}
        self._waiting: dict[asyncio.Task[T], int] = {}  # how many wait for what is being made

    def __call__(self) -> Awaitable[T]:
        self._check_here()
        if is_part_of_step() and not _has_loop():
            raise ResourceMisplaced(
                f"resource {self.name!r} is async def, and was asked for in a def step; make the"
                " step an async def, and await the resource there"
            )
        return self._get()

    async def _get(self) -> T:
        import asyncio

        loop = asyncio.get_running_loop()
        for closed in [one for one in self._made if one.is_closed()]:
            del self._made[closed]
        making = self._made.get(loop)
        if making is None:
            # By itself: the step that asks first may be cancelled, and others wait for it too.
            making = self._made[loop] = loop.create_task(self._make(), context=Context())
        if _is_made(making):
            return making.result()
        self._waiting[making] = self._waiting.get(making, 0) + 1
        try:
            return await asyncio.shield(making)
        except BaseException:
            # Who asks from now on has it made anew: this making may have failed, or hang.
            if self._made.get(loop) is making and not _is_made(making):
                del self._made[loop]
            raise
        finally:
            self._waiting[making] -= 1
            if not self._waiting[making]:
                del self._waiting[making]
                making.cancel()  # nobody waits for it any more; nothing where it is made

    async def _make(self) -> T:
        import asyncio

        generator = self._function()
        value: T = await anext(generator, _NOTHING)
        if value is _NOTHING:
            raise RuntimeError(f"resource {self.name!r} ended without a yield")
        loop = asyncio.get_running_loop()
        _opened.append((os.getpid(), loop, lambda: self._close(loop, generator)))
        return value

    async def _close(self, loop: "asyncio.AbstractEventLoop", generator: AsyncIterator[T]) -> None:
        self._made.pop(loop, None)
        if await anext(generator, _NOTHING) is not _NOTHING:
            raise RuntimeError(f"resource {self.name!r} yields more than once")


def _is_made(making: "asyncio.Task[Any]") -> bool:
    return making.done() and not making.cancelled() and making.exception() is None


def _has_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_NOTHING: Any = object()
# What is to be closed, in the order in which it was made: of which process, on which loop.
_opened: "list[tuple[int, asyncio.AbstractEventLoop | None, Closer]]" = []


def close_resources(timeout_s: float, tell: Callable[[BaseException], object]) -> None:
    """Close what this process has made, the last first; `tell` hears what that raised.

    Asynchronous ones are closed on their own loop, each within `timeout_s`. Raises nothing.
    """
    import asyncio

    while _opened:
        pid, loop, close = _opened.pop()
        if pid != os.getpid():
            continue
        try:
            if loop is None:
                close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(close(), loop).result(timeout_s)
        except BaseException as error:  # noqa: BLE001 - the others are closed all the same
            tell(error)
