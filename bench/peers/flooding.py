"""`python -m bench.peers.flooding HOST PORT SECONDS BATCH SENDERS OPEN_MAX`: the load, a process.

A few single events first, so that every connection is open and every statement known; when those
are settled, batches as in `python -m bench throughput`. Prints how many events of batches were
accepted.
"""

import asyncio
import http.client
import json
import sys
import time

from bench.load import flood, open_loop

_WARM_RATE = 50.0
_WARM_S = 3.0
_WARM_FIRST = 10**12  # none of the batches has such an id
_SETTLED_S = 60.0


def main(host: str, port: int, seconds: float, batch: int, senders: int, open_max: int) -> None:
    """Prints a number, or fails when the first few events are not settled within a minute."""
    asyncio.run(open_loop(host, port, _WARM_RATE, _WARM_S, senders, _WARM_FIRST))
    end = time.monotonic() + _SETTLED_S
    while open_runs(host, port) > 0:
        if time.monotonic() > end:
            sys.exit(f"{open_runs(host, port)} of the first events are not settled")
        time.sleep(0.1)
    print(asyncio.run(flood(host, port, seconds, batch, senders, open_max)))


def open_runs(host: str, port: int) -> int:
    """What the front says is open."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/v1/balance")
        return int(json.loads(connection.getresponse().read())["runs"]["open"])
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:]))
