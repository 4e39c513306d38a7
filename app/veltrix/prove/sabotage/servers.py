"""Sabotage of how servers and deploys are taken: sessions and clocks believed, errors as deaths."""

import importlib
from typing import Any

from veltrix.prove.sabotage.swaps import Saboteur, nothing, replace


def connections_kept() -> None:
    """A connection is given up only when it breaks; what its server is, nobody asks."""
    replace("veltrix.store.connections", "keeps_connection", nothing(result=True))
    replace("veltrix.store.transactions", "Link.close", nothing())
    _believing()


def sessions_believed() -> None:
    """What a session is asked to be at its start it is taken to be."""
    _believing()


def _believing() -> None:
    connections: Any = importlib.import_module("veltrix.store.connections")
    replace("veltrix.store.connections", "_make_ours", nothing())
    asked = connections._CAN_WRITE  # noqa: SLF001 - that is the sabotage
    assert "transaction_read_only" in asked
    connections._CAN_WRITE = "select true"  # noqa: SLF001


def commits_not_waited_for() -> None:
    """Outcomes are committed when the server says so, not when they are on disk."""

    def hurried(options_of: Any) -> Any:
        return lambda settings: options_of({**settings, "synchronous_commit": "off"})

    replace("veltrix.store.transactions", "options_of", hurried)
    replace("veltrix.store.connections", "_make_ours", nothing())


def errors_are_deaths() -> None:
    """A child that cannot write says so by an error, and its parent takes it for dead."""
    errors: Any = importlib.import_module("veltrix.store.errors")

    def raising(call: Any) -> Any:
        def called(self: Any, statement: Any, on_return: Any = None, tries_max: Any = None) -> Any:
            try:
                return call(self, statement, on_return, tries_max or 1)
            except Exception as error:
                raise RuntimeError(str(error)[:500]) from error

        return called

    for state in ("58", "53"):
        errors._ANSWERS[state] = errors.Answer.OUR_FAULT  # noqa: SLF001
    replace("veltrix.store.transactions", "Link.call", raising)
    child: Any = importlib.import_module("veltrix.worker.child.child")
    replace("veltrix.worker.child.child", "WorkerChild._one_by_one", nothing_of_it)
    replace(
        "veltrix.worker.child.child", "WorkerChild.run_patiently", lambda _: child.WorkerChild.run
    )
    replace("veltrix.worker.parent.deaths", "_DEATHS", lambda _: (BaseException,))


def nothing_of_it(_one_by_one: Any) -> Any:
    """What the engine could not do is raised, and nothing else is tried."""

    def raised(_self: Any, _hand: Any, error: Exception) -> None:
        raise error

    return raised


def own_clock_believed() -> None:
    """An api dates events by its own clock, whatever the database's says."""

    def own(_unix_ms: Any) -> Any:
        return lambda self: int(self._unix_s() * 1_000)

    replace("veltrix.pipeline.clock", "DatabaseClock.unix_ms", own)
    replace(
        "veltrix.pipeline.clock",
        "DatabaseClock.trouble",
        lambda _: property(nothing()(None)),
    )


def roll_back_not_taken() -> None:
    """Code that was deployed later routes for ever, whoever serves."""

    def onward(switches: Any) -> Any:
        def only(*args: Any, **keywords: Any) -> list[Any]:
            found = switches(*args, **{**keywords, "may_go_back": False})
            return [switch for switch in found if not switch.is_back]

        return only

    replace("veltrix.releases.deploy", "switches", onward)


def ends_stumble() -> None:
    """A worker that is to tell Flower of a message's end meets what nobody foresaw."""

    def stumbling(tell_end: Any) -> Any:
        def stumble(delivery: Any, now: Any) -> None:
            tell_end(delivery, now)
            raise TypeError("an outcome is no text")

        return stumble

    replace("veltrix.worker.parent.consumer", "tell_end", stumbling)


SABOTAGES: dict[str, Saboteur] = {
    one.__name__: one
    for one in (
        connections_kept,
        sessions_believed,
        commits_not_waited_for,
        errors_are_deaths,
        own_clock_believed,
        roll_back_not_taken,
        ends_stumble,
    )
}
