"""`python -m bench.peers.flooding URL SECONDS BATCH SENDERS OPEN_MAX RATE`: the load, a process.

A few single events first, so that every connection is open and every statement known; when those
are settled, batches as in `python -m bench throughput`, or with a RATE single events on schedule as
in `python -m bench latency`. Prints JSON: how many events were accepted, and when those of a
schedule were due, `[number, Unix seconds]` each.
"""

import asyncio
import http.client
import json
import sys
from urllib.parse import urlsplit

from bench.load import flood, open_loop
from veltrix.dev.children import wait_for

_WARM = [(50.0, 3.0)]
_WARM_FIRST = 10**12  # none of the batches has such an id
_SETTLED_S = 60.0


def main(url: str, seconds: float, rate: float, batch: int, senders: int, open_max: int) -> None:
    """Prints the JSON, or fails when the first few events are not settled within a minute."""
    open_loop([url], schedule=_WARM, first=_WARM_FIRST, connections=senders)
    if not wait_for(lambda: open_runs(url) == 0, deadline_s=_SETTLED_S):
        sys.exit(f"{open_runs(url)} of the first events are not settled")
    if rate:
        sent = [
            one for one in open_loop([url], schedule=[(rate, seconds)], first=0) if one.answered
        ]
        print(json.dumps({"accepted": len(sent), "due": [(one.number, one.due) for one in sent]}))
        return
    flooded = flood(
        [url], seconds=seconds, size=batch, first=0, connections=senders, open_max=open_max
    )
    print(json.dumps({"accepted": asyncio.run(flooded).accepted, "due": []}))


def open_runs(url: str) -> int:
    """What the front says is open."""
    at = urlsplit(url)
    assert at.hostname is not None
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=10)
    try:
        connection.request("GET", "/v1/balance")
        return int(json.loads(connection.getresponse().read())["runs"]["open"])
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[6]), *map(int, sys.argv[3:6]))
