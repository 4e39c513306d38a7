"""Faults of the clocks of apis and relays: fast, slow, and jumping while they work."""

from pathlib import Path
from random import Random
from threading import Event

from veltrix.dev.children import wait_for
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.processes import faketime, replace
from veltrix.prove.faults.striking import catch, of_kind, one_of

_WRONG_S = 4.0
_LIVES_S = 30.0
_JUMPS = ("+90s", "-40s", "+1d", "+0s")
_JUMP_S = 1.5
_FILE = "clock"
_never = Event()


def api_fast(site: Site, blow: Blow, chance: Random) -> None:
    """An api is replaced by one whose clock is a minute ahead, and later by a right one."""
    _wrong(site, blow, one_of(chance, of_kind(site, "api")), "+60s")


def api_slow(site: Site, blow: Blow, chance: Random) -> None:
    """The same, twenty seconds behind."""
    _wrong(site, blow, one_of(chance, of_kind(site, "api")), "-20s")


def relay_wrong(site: Site, blow: Blow, chance: Random) -> None:
    """A relay is replaced by one whose clock is a minute wrong, and later by a right one."""
    _wrong(site, blow, one_of(chance, of_kind(site, "relay")), chance.choice(["+60s", "-60s"]))


def _wrong(site: Site, blow: Blow, name: str, offset: str) -> None:
    library = faketime()
    if library is None:
        blow.not_tried = "libfaketime is not here: apt-get install faketime"
        return
    catch(site, blow)
    blow.victims, blow.detail = [name], offset
    blow.strike()
    # It may refuse to work at all like this, so nobody waits for it to be ready.
    wrong = {"LD_PRELOAD": library, "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
    replace(site, name, wrong, is_awaited=False)
    wait_for(lambda: site.lives(name), deadline_s=_LIVES_S)
    _never.wait(_WRONG_S)
    replace(site, name)
    blow.heal()


def api_jumping(site: Site, blow: Blow, chance: Random) -> None:
    """The clock of an api at work jumps ahead, back, a day ahead, and is right again."""
    library = faketime()
    if library is None:
        blow.not_tried = "libfaketime is not here: apt-get install faketime"
        return
    name = one_of(chance, of_kind(site, "api"))
    clock = site.folder / _FILE
    set_clock(clock, "+0s")
    jumping = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    replace(site, name, jumping)
    catch(site, blow)
    blow.victims, blow.detail = [name], ", ".join(_JUMPS)
    blow.strike()
    for offset in _JUMPS:
        set_clock(clock, offset)
        _never.wait(_JUMP_S)
    replace(site, name)
    blow.heal()


def set_clock(clock: Path, offset: str) -> None:
    """The file is there with this, whole, for whoever reads it at any moment."""
    fresh = clock.with_suffix(".new")
    fresh.write_text(f"{offset}\n")
    fresh.rename(clock)
