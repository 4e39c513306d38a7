"""The load is sent when it is due, in modes the api takes."""

import json

from bench.load import due_times, request_of


def test_a_schedule_says_when_each_request_goes() -> None:
    assert due_times([(2.0, 2.0), (4.0, 0.5)]) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.25]
    assert due_times([(10.0, 2.0)], size=10) == [0.0, 1.0]
    assert due_times([]) == []


def test_one_event_is_sent_as_itself_and_more_as_a_batch() -> None:
    head, body = request_of(7, 1).split(b"\r\n\r\n")
    assert b"application/cloudevents+json" in head
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["id"] == "7"

    head, body = request_of(7, 2, "bench.two").split(b"\r\n\r\n")
    assert b"application/cloudevents-batch+json" in head
    assert [(e["id"], e["type"]) for e in json.loads(body)] == [
        ("7", "bench.two"),
        ("8", "bench.two"),
    ]
