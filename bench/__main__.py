"""`python -m bench throughput --seconds S` and `python -m bench latency --rate R --seconds S`."""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from app.dev.platform import Platform
from app.store.transactions import make_engine, open_autocommit, transaction
from bench.load import flood, open_loop, precise_loop
from bench.report import address, drain, percentiles, show

_CONNECTIONS_FLOOD = 8
_CONNECTIONS_OPEN = 64
_WARM_S = 3.0
_STARTS = """
select e.sender_id::bigint, extract(epoch from r.claimed_at)::float8,
    extract(epoch from pg_xact_commit_timestamp(r.xmin))::float8
from runs r join events e on e.id = r.event_id where r.state = 'succeeded'
"""


def main() -> int:
    """The exit code of the benchmark asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("benchmark", choices=["throughput", "latency", "load"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=333.0)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument(
        "--open-max", type=int, default=5_000, help="no batch while more runs are open; 0: no bound"
    )
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--target", default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.benchmark == "load":
        return _load(options)
    with tempfile.TemporaryDirectory(prefix="veltrix-bench-") as folder:
        platform = Platform(Path(folder), workflows="bench.flows", children=2)
        platform.open()
        try:
            if options.benchmark == "latency":
                _track_commits(platform)
            platform.wait_ready()
            engine = make_engine(platform.database_url, application="bench", connections_max=2)
            benchmark = _throughput if options.benchmark == "throughput" else _latency
            return benchmark(platform, engine, options)
        finally:
            platform.close()


def _track_commits(platform: Platform) -> None:
    """Let PostgreSQL note when an outcome was committed, not when its statement began."""
    engine = make_engine(platform.database_url, application="bench")
    with open_autocommit(engine) as connection:
        connection.execute(text("alter system set track_commit_timestamp = on"))
    platform.postgres.stop()
    platform.postgres.start()


def _load(options: Any) -> int:
    host, _, port = options.target.partition(":")
    if options.rate > 0:
        sent = open_loop(
            host, int(port), options.rate, options.seconds, _CONNECTIONS_OPEN, options.first
        )
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            print(json.dumps(runner.run(sent)))
    else:
        accepted = flood(
            host, int(port), options.seconds, options.batch, _CONNECTIONS_FLOOD, options.open_max
        )
        print(asyncio.run(accepted))
    return 0


def _send(platform: Platform, options: Any, **changes: Any) -> Any:
    """The load generator in a process of its own."""
    options = argparse.Namespace(**{**vars(options), "first": 0, **changes})
    target = ":".join(map(str, address(platform)))
    arguments = ["load", "--target", target]
    for name in ("rate", "seconds", "batch", "open_max", "first"):
        arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command = [sys.executable, "-m", "bench", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def _throughput(platform: Platform, engine: Engine, options: Any) -> int:
    _send(platform, options, rate=50, seconds=_WARM_S, first=10**12)
    accepted = _send(platform, options, rate=0)
    books, _ = drain(engine, accepted, 120.0)
    with transaction(engine) as tx:
        first, last = tx.execute(
            text(
                "select extract(epoch from min(accepted_at)), extract(epoch from max(r.settled_at))"
                " from events e join runs r on r.event_id = e.id where sender_id::bigint < 10^12"
            )
        ).one()
    return show(
        "throughput",
        {
            "seconds": options.seconds,
            "batch": options.batch,
            "open_max": options.open_max,
            "accepted": accepted,
            "accepted_per_s": round(accepted / options.seconds),
            "settled_per_s": round(accepted / float(last - first)),
            "open": books.runs.open,
            "unaccounted": books.unaccounted,
        },
        as_json=options.as_json,
    )


def _latency(platform: Platform, engine: Engine, options: Any) -> int:
    _send(platform, options, seconds=_WARM_S, first=10**12)
    sent = _send(platform, options)
    books, _ = drain(engine, len(sent), 60.0)
    with transaction(engine) as tx:
        times = {row[0]: (row[1], row[2]) for row in tx.execute(text(_STARTS))}
    known = [(due, answered, *times[number]) for number, due, answered in sent if number in times]
    return show(
        "latency",
        {
            "rate": options.rate,
            "seconds": options.seconds,
            "accepted_per_s": round(len(sent) / options.seconds, 1),
            "settled_per_s": round(len(known) / options.seconds, 1),
            "ack_ms": percentiles([(answered - due) * 1000 for due, answered, _, _ in known]),
            "start_ms": percentiles([(start - due) * 1000 for due, _, start, _ in known]),
            "outcome_ms": percentiles([(end - due) * 1000 for due, _, _, end in known]),
            "open": books.runs.open,
            "unaccounted": books.unaccounted,
        },
        as_json=options.as_json,
    )


if __name__ == "__main__":
    sys.exit(main())
