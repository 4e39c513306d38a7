"""Abandon: let go of a coroutine without running another line of it.

A run that sleeps, retries, is handed back, lost or cancelled goes on elsewhere, or not at all. Its
coroutines here must do nothing more: closed as Python closes them, each `finally` would run, though
nothing of the run has ended. Python runs no clean-up of an object whose finalizer has run already
(PEP 442), and a mark on the object says that it has; `gc.is_finalized` reads it.

Where there is no such mark (another Python than CPython, or one without the lock), coroutines are
closed, and steps, `sleep` and `gather` give them up instead of running.
"""

import ctypes
import gc
import sys
from collections import deque
from collections.abc import Coroutine, Iterable
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
    TracebackType,
)
from typing import Any

from veltrix import telemetry
from veltrix.authoring.flow import here

_OBJECTS_MAX = 10_000  # that are looked at for what coroutines hold
_OBJECTS_MAX_EACH = 100  # and so many more for each of them
_CLOSES_MAX = 100
_MARK = 1  # in the word before the object: _PyGC_PREV_MASK_FINALIZED of CPython
_SUSPENDED = {CoroutineType, GeneratorType, AsyncGeneratorType}


# Nothing behind them is the coroutine's own.
_DEAD_ENDS = (type, ModuleType, CodeType, FrameType, TracebackType)


class _Mortal:
    """Comes to life again when it is finalized, to show the mark."""

    def __del__(self) -> None:
        _Mortal.risen = self

    risen: "_Mortal | None" = None


def _word_of(object_: object) -> ctypes.c_size_t:
    return ctypes.c_size_t.from_address(id(object_) - ctypes.sizeof(ctypes.c_size_t))


def _has_marks() -> bool:
    """Whether this Python keeps the mark where we know it to be: looked at, not believed."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    fresh = _Mortal()
    is_clear = not _word_of(fresh).value & _MARK and not gc.is_finalized(fresh)
    del fresh
    risen, _Mortal.risen = _Mortal.risen, None
    return (
        is_clear
        and risen is not None
        and gc.is_finalized(risen)
        and bool(_word_of(risen).value & _MARK)
    )


_IS_MARKED = _has_marks()


def abandon(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """None of these runs again, nor what they wait for; drop them after it. Never raises."""
    if _IS_MARKED:
        _mark(coroutines)
    else:
        _close(coroutines)


def _mark(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Also what they wait for or have entered, wherever they hold it; the nearest first."""
    waiting: deque[Any] = deque(coroutines)
    objects_max = _OBJECTS_MAX + _OBJECTS_MAX_EACH * len(waiting)
    seen: set[int] = set()
    while waiting and len(seen) < objects_max:
        found = waiting.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        kind = type(found)
        if kind in _SUSPENDED:
            _word_of(found).value |= _MARK
        if kind is FunctionType:
            waiting.extend((*(found.__closure__ or ()), *(found.__defaults__ or ())))
            continue
        for held in gc.get_referents(found):
            if gc.is_tracked(held) and not issubclass(type(held), _DEAD_ENDS):
                waiting.append(held)


def _close(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> None:
    here.is_closing = True
    try:
        for coroutine in coroutines:
            for _ in range(_CLOSES_MAX):
                try:
                    coroutine.close()
                except RuntimeError:
                    continue  # it went on to the next step; it is asked again
                except BaseException as error:  # noqa: BLE001 - a `finally` cannot hold what is over
                    log = telemetry.logger("execute")
                    log.debug("coroutine.refused_to_close", error=type(error).__name__)
                break
    finally:
        here.is_closing = False
