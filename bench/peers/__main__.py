"""`python -m bench.peers`: Veltrix and its peers, one after the other, round after round."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.peers.roster import QUEUES, VELTRIX, NoSuchPeer, chosen
from bench.peers.run import PYTHON, Ground, Load, run
from bench.peers.summary import Unsettled, latencies, latency_table, summarise, table


def main() -> int:
    """The exit code: 1 if a run lost, repeated or falsified an event, 2 if asked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load in each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="single events a second on schedule, for latencies, instead of batches for rates",
    )
    parser.add_argument(
        "--queue",
        choices=list(QUEUES),
        default="classic",
        help="of Veltrix and the limit, whose messages come due when they are lost",
    )
    parser.add_argument("--only", default="", help="names with commas between; default: all")
    parser.add_argument("--set", action="append", default=[], metavar="PEER.NAME=VALUE,...")
    parser.add_argument(
        "--try",
        action="store_true",
        dest="is_trying",
        help="each peer with the other settings of roster.py too",
    )
    parser.add_argument(
        "--results", type=Path, help="a file of earlier runs, JSON lines, to add to and sum up with"
    )
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    try:
        programs = chosen(
            options.only, options.set, is_trying=options.is_trying, queue=options.queue
        )
    except NoSuchPeer as error:
        parser.error(str(error))
    if not PYTHON.exists():
        parser.error("the peers are not installed: make bench-peers")
    results: list[dict[str, Any]] = []
    if options.results and options.results.exists():
        results = [json.loads(line) for line in options.results.read_text().splitlines()]
        # What was run with the other queue is no run of these. Before there was a choice: quorum.
        results = [
            one
            for one in results
            if one["program"].split()[0] not in {VELTRIX, "limit"}
            or one["settings"].get("queue", "quorum") == options.queue
        ]
    failed = 0
    load = Load(options.seconds, options.batch, options.rate, options.queue)
    with (
        tempfile.TemporaryDirectory(prefix="veltrix-peers-") as folder,
        Ground(Path(folder)) as ground,
    ):
        for _ in range(options.rounds):
            for peer in programs:
                try:
                    found = run(ground, peer, load)
                except Unsettled as error:
                    print(error, file=sys.stderr)
                    failed += 1
                    continue
                results.append(found)
                print(json.dumps(found), file=sys.stdout if options.as_json else sys.stderr)
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(found) + "\n")
    rows = latencies(results) if options.rate else summarise(results)
    shown = latency_table(rows) if options.rate else table(rows)
    print(json.dumps(rows) if options.as_json else shown)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
