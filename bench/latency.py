"""Latency: an open loop of single events; from the turn of each to its 202, start and outcome."""

import argparse
from collections.abc import Sequence

from bench.load import Sent
from bench.report import Result, Row, percentiles, progress, us_per_event
from bench.rig import Outcome, Rig, add_queue_option
from bench.usage import cpu_between, cpu_seconds

RATES = (33.0, 333.0, 1_000.0, 2_000.0, 3_333.0)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--rate", type=float, action="append", help="per second; may be repeated")
    parser.add_argument("--seconds", type=float, default=30.0)
    add_queue_option(parser)


def run(options: argparse.Namespace) -> Result:
    """Each rate in turn, on one platform."""
    figures: list[Row] = []
    each: Row = {}
    rates: Sequence[float] = options.rate or RATES
    with Rig(queue_type=options.queue) as rig:
        for rate in rates:
            progress(f"{rate:g} events/s for {options.seconds:g} s")
            rig.trickle([(rate, 3.0)])
            before = cpu_seconds(rig.platform)
            sent = rig.trickle([(rate, options.seconds)])
            cpu = cpu_between(before, cpu_seconds(rig.platform))
            rig.drain()
            figures += rows(rate, sent, rig.outcomes(sent))
            each = us_per_event(cpu, len(sent))
            figures[-1] = {**figures[-1], "us_cpu_per_event": each["together"]}
        books = rig.books()
    settings = {
        "rates": list(rates),
        "seconds": options.seconds,
        "requests": "single events",
        "queue": options.queue,
    }
    return Result(
        benchmark="latency",
        settings=settings,
        figures=figures,
        books=books,
        us_per_event=each if len(rates) == 1 else {},
    )


def rows(rate: float, sent: Sequence[Sent], outcomes: dict[int, Outcome]) -> list[Row]:
    """Milliseconds from the turn of each event: to the 202, to its claim, to its outcome."""
    known = [(one, outcomes[one.number]) for one in sent if one.number in outcomes]
    until = {
        "ack": [one.answered - one.due for one in sent if one.answered],
        "start": [outcome.started - one.due for one, outcome in known],
        "outcome": [outcome.committed - one.due for one, outcome in known],
    }
    return [
        {"rate": rate, "until": name, "events": len(values), **percentiles(values)}
        for name, values in until.items()
    ]
