"""Faults of the network between half of the processes and the servers (see `line`)."""

from random import Random
from threading import Event

from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch

_never = Event()


def _silent(site: Site, blow: Blow, name: str) -> None:
    """For longer than a lease, so that what half of the workers hold is rescued from them."""
    catch(site, blow, lambda worker: worker.startswith("worker-2@"))
    blow.victims, blow.detail = ["api-2", "relay-2", "worker-2"], f"{1.5 * site.hold_s:g} s"
    blow.strike()
    line = site.lines[name]
    line.fall_silent()
    try:
        _never.wait(1.5 * site.hold_s)
    finally:
        line.mend()
    blow.heal()


def database_cut_off(site: Site, blow: Blow, _chance: Random) -> None:
    """Half of the processes hear nothing of PostgreSQL for longer than a lease."""
    _silent(site, blow, "database")


def broker_cut_off(site: Site, blow: Blow, _chance: Random) -> None:
    """Half of the processes hear nothing of RabbitMQ for longer than a lease."""
    _silent(site, blow, "broker")


def lines_broken(site: Site, blow: Blow, _chance: Random) -> None:
    """Every connection of half of the processes breaks, five times."""
    catch(site, blow, lambda worker: worker.startswith("worker-2@"))
    blow.victims = ["api-2", "relay-2", "worker-2"]
    blow.strike()
    for _ in range(5):
        for line in site.lines.values():
            line.break_all()
        _never.wait(0.3)
    blow.heal()


def lines_slow(site: Site, blow: Blow, chance: Random) -> None:
    """Everything between half of the processes and the servers takes longer."""
    seconds = round(chance.uniform(0.02, 0.1), 3)
    blow.victims, blow.detail = ["api-2", "relay-2", "worker-2"], f"{1_000 * seconds:g} ms"
    for line in site.lines.values():
        line.slow_down(seconds)
    try:
        catch(site, blow, lambda worker: worker.startswith("worker-2@"))
        blow.strike()
        _never.wait(3.0)
    finally:
        for line in site.lines.values():
            line.slow_down(0.0)
    blow.heal()
