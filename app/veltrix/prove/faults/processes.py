"""Faults of our own processes: killed, told to end, stopped and woken, with a wrong clock."""

import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event

import psutil

from veltrix.dev.children import kill_all, wait_for
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch, catch_in_hand, of_kind, one_of, strike_holder
from veltrix.prove.load.workflows import DEADLY_WORKFLOWS, LONG_WORKFLOWS, TRANSACTIONAL_WORKFLOWS

_FAKETIME = "*/faketime/libfaketime.so.1"
_ENDED_S = 60.0
_FREEZES_MAX = 4
_ZOMBIE_S = 1.5  # to do its harm: longer than any step it may have been in
_never = Event()


def child_killed(site: Site, blow: Blow, _chance: Random) -> None:
    """SIGKILL to a worker child with runs in its hand."""
    victims: list[str] = []

    def holder(worker: str) -> bool:
        if not victims and _is_child(site, worker):
            victims.append(worker)
        return worker in victims

    def strike() -> Sequence[int]:
        if not victims:
            return []
        pid = int(victims[0].rpartition("/")[2])
        with suppress(psutil.NoSuchProcess):
            kill_all([psutil.Process(pid)])
        blow.victims = [victims.pop()]
        return [pid]

    strike_holder(site, blow, holder, strike, without=LONG_WORKFLOWS)


def _is_child(site: Site, worker: str) -> bool:
    """It runs, and is a child of a worker of ours: not one that died with its runs a moment ago."""
    name, _, pid = worker.partition("/")
    member = name.partition("@")[0]
    return member in site.members and pid.isdigit() and int(pid) in site.children(member)


def _worker_struck(site: Site, blow: Blow, name: str) -> None:
    def strike() -> Sequence[int]:
        pids = site.children(name)
        site.kill(name, is_orphaning=True)
        site.start(name)
        return pids

    blow.victims = [name]
    strike_holder(site, blow, lambda worker: worker.startswith(f"{name}@"), strike)
    site.platform.wait_ready(name, deadline_s=60)


def parent_killed(site: Site, blow: Blow, chance: Random) -> None:
    """SIGKILL to a worker's parent, which takes its children along; another is started."""
    _worker_struck(site, blow, one_of(chance, of_kind(site, "worker")))


def worker_terminated(site: Site, blow: Blow, chance: Random) -> None:
    """SIGTERM to a worker, as a deployment does; another is started when it has ended."""
    name = one_of(chance, of_kind(site, "worker"))
    catch(site, blow, lambda worker: worker.startswith(f"{name}@"))
    blow.victims = [name]
    blow.strike()
    replace(site, name)
    blow.heal()


def worker_frozen(site: Site, blow: Blow, chance: Random) -> None:
    """SIGSTOP to a worker for longer than its lease, then SIGCONT: a zombie that goes on."""
    name = one_of(chance, of_kind(site, "worker"))
    family: list[psutil.Process] = []

    def strike() -> Sequence[int]:
        family[:] = site.members[name].child.family()
        blow.frozen_pids = [one.pid for one in family]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        return blow.frozen_pids

    def wake() -> None:
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.resume()

    blow.victims = [name]
    own = f"{name}@"
    # A zombie that has a run in hand which ends its process ends, and does no harm.
    without: tuple[str, ...] = DEADLY_WORKFLOWS
    for _ in range(_FREEZES_MAX):
        try:
            strike_holder(
                site, blow, lambda w: w.startswith(own), strike, undo=wake, without=without
            )
            # Woken after a lease and a half, when others have finished what was rescued: a parent
            # that finds its children silent for two leases ends them, and they do no harm either.
            is_zombie = wait_for(lambda: _is_taken_up(site, blow), deadline_s=1.5 * site.hold_s)
            blow.thawed_seq = site.witness_seq()
        finally:
            wake()
        if is_zombie or not blow.affected:
            break
        # What stands in a transaction is locked, and goes on with its lease. Once more, when it has
        # shown that it is awake: with others in hand.
        wait_for(lambda: _have_moved(site, blow), deadline_s=site.hold_s)
        without = DEADLY_WORKFLOWS + TRANSACTIONAL_WORKFLOWS
    wait_for(lambda: site.members[name].is_ready, deadline_s=30)
    _never.wait(_ZOMBIE_S)


def _have_moved(site: Site, blow: Blow) -> bool:
    return len(site.first_moves(blow.seq, blow.affected)) >= len(blow.affected)


def _is_taken_up(site: Site, blow: Blow) -> bool:
    moved = site.first_moves(blow.seq, blow.affected, blow.frozen_names)
    return len(moved) >= len(blow.affected)


def relay_killed(site: Site, blow: Blow, chance: Random) -> None:
    """SIGKILL to a relay; another is started."""
    _killed(site, blow, one_of(chance, of_kind(site, "relay")))


def api_killed(site: Site, blow: Blow, chance: Random) -> None:
    """SIGKILL to an api; another is started."""
    _killed(site, blow, one_of(chance, of_kind(site, "api")))


def _killed(site: Site, blow: Blow, name: str) -> None:
    catch(site, blow)
    blow.victims = [name]
    blow.strike()
    site.kill(name)
    site.start_ready(name)
    blow.heal()


def clock_wrong(site: Site, blow: Blow, chance: Random) -> None:
    """A worker is replaced by one whose clock is a minute wrong, which works for a while."""
    library = faketime()
    if library is None:
        blow.not_tried = "libfaketime is not here: apt-get install faketime"
        return
    name = one_of(chance, of_kind(site, "worker"))
    offset = chance.choice(["+60s", "-60s"])
    wrong = {"LD_PRELOAD": library, "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
    blow.victims, blow.detail = [name], offset
    replace(site, name, wrong)
    catch_in_hand(site, blow, lambda worker: worker.startswith(f"{name}@"))
    blow.strike()
    blow.heal()
    wait_for(lambda: _is_taken_up(site, blow), deadline_s=30)
    replace(site, name)


def rolling_restart(site: Site, blow: Blow, _chance: Random) -> None:
    """SIGTERM to every process, one after the other, each replaced before the next."""
    catch(site, blow)
    blow.strike()
    for name in sorted(site.members):
        blow.victims.append(name)
        replace(site, name)
    blow.heal()


def faketime() -> str | None:
    """Where the library is that gives a process another time."""
    libraries = sorted(Path("/usr/lib").glob(_FAKETIME))
    return str(libraries[0]) if libraries else None


def replace(
    site: Site, name: str, env: dict[str, str] | None = None, *, is_awaited: bool = True
) -> None:
    """SIGTERM, wait for the end (SIGKILL after a minute), start again, wait until it is ready."""
    member = site.members[name]
    family = member.child.family()
    if not member.is_running:
        site.misdeeds.append(f"{name} had ended by itself")
    member.child.popen.send_signal(signal.SIGTERM)
    if not wait_for(lambda: not member.is_running, deadline_s=_ENDED_S):
        site.misdeeds.append(f"{name} did not end within {_ENDED_S:g} s of SIGTERM")
        site.kill(name)
    elif member.child.popen.returncode != 0:
        code = member.child.popen.returncode
        site.misdeeds.append(f"{name} ended with exit code {code} after SIGTERM")
    kill_all(family)
    if is_awaited:
        site.start_ready(name, env)
    else:
        site.start(name, env)
