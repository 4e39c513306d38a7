"""Bodies that have come and wait to be read take no more memory than is allowed."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from tests.api.conftest import ApiOf
from tests.support.wait import until
from veltrix.api import parsing

MIB = 1024 * 1024


def test_bodies_that_wait_for_their_turn_count(api_of: ApiOf) -> None:
    api = api_of(accept_waiting_bytes_max=16 * MIB, batch_bytes_max=2 * MIB)
    bodies, go_on = api.app.state.bodies, Event()
    data = "x" * (1_000_000)
    before = parsing._reading.submit("before", lambda: go_on.wait(30))
    try:
        with ThreadPoolExecutor(12) as clients:
            sent = [
                clients.submit(
                    api.post_event,
                    {"specversion": "1.0", "id": str(n), "source": "/s", "type": "t", "data": data},
                )
                for n in range(12)
            ]
            until(lambda: sum(one.done() for one in sent) >= 3, what="refusals")
            refused = [one.result() for one in sent if one.done()]

            assert {answer.status for answer in refused} == {503}
            assert sum(bodies._held.values()) <= 8 * MIB
            go_on.set()
            statuses = [one.result().status for one in sent]
    finally:
        go_on.set()
        assert before.result(10)

    assert statuses.count(503) >= len(refused)  # others may have been on their way
    assert statuses.count(202) + statuses.count(503) == 12
    assert 202 in statuses
    until(lambda: not bodies._held, what="the end of each request")
