"""The demo on real flights: a worker dies at work, the books balance, the table equals the file."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest
from sqlalchemy import Engine, text

from tests.support.processes import is_alive
from tests.support.services import Broker, Services
from veltrix.dev.children import CannotStart
from veltrix.dev.demo import DemoResult, run_demo
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

    result = run_demo(2_000, folder=tmp_path, make_platform=shared)

    assert result.is_ok, result
    assert (result.accepted, result.succeeded, result.failed) == (2_000, 2_000, 0)
    cents = sum(owed_cents(flight) for flight in read_flights(flights_file(), 2_000))
    with transaction(engine) as tx:
        booked = tx.execute(text("select count(*), sum(cents) from flight_compensations")).one()
    assert booked == (2_000, cents)
    printed = capsys.readouterr()
    assert " runs in its hands; started it again" in printed.err
    assert "duplicate effects" in printed.out


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


def test_it_needs_an_event() -> None:
    with pytest.raises(CannotStart, match="at least 1 event"):
        run_demo(0)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_running(tmp_path: Path, how: signal.Signals) -> None:
    code = (
        "import sys, pathlib; from veltrix.dev.demo import run_demo;"
        " run_demo(folder=pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        while "settled" not in demo.stderr.readline():
            pass
        family = psutil.Process(demo.pid).children(recursive=True)

        demo.send_signal(how)
        demo.communicate(timeout=60)

    assert len(family) > 10
    assert not [one.pid for one in family if is_alive(one.pid)]
