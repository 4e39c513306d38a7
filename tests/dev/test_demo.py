"""The demo on real flights: a worker dies at work, the books balance, the table equals the file."""

import json
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest
from rich.console import Console
from sqlalchemy import Engine, text

from tests.support.processes import is_alive
from tests.support.services import Broker, Services
from veltrix.dev.children import CannotStart
from veltrix.dev.demo import run_demo
from veltrix.dev.demo_page import page_of
from veltrix.dev.demo_result import Demonstration, DemoResult, Kill, Moment, print_shown
from veltrix.dev.flights import flights_file, owed_cents, read_flights
from veltrix.dev.platform import Platform
from veltrix.store.transactions import transaction

KEYS = (
    "accepted succeeded failed cancelled open unaccounted duplicate_effects workers_killed"
    " seconds events_per_s matches_dataset"
)
GOOD = DemoResult(10, 10, 0, 0, 0, 0, 0, 1, 1.5, 6.7, True)


def test_two_thousand_flights_survive_the_death_of_a_worker_and_are_booked_once_each(
    services: Services,
    database: tuple[str, str],
    broker: Broker,
    engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = partial(
        Platform,
        postgres=services.postgres,
        rabbitmq=services.rabbitmq,
        database=database[0],
        vhost=broker.vhost,
        env={"VELTRIX_HOLD_S": "3"},
    )

    shown = run_demo(2_000, folder=tmp_path, make_platform=shared)
    print_shown(shown, Console())

    result = shown.result
    assert result.is_ok, result
    assert (result.accepted, result.succeeded, result.failed) == (2_000, 2_000, 0)
    cents = sum(owed_cents(flight) for flight in read_flights(flights_file(), 2_000))
    with transaction(engine) as tx:
        booked = tx.execute(text("select count(*), sum(cents) from flight_compensations")).one()
    assert booked == (2_000, cents)
    printed = capsys.readouterr()
    assert re.search(r" [\d,]+ runs? in its hands; started it again\n", printed.err)
    assert re.search(r"\nrecovery: its [\d,]+ runs? settled [\d.]+ s after the kill\n", printed.err)
    assert "duplicate effects" in printed.out
    assert shown.sentence() in printed.out
    (kill,) = [one for one in shown.kills if one.in_hand]
    assert kill.recovery_s is not None
    assert kill.recovery_s > 0
    last = shown.moments[-1]
    assert (last.accepted, last.settled, last.open) == (2_000, 2_000, 0)
    assert [one.at_s for one in shown.moments] == sorted(one.at_s for one in shown.moments)
    assert f"its {kill.runs} settled" in page_of(shown, made="here")


def test_the_last_line_is_json_with_exactly_the_agreed_keys() -> None:
    line = GOOD.as_json_line()

    assert "\n" not in line
    assert list(json.loads(line)) == KEYS.split()


@pytest.mark.parametrize(
    "change",
    [
        {"open": 1},
        {"unaccounted": 1},
        {"duplicate_effects": 1},
        {"workers_killed": 0},
        {"matches_dataset": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_wrong_makes_it_fail(change: dict[str, int]) -> None:
    assert GOOD.is_ok
    assert not msgspec.structs.replace(GOOD, **change).is_ok


def test_the_sentence_tells_what_happened_and_nothing_else() -> None:
    kills = [Kill("worker-1", 1, 0.1, 0), Kill("worker-2", 2, 0.5, 3, recovery_s=8.04)]

    sentence = Demonstration(GOOD, [Moment(1.5, 10, 10, 0)], kills).sentence()

    assert "10 flights were sent" in sentence
    assert (
        "although worker-2 was killed with 3 runs in its hands (settled 8.0 s after the kill)."
        in sentence
    )
    assert "worker-1" not in sentence
    assert "failed" not in sentence
    unlucky = Demonstration(msgspec.structs.replace(GOOD, succeeded=8, failed=2), [], kills)
    assert "2 runs failed and 0 were cancelled." in unlucky.sentence()


def test_the_sentence_of_a_demo_that_failed_claims_nothing() -> None:
    result = msgspec.structs.replace(GOOD, open=1, unaccounted=2, workers_killed=0)

    assert Demonstration(result, [], []).sentence() == (
        "This run does not show what it should: runs without an outcome: 1;"
        " unaccounted in the books: 2; no worker died with runs in its hands."
    )


def test_it_needs_an_event() -> None:
    with pytest.raises(CannotStart, match="at least 1 event"):
        run_demo(0)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_running(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "veltrix.cli", "demo", "--folder", str(tmp_path)]
    page = tmp_path / "page.html"
    with subprocess.Popen(
        [*command, "--page", str(page)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        while "settled" not in demo.stderr.readline():
            pass
        family = psutil.Process(demo.pid).children(recursive=True)

        demo.send_signal(how)
        out, err = demo.communicate(timeout=60)

    assert (demo.returncode, out, page.exists()) == (130, "", False)
    assert "Traceback" not in err
    assert err.endswith("stopped before its end: nothing was shown, nothing runs\n")
    assert len(family) > 10
    assert not [one.pid for one in family if is_alive(one.pid)]
