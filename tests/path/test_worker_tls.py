"""Everything on amqps: no message is left in a buffer of TLS, and a cut line is made again."""

from pathlib import Path

from tests.path.site import Open, site
from tests.support.services import Broker
from tests.support.tls import Authority, tls_line
from tests.support.wait import until

__all__ = ["site"]

RUNS = 1_200


def test_a_thousand_messages_over_tls_are_all_settled_whatever_breaks(
    site: Open, broker: Broker, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    with tls_line(broker.url, authority.certify()) as line:
        # Each run is a message, of which many stand in one record of TLS.
        over_tls = {"BROKER_URL": line.url, "BROKER_CA_FILE": authority.file}
        seen = site(LIST_RUNS_MAX=1, LIST_RUNS_UNMEASURED=1, **over_tls)
        started = seen.logged("worker.started", "worker-1")

        seen.post(range(RUNS // 2))
        seen.wait_settled(RUNS // 2, 30)
        seen.post(range(RUNS // 2, RUNS))
        line.break_all()
        seen.wait_settled(RUNS, 30)

        seen.check_books(RUNS)
        assert started == seen.logged("worker.started", "worker-1") == 1
        until(lambda: seen.metric("veltrix_broker_up", "relay-1") == 1, what="the relay")
        assert not seen.logged("Traceback", "worker-1")
        assert not seen.logged("duty.failed", "relay-1")
