"""Deploys of other code while runs are open: there and back, a renamed queue, changed steps."""

import time
from random import Random
from threading import Event

from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.processes import replace
from veltrix.prove.faults.striking import catch, of_kind

OTHER_CODE = "b"
_WORK_S = 6.0
_never = Event()


def rolled_back(site: Site, blow: Blow, _chance: Random) -> None:
    """Other code is deployed, works for a while, and the code before it is deployed again."""
    before = site.release
    catch(site, blow)
    blow.strike()
    deploy(site, blow, OTHER_CODE)
    _never.wait(_WORK_S)
    deploy(site, blow, before)
    blow.heal()


def rolled_back_at_once(site: Site, blow: Blow, _chance: Random) -> None:
    """The same, but the first worker with other code shows that it is wrong."""
    before = site.release
    catch(site, blow)
    blow.strike()
    deploy(site, blow, OTHER_CODE, workers_max=1)
    deploy(site, blow, before)
    blow.heal()


def queue_renamed(site: Site, blow: Blow, _chance: Random) -> None:
    """A release in which a workflow with open runs has another queue; it stays."""
    catch(site, blow)
    blow.strike()
    deploy(site, blow, "c" if site.release == "a" else "a")
    blow.heal()


def deploy(site: Site, blow: Blow, release: str, *, workers_max: int = 1_000) -> None:
    """Worker after worker is replaced by one of this release."""
    blow.detail = f"{blow.detail} {site.release} to {release}".strip()
    began = time.time()
    site.release = release
    for name in of_kind(site, "worker")[:workers_max]:
        blow.victims.append(name)
        replace(site, name)
    blow.releases.append((release, began, time.time()))
