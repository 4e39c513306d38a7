"""`veltrix events`: what was accepted, starts for the past, and dead letters."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.due_runs import add_runs, subscribe
from veltrix.domain.dead_letters import DeadLetter
from veltrix.pipeline.relay.dead_letter_rows import insert
from veltrix.store.transactions import transaction

NO_EVENT = "00000000-0000-0000-0000-000000000000"


def test_events_are_listed_newest_first_by_filter(veltrix: Veltrix, engine: Engine) -> None:
    add_runs(engine, 2, type_="shop.order.placed")
    unrouted = add_runs(engine, 3, type_="nobody.cares", is_routed=False)

    def listed(*options: str) -> list[str]:
        ran = veltrix("events", "list", "--json", *options)
        assert ran.code == 0
        return [event["event"] for event in ran.json["items"]]

    assert len(listed()) == 5
    assert listed("--unrouted") == unrouted[::-1]
    assert listed("--unrouted", "--type", "nobody.cares") == unrouted[::-1]
    assert len(listed("--routed")) == 2
    assert listed("--source", "/elsewhere") == []
    assert listed("--until", "1h") == []
    assert listed("--limit", "2", "--unrouted") == unrouted[:0:-1]
    assert listed("--after", unrouted[1], "--unrouted") == unrouted[:1]


def test_an_event_is_shown_as_sent_with_its_runs(veltrix: Veltrix, engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1, data='{"cents": 1e2}')
    listed = veltrix("events", "list", "--json").json["items"][0]

    by_our_id = veltrix("events", "show", listed["event"], "--json")
    by_its_own = veltrix("events", "show", listed["id"], "--source", "/tests", "--json")
    text = veltrix("events", "show", listed["event"])

    assert by_our_id.json == by_its_own.json
    assert by_our_id.json["runs"] == [{"id": run_id, "workflow": "fulfil"}]
    assert '"cents": 1e2' in by_our_id.out, "the payload is never changed"
    assert run_id in text.out


def test_no_such_event_is_a_finding(veltrix: Veltrix) -> None:
    assert veltrix("events", "show", NO_EVENT).code == 1
    assert veltrix("events", "show", "order-1", "--source", "/tests").code == 1
    assert veltrix("events", "show", "order-1").code == 2


def test_events_of_the_past_start_a_workflow_once_at_a_rate(
    veltrix: Veltrix, engine: Engine
) -> None:
    add_runs(engine, 30, type_="shop.old", is_routed=False)
    add_runs(engine, 5, type_="shop.other", is_routed=False)
    subscribe(engine, "score", types=["never.sent"])
    start = ["events", "start", "--type", "shop.old", "--workflow", "score", "--since", "1h"]

    asked = veltrix(*start)
    first = veltrix(*start, "--yes", "--json", "--rate", "20")
    again = veltrix(*start, "--yes", "--json")

    assert asked.code == 1, "nobody said yes"
    assert "Start score for 30 events" in asked.err
    assert first.json == {"found": 30, "started": 30}
    assert again.json == {"found": 0, "started": 0}
    assert len(veltrix("runs", "--workflow", "score", "--json").json["items"]) == 30


def test_starting_an_unknown_workflow_is_refused(veltrix: Veltrix) -> None:
    ran = veltrix("events", "start", "--type", "a", "--workflow", "no", "--since", "1h", "--yes")

    assert ran.code == 2
    assert "veltrix workflows list" in ran.err


@pytest.fixture
def letters(engine: Engine) -> list[int]:
    """Three dead letters; the second is no text."""
    bodies = [b'{"a": 1}', b"\x80\x04pickle", b"plain"]
    with transaction(engine) as tx:
        insert(
            tx,
            [
                DeadLetter(
                    queue="orders",
                    reason="malformed",
                    detail="not ours \x1b[2J",
                    content_type=None,
                    headers='{"x": [1]}',
                    body=body,
                    run_ids=[],
                    message_key=f"key-{number}",
                )
                for number, body in enumerate(bodies)
            ],
        )
    return [1, 2, 3]


def test_dead_letters_are_read_exported_and_marked_seen(
    veltrix: Veltrix, letters: list[int], tmp_path: Path
) -> None:
    listed = veltrix("events", "dead-letters", "--json").json
    exported = veltrix("events", "dead-letters", "--export", "dead.ndjson")
    first, second = (veltrix("events", "dead-letter", str(n), "--json").json for n in letters[:2])

    assert [letter["id"] for letter in listed] == letters
    assert exported.code == 0
    lines = (tmp_path / "dead.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in lines] == listed
    assert (first["body"], first["headers"]) == ('{"a": 1}', {"x": [1]})
    assert second["body_base64"] == "gARwaWNrbGU="
    assert "\x1b" not in veltrix("events", "dead-letters").out

    marked = veltrix("events", "seen", "1", "--author", "ann", "--json")
    rest = veltrix("events", "seen", "--up-to", "2", "--json")
    again = veltrix("events", "seen", "--up-to", "2")

    assert (marked.json, rest.json) == ({"marked": 1}, {"marked": 1})
    assert again.code == 1
    unseen = veltrix("events", "dead-letters", "--unseen", "--json").json
    assert [letter["id"] for letter in unseen] == [3]
    assert veltrix("events", "dead-letter", "1", "--json").json["seen_by"] == "ann"


def test_no_such_dead_letter_is_a_finding(veltrix: Veltrix) -> None:
    assert veltrix("events", "dead-letter", "7").code == 1
    assert veltrix("events", "seen").code == 2
