"""What `python -m bench.peers` decides without running anything."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.load import event_json
from bench.peers.front import parse
from bench.peers.roster import PEERS, VELTRIX, NoSuchPeer, chosen
from bench.peers.summary import (
    Tally,
    Unsettled,
    judge,
    latencies,
    latency_table,
    summarise,
    table,
)

ROOT = Path(__file__).resolve().parents[2]


def names(programs: list[object]) -> list[str]:
    return [getattr(program, "name", VELTRIX) for program in programs]


def test_every_program_has_its_turn_in_a_round_veltrix_first() -> None:
    assert list(dict.fromkeys(names([*chosen("", [])]))) == [VELTRIX, *PEERS]


def test_a_peer_is_followed_by_what_is_run_beside_it_unless_it_was_set() -> None:
    both = chosen("plain_celery", [])

    assert [peer and peer.label for peer in both] == ["", "chunk=1,publishers=4"]
    assert len(chosen("plain_celery", ["plain_celery.chunk=1"])) == 1


def test_only_those_asked_for_run_in_the_order_asked_for() -> None:
    assert names([*chosen("limit,veltrix", [])]) == ["limit", VELTRIX]


@pytest.mark.parametrize(
    ("only", "settings", "named"),
    [
        ("celery", [], "celery"),
        ("", ["limit.speed=9"], "speed"),
        ("limit", ["on_dbos.poll_ms=5"], "on_dbos"),
        ("", ["veltrix.children=4"], "veltrix"),
        ("", ["limit.prefetch"], "prefetch"),
    ],
)
def test_what_the_roster_does_not_have_is_refused_by_name(
    only: str, settings: list[str], named: str
) -> None:
    with pytest.raises(NoSuchPeer, match=named):
        chosen(only, settings)


def test_a_setting_reaches_commands_and_environment_and_the_label() -> None:
    (peer,) = chosen("plain_celery", ["plain_celery.pool=prefork,prefetch=7,workers=1"])

    assert peer is not None
    commands = peer.commands(8000)
    assert set(commands) == {"front", "relay", "worker-1"}
    assert "prefork" in commands["worker-1"]
    assert peer.environment()["PEER_PREFETCH"] == "7"
    assert peer.label == "pool=prefork,prefetch=7,workers=1"
    assert PEERS["plain_celery"].label == "", "the roster itself is as it was"


@pytest.mark.parametrize("queue", ["classic", "quorum"])
def test_the_limit_has_a_queue_of_veltrixs_type_and_says_so(queue: str) -> None:
    (limit,) = chosen("limit", ["limit.prefetch=8"], queue=queue)

    assert limit is not None
    assert limit.environment()["PEER_QUEUE"] == queue
    assert queue in limit.broker


@pytest.mark.parametrize("name", list(PEERS))
def test_every_command_and_every_other_setting_of_a_peer_can_be_filled_in(name: str) -> None:
    programs = chosen(name, [], is_trying=True)

    assert len(programs) == 1 + len(PEERS[name].tries)
    for peer in programs:
        assert peer is not None
        assert not [part for parts in peer.commands(1).values() for part in parts if "{" in part]


def test_a_peer_without_a_broker_has_no_relay() -> None:
    assert "relay" not in PEERS["on_dbos"].commands(1)


def test_the_front_takes_what_the_load_generator_sends() -> None:
    batch = f"[{event_json(1)},{event_json(2)}]".encode()

    many = parse(batch, "application/cloudevents-batch+json")
    one = parse(event_json(3).encode(), "application/cloudevents+json")

    assert [event.id for event in many] == ["1", "2"]
    assert [event.id for event in one] == ["3"]
    assert one[0].body == '{"n":3,"text":"some words of an ordinary length"}'


def test_a_run_in_which_all_is_settled_once_and_right_has_a_rate() -> None:
    assert judge(490, Tally(500, 500, 500, 10.0, 12.5))["rate"] == 200


@pytest.mark.parametrize(
    "found",
    [
        Tally(480, 480, 480, 10.0, 12.5),
        Tally(500, 499, 499, 10.0, 12.5),
        Tally(500, 500, 499, 10.0, 12.5),
        Tally(0, 0, 0, None, None),
    ],
    ids=["lost after its 202", "not settled", "settled wrongly", "nothing at all"],
)
def test_a_run_that_lost_or_falsified_an_event_has_none(found: Tally) -> None:
    with pytest.raises(Unsettled):
        judge(490 if found.accepted else 0, found)


def test_medians_and_ratios_are_of_all_runs_fastest_first() -> None:
    rates = {"on_dbos": [90, 100, 300], VELTRIX: [900, 1000]}
    runs = [{"program": name, "rate": rate} for name, found in rates.items() for rate in found]

    first, second = summarise(runs)

    assert (first["program"], first["median"], first["veltrix_is"]) == (VELTRIX, 950, 1.0)
    assert (second["median"], second["least"], second["greatest"]) == (100, 90, 300)
    assert second["veltrix_is"] == 9.5
    assert "| on_dbos | 3 | 100 | 90 to 300 | 9.5 x |" in table([first, second])


def test_without_veltrix_in_the_runs_there_is_no_ratio() -> None:
    (row,) = summarise([{"program": "limit", "rate": 5}])

    assert "veltrix_is" not in row
    assert table([row]).endswith("| limit | 1 | 5 | 5 to 5 |  |")


def test_the_peers_are_locked_and_apart_from_the_product() -> None:
    folder = ROOT / "bench" / "peers"
    wanted = [
        Requirement(line)
        for line in (folder / "requirements.in").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    lock = (folder / "requirements.txt").read_text(encoding="utf-8")
    ours = (ROOT / "requirements.txt").read_text(encoding="utf-8")

    assert [one.name for one in wanted if f"\n{one.name}==" not in lock] == []
    assert not [
        name for name in ("dbos", "dramatiq", "procrastinate", "taskiq") if f"{name}==" in ours
    ]


def test_latencies_are_medians_of_runs_and_no_rates() -> None:
    runs: list[dict[str, object]] = [
        {"program": "limit", "rate": 333.0, "p50": p50, "p99": 9.0} for p50 in (3.0, 4.0, 8.0)
    ]
    runs += [{"program": "on_dbos", "rate": 300.0}]

    rows = latencies(runs)

    assert rows == [{"program": "limit", "runs": 3, "p50": 4.0, "p99": 9.0}]
    assert latency_table(rows).endswith("| limit | 3 | 4.0 | 9.0 |")
    assert [row["program"] for row in summarise(runs)] == ["on_dbos"]
