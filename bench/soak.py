"""Soak: half an hour of load; memory and open files of every process must stay flat."""

import argparse
import threading
from collections.abc import Sequence
from time import monotonic

from bench.report import Result, Row, percentiles, progress
from bench.rig import Rig
from bench.usage import Held, held

SAMPLE_S = 10.0
MIB = 2**20
# Between the second and the last quarter: what caches of names, metrics and plans may still fill.
GROWTH_MIB_MAX, GROWTH_SHARE_MAX, FILES_MAX = 4.0, 0.05, 4
Sample = tuple[float, dict[str, Held]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=1_800.0)
    parser.add_argument("--rate", type=float, default=1_200.0, help="events per second")
    parser.add_argument("--batch", type=int, default=10)


def run(options: argparse.Namespace) -> Result:
    """Load in slices of a minute, with a sample every ten seconds."""
    samples: list[Sample] = []
    took: list[float] = []
    is_over = threading.Event()
    with Rig() as rig:
        began = monotonic()

        def watch() -> None:
            while not is_over.wait(SAMPLE_S):
                samples.append((monotonic() - began, held(rig.platform)))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        while (left := options.seconds - (monotonic() - began)) > 1.0:
            sent = rig.trickle([(options.rate, min(60.0, left))], size=options.batch)
            outcomes = rig.outcomes(sent)
            took += [
                outcomes[one.number].committed - one.due for one in sent if one.number in outcomes
            ]
            progress(f"{rig.accepted:,} accepted, {_words(samples)}")
        is_over.set()
        watcher.join()
        books = rig.drain()
    figures = _figures(samples)
    return Result(
        benchmark="soak",
        settings={"seconds": options.seconds, "rate": options.rate, "batch": options.batch},
        figures=figures,
        books=books,
        notes=[f"latency of the first event of each batch, ms: {percentiles(took)}"],
        is_as_promised=bool(figures) and all(row["is flat"] for row in figures),
    )


def _words(samples: Sequence[Sample]) -> str:
    now = samples[-1][1] if samples else {}
    return f"{sum(one.uss for one in now.values()) / MIB:.0f} MiB in {len(now)} processes"


def _figures(samples: Sequence[Sample]) -> list[Row]:
    """By process: medians of the second quarter and of the last; the first one warms up.

    RabbitMQ's helpers come and go and are left out then. A process of anybody else that was not
    there in both was not flat.
    """
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    then, now = ({name for _, one in part for name in one} for part in (second, last))
    names = then & now | {name for name in then | now if not name.startswith("RabbitMQ")}
    return [_figure(name, _middle(second, name), _middle(last, name)) for name in sorted(names)]


def _middle(samples: Sequence[Sample], name: str) -> Held | None:
    found = sorted(one[name] for _, one in samples if name in one)
    files = sorted(one.files for one in found)
    return Held(found[len(found) // 2].uss, files[len(files) // 2]) if found else None


def _figure(name: str, first: Held | None, last: Held | None) -> Row:
    return {
        "process": name,
        "MiB at first": first and round(first.uss / MIB, 1),
        "MiB at last": last and round(last.uss / MIB, 1),
        "files at first": first and first.files,
        "files at last": last and last.files,
        "is flat": first is not None and last is not None and _is_flat(first, last),
    }


def _is_flat(first: Held, last: Held) -> bool:
    allowed = max(GROWTH_MIB_MAX * MIB, GROWTH_SHARE_MAX * first.uss)
    return last.uss - first.uss <= allowed and last.files - first.files <= FILES_MAX
