"""Hostile: honest senders alone, and beside two thousand sockets of dishonest ones."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.hostile_load import KINDS, MIB, event_with, worst_payloads
from bench.load import Sent
from bench.report import Result, Row, percentiles, progress
from bench.rig import Rig
from veltrix.access import keys
from veltrix.access.scopes import Scope
from veltrix.bootstrap import collect_rarely
from veltrix.pipeline.accept.cloudevents import parse_structured
from veltrix.store.transactions import transaction

SENDERS = 300
TIMES_MAX = 3.0
PAYLOAD_MS_MAX = 20.0
ADMIN, WRITER, UNKNOWN = "a" * 43, "w" * 43, "u" * 43


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--rate", type=float, default=300.0, help="honest events per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the three parts")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which")


def run(options: argparse.Namespace) -> Result:
    """By turns: alone, beside them, alone."""
    schedule = [(options.rate, options.seconds)]
    with tempfile.TemporaryDirectory() as folder, _rig(Path(folder)) as rig:
        load: dict[str, Any] = {"connections": SENDERS, "authorization": ADMIN}
        progress("alone")
        alone = rig.trickle(schedule, **load)
        with _hostile(rig.platform.api_url, options.kinds) as told:
            count = sum(KINDS[kind].sockets for kind in options.kinds)
            progress(f"beside {count:,} hostile sockets")
            beside = rig.trickle(schedule, **load)
        progress("alone again")
        after = rig.trickle(schedule, **load)
        rig.accepted += told.get("worst payload", {}).get("202", 0)
        # Answers to the last of the hostile ones were on their way when they ended.
        rig.accepted = max(rig.accepted, rig.drain().accepted)
        books = rig.books()
    figures = [_row("alone", alone), _row("beside", beside), _row("alone again", after)]
    calm = max(figures[0]["ack p99"], figures[2]["ack p99"])
    collect_rarely()  # as an api does
    costs = [_cost_of(payload) for payload in worst_payloads(MIB)]
    return Result(
        benchmark="hostile",
        settings={"rate": options.rate, "seconds": options.seconds, "honest senders": SENDERS},
        figures=figures,
        books=books,
        notes=[
            *(f"{kind}: {json.dumps(counts)}" for kind, counts in told.items()),
            f"payloads of 1 MiB, ms of processor time: {', '.join(f'{c:.1f}' for c in costs)}",
        ],
        is_as_promised=figures[1]["ack p99"] <= TIMES_MAX * calm
        and all(row["refused"] == 0 for row in figures)
        and max(costs) <= PAYLOAD_MS_MAX,
    )


def _row(part: str, sent: Sequence[Sent]) -> Row:
    answered = [one.answered - one.due for one in sent if one.answered]
    return {
        "part": part,
        "events": len(sent),
        "refused": len(sent) - len(answered),
        **percentiles(answered, "ack "),
    }


def _cost_of(payload: bytes) -> float:
    """Milliseconds of processor time that an api takes to judge it; the best of five."""
    event = event_with(payload, 0)
    costs = []
    for _ in range(5):
        began = time.process_time()
        parse_structured(event)
        costs.append((time.process_time() - began) * 1000)
    return min(costs)


@contextmanager
def _rig(folder: Path) -> Iterator[Rig]:
    """A platform that asks for keys, and has one for each of them."""
    file = folder / "admin_key"
    file.touch(mode=0o600)
    file.write_text(ADMIN, encoding="utf-8")
    env = {"VELTRIX_REQUIRE_KEYS": "true", "VELTRIX_ADMIN_KEY_FILE": str(file)}
    with Rig(env=env, authorization=ADMIN, is_tracked=False) as rig:
        with transaction(rig.engine) as tx:
            keys.create(tx, "hostile", [Scope.EVENTS_WRITE], "bench", WRITER)
        yield rig


@contextmanager
def _hostile(url: str, kinds: Sequence[str]) -> Iterator[dict[str, dict[str, int]]]:
    """They are there inside the block; after it the dict says what they did."""
    tokens = {"writer": WRITER, "unknown": UNKNOWN}
    command = [sys.executable, "-m", "bench.hostile_load", "--target", url, "--kinds", *kinds]
    told: dict[str, dict[str, int]] = {}
    with subprocess.Popen(
        [*command, "--keys", json.dumps(tokens)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "connected\n"
            yield told
        finally:
            process.terminate()
        told |= json.loads(process.stdout.readline())
