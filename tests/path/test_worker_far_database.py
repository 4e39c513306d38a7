"""What every list costs is not taken for what its runs cost: lists do not shrink because of it.

A machine that is short of processor time is like a database that is far away: each list takes long.
Once, that was counted per run, the lists became shorter, each run dearer still, and a platform that
had been overloaded for a moment stayed at a tenth of its speed.
"""

from tests.path.site import Open, site
from veltrix.prove.deployment.tcp_proxy import TcpProxy

__all__ = ["site"]

_FAR_S = 0.02
_FEW, _MANY = 20, 2_000


def test_lists_of_a_far_database_are_as_long_as_those_of_a_near_one(site: Open) -> None:
    seen = site(workers=0, children=2)
    line = TcpProxy(seen.platform.database_url)
    try:
        seen.start_ready("worker-1", DATABASE_URL=line.url)
        seen.wait_registered()
        line.slow_down(_FAR_S)
        for number in range(_FEW):  # lists of one, of which the database takes all the time
            seen.post([number])
            seen.wait_settled(number + 1, 20)
        before = seen.metric("veltrix_list_runs_count", "worker-1")

        seen.post(range(_FEW, _FEW + _MANY), size=250)
        seen.wait_settled(_FEW + _MANY, 60)

        lists = seen.metric("veltrix_list_runs_count", "worker-1") - before
        assert lists < _MANY / 50, "and not lists of one"
        seen.check_ran_once(_FEW + _MANY)
        seen.check_books(_FEW + _MANY)
    finally:
        line.close()
