"""Faults of PostgreSQL."""

from random import Random

from veltrix.dev.children import wait_for
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch

_TERMINATE = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where application_name like 'veltrix%' and application_name <> 'veltrix prove'
"""


def terminate(site: Site) -> int:
    """Every connection of ours is ended; how many there were."""
    return site.one(_TERMINATE)


def sessions_terminated(site: Site, blow: Blow, _chance: Random) -> None:
    """Every connection of ours is ended by the server."""
    catch(site, blow)
    blow.strike()
    ended = terminate(site)
    blow.detail = f"{ended} sessions"
    if not ended:
        blow.not_tried = "there was no session to terminate"
    blow.heal()


def postgres_restarted(site: Site, blow: Blow, _chance: Random) -> None:
    """A fast shutdown, and a start."""
    catch(site, blow)
    blow.strike()
    site.platform.postgres.stop()
    site.platform.postgres.start()
    blow.heal()


def postgres_killed(site: Site, blow: Blow, _chance: Random) -> None:
    """SIGKILL to all its processes, and a start: it recovers from its log."""
    catch(site, blow)
    blow.strike()
    blow.is_forgetful = True
    site.platform.postgres.kill()
    site.platform.postgres.start()
    wait_for(lambda: site.one("select 1") == 1, deadline_s=60)
    blow.heal()
