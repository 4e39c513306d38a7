"""A message is at most one list of one workflow; it carries ids, and what is handed over."""

import json

import pytest
from amqp.serialization import decode_properties_basic
from annotated_types import Le

from veltrix.broker.handed import may_travel, pack_event
from veltrix.broker.message import (
    HANDED,
    MESSAGE_BYTES_MAX,
    ListLimits,
    messages_for,
    run_ids_in,
    without_events,
)
from veltrix.domain.due import DueRun, Lease
from veltrix.domain.events import NewEvent
from veltrix.settings.fields import Settings

LIMITS = ListLimits(runs_max=250, runs_unmeasured=8, bytes_max=1_000, work_s=0.05)


def runs(count: int, workflow: str = "fulfil", **fields: object) -> list[DueRun]:
    return [
        DueRun(f"0192f0c1-1111-7111-8111-{n:012}", workflow, "orders", **fields)  # type: ignore[arg-type]
        for n in range(count)
    ]


def sizes(due: list[DueRun], occupied_s: dict[str, float]) -> list[int]:
    return [len(m.run_ids) for m in messages_for(due, "relay@test", LIMITS, occupied_s)]


def test_an_unmeasured_workflow_starts_with_short_lists() -> None:
    assert sizes(runs(20), {}) == [8, 8, 4]


def test_a_measured_one_is_bounded_by_its_work() -> None:
    assert sizes(runs(20), {"fulfil": 0.005}) == [10, 10]


@pytest.mark.parametrize(("occupied_s", "first"), [(0.0, 250), (0.0002, 250), (1.0, 1)])
def test_a_list_is_never_empty_and_never_above_its_count(occupied_s: float, first: int) -> None:
    assert sizes(runs(300), {"fulfil": occupied_s})[0] == first


def test_payload_bounds_a_list_and_one_large_run_still_travels() -> None:
    due = [*runs(3, payload_bytes=400), DueRun("x" * 36, "fulfil", "orders", 5_000)]

    assert sizes(due, {"fulfil": 0.0}) == [2, 1, 1]


def test_workflows_and_queues_share_no_message() -> None:
    due = runs(2) + runs(2, "refund") + [DueRun("y" * 36, "fulfil", "mails")]
    messages = messages_for(due, "relay@test", LIMITS, {})

    assert [(m.queue, m.workflow, len(m.run_ids)) for m in messages] == [
        ("orders", "fulfil", 2),
        ("orders", "refund", 2),
        ("mails", "fulfil", 1),
    ]


def test_every_run_is_in_exactly_one_message() -> None:
    due = runs(500)
    messages = messages_for(due, "relay@test", LIMITS, {"fulfil": 0.001})

    assert [id_ for m in messages for id_ in m.run_ids] == [run.id for run in due]


def test_the_body_names_its_runs() -> None:
    (message,) = messages_for(runs(3), "relay@test", LIMITS, {})

    assert run_ids_in(message.body) == message.run_ids
    assert json.loads(message.body)[0] == [message.run_ids]


def test_its_properties_are_those_of_celerys_protocol() -> None:
    due = runs(2, payload_bytes=7)
    (message,) = messages_for(due, "relay@test", LIMITS, {})

    properties, end = decode_properties_basic(message.properties, 0)

    assert end == len(message.properties)
    assert properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "message_id": due[0].id,
        "application_headers": {
            "lang": "py",
            "task": "fulfil",
            "id": due[0].id,
            "root_id": due[0].id,
            "parent_id": None,
            "group": None,
            "argsrepr": f"{due[0].id},{due[1].id}",
            "kwargsrepr": "{}",
            "origin": "relay@test",
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "ignore_result": True,
            "veltrix_bytes": 14,
            "veltrix_alone": False,
        },
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"{}",
        b"[1, 2, 3]",
        b"[[1], {}, {}]",
        b'[[["not-a-uuid"]], {}, {}]',
        b"[" * 50_000,
        b'[[["\\ud800"]], {}, {}]',
    ],
)
def test_a_foreign_body_names_none(body: bytes) -> None:
    assert run_ids_in(body) == []


def test_the_largest_message_is_far_below_what_rabbitmq_takes() -> None:
    bounds = Settings.model_fields["list_runs_max"].metadata
    (runs_max,) = [bound.le for bound in bounds if isinstance(bound, Le)]
    assert isinstance(runs_max, int)
    limits, name = ListLimits(runs_max, 1, bytes_max=1_000, work_s=1.0), "w" * 200

    (message,) = messages_for(runs(runs_max, name), "relay@test", limits, {name: 0.0})

    assert len(message.body) + len(message.properties) < MESSAGE_BYTES_MAX / 4


LEASE = Lease("0192f0c1-2222-4222-8222-000000000000", 1_790_000_000_000)
WIDE = ListLimits(runs_max=250, runs_unmeasured=250, bytes_max=2**24, work_s=0.05)


def handed(count: int, data: str = "{}", lease: Lease = LEASE) -> list[DueRun]:
    event = NewEvent(source="/shop", id="1", type="placed", digest=b"", data_json=data)
    return [
        DueRun(run.id, run.workflow, run.queue, len(data), False, lease, pack_event(run.id, event))
        for run in runs(count)
    ]


def test_what_is_handed_over_travels_apart_and_names_its_token() -> None:
    other = Lease("0192f0c1-3333-4333-8333-000000000000", 0)
    due = [*handed(2), *runs(2), *handed(2, lease=other)]

    messages = messages_for(due, "api@test", WIDE, {}, b"key")

    tokens = [
        decode_properties_basic(m.properties, 0)[0]["application_headers"].get("veltrix_token")
        for m in messages
    ]
    assert tokens == [LEASE.token, None, other.token]
    assert [HANDED in json.loads(m.body)[2] for m in messages] == [True, False, True]
    assert run_ids_in(messages[0].body) == messages[0].run_ids


def test_a_message_carries_no_more_events_than_rabbitmq_takes_and_none_is_left_out() -> None:
    due = handed(250, json.dumps("é" * 3_500, ensure_ascii=False))

    messages = messages_for(due, "api@test", WIDE, {}, b"key")

    assert all(len(m.body) < MESSAGE_BYTES_MAX * 3 / 4 for m in messages)
    assert len(messages) > 1
    carried = [e[0] for m in messages for e in json.loads(m.body)[2][HANDED]["events"]]
    assert carried == [run.id for run in due]


def test_a_dead_letter_keeps_the_ids_and_not_the_events() -> None:
    (message,) = messages_for(handed(2, '"secret"'), "api@test", WIDE, {}, b"key")
    assert b"secret" in message.body

    kept = without_events(message.body)

    assert b"secret" not in kept
    assert run_ids_in(kept) == message.run_ids


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[1, 2]", b'[[], {}, {"veltrix": 7}]', b"[" * 9_999]
)
def test_another_body_is_kept_as_it_is(body: bytes) -> None:
    assert without_events(body) == body


@pytest.mark.parametrize(
    ("fields", "travels"),
    [
        ({"data_json": "{}"}, True),
        ({}, True),
        ({"data_json": '"' + "x" * 8_192 + '"'}, False),
        ({"data_json": "1", "extensions": json.dumps({"a": "x" * 8_192})}, False),
        ({"data_json": "1", "subject": "x" * 8_192}, False),
        ({"data_binary": b"1"}, False),
    ],
)
def test_what_is_large_or_no_json_stays_in_the_ledger(
    fields: dict[str, object], travels: bool
) -> None:
    event = NewEvent(source="/shop", id="1", type="placed", digest=b"", **fields)  # type: ignore[arg-type]

    assert may_travel(event, Settings().handed_bytes_max) is travels
