"""Faults that authors' steps are: hands that stay full for long."""

from random import Random

from veltrix.dev.children import wait_for
from veltrix.prove.deployment.site import Site
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch, of_kind
from veltrix.prove.load.authors_harm import HOLDING_S
from veltrix.settings.fields import PREFIX

_HELD = """
select count(*), count(distinct worker_id) from runs
where workflow = 'prove_holding' and state = 'running'
"""
_PROBES = 40
_BEGUN_S = 30.0


def hands_full(site: Site, blow: Blow, _chance: Random) -> None:
    """Long steps keep all children of one worker at least: what is short goes to the others."""
    each = int(site.platform.env[f"{PREFIX}WORKER_CHILDREN"])
    holding = max(1, each * len(of_kind(site, "worker")) - 1)
    blow.is_harmless = True
    blow.detail = f"{holding} steps of {HOLDING_S:g} s"
    for number in range(1, holding + 1):  # one by one: each to a child of its own
        site.send_events("holding", 1)
        both = (number, number)
        if not wait_for(lambda both=both: tuple(site.rows(_HELD)[0]) == both, deadline_s=_BEGUN_S):  # type: ignore[misc]
            held, children = site.rows(_HELD)[0]
            blow.not_tried = f"of {number} long steps {held} are held, by {children} children"
            return
    catch(site, blow)
    blow.strike()
    site.send_events("fast", _PROBES)
    wait_for(lambda: site.rows(_HELD)[0][0] == 0, deadline_s=3 * HOLDING_S)
    blow.heal()
