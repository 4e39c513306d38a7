"""`/v1/events`: a receipt means committed; what is wrong is named; no bad input is a 500."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine, text

from tests.api.conftest import Api, ApiOf
from tests.support.accepting import PLACED
from tests.support.cut import line_to
from veltrix.store.transactions import transaction

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": PLACED,
    "data": {"order": 17},
}


def event(id_: str = "1", **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (EVENT | {"id": id_} | changes).items() if v is not ...}


def count(engine: Engine, table: str) -> int:
    with transaction(engine) as tx:
        return int(tx.execute(text(f"select count(*) from {table}")).scalar_one())


# What is taken


def test_an_event_gets_a_receipt_and_can_be_read_where_it_says(api: Api, engine: Engine) -> None:
    answer = api.post_event(event(subject="s", myext="x"))

    assert answer.status == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == {
        "id": "1",
        "source": "/shop",
        "event": answer.body["event"],
        "runs": [{"id": answer.body["runs"][0]["id"], "workflow": "fulfil"}],
        "duplicate": False,
    }
    assert count(engine, "runs") == 1
    read = api.get(answer.headers["location"]).body
    assert read.pop("accepted_at")
    assert read == {
        "event": answer.body["event"],
        "source": "/shop",
        "id": "1",
        "type": PLACED,
        "unrouted": False,
        "runs": answer.body["runs"],
        "subject": "s",
        "extensions": {"myext": "x"},
        "data": {"order": 17},
    }


def test_binary_mode_takes_any_content(api: Api) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "a b", "ce-source": "/s", "ce-type": "t"}
    answer = api.request("POST", "/v1/events", b"\x00\xff", headers | {"content-type": "image/png"})

    assert answer.status == 202
    assert api.get(answer.headers["location"]).body["data_base64"] == "AP8="


def test_a_payload_is_given_back_as_sent(api: Api) -> None:
    sent = '{"a": -0, "a" :1e5, "n":18446744073709551616.10}'
    body = json.dumps(event(data=...))[:-1] + f', "data": {sent}}}'
    answer = api.post_event(body.encode())

    assert answer.status == 202
    assert f'"data":{sent}' in api.get(answer.headers["location"]).text


def test_a_batch_gets_an_item_for_each_event_in_the_order_sent(api: Api, engine: Engine) -> None:
    sent = [event("1"), event("2"), event("1"), event("1", data=0)]
    answer = api.post_batch(sent)

    assert answer.status == 207
    assert [item["status"] for item in answer.body["items"]] == [202, 202, 202, 409]
    assert [item.get("duplicate") for item in answer.body["items"]] == [False, False, True, None]
    conflict = answer.body["items"][3]
    assert (conflict["index"], conflict["id"], conflict["source"]) == (3, "1", "/shop")
    assert conflict["event"] == answer.body["items"][0]["event"]
    assert {k: answer.body[k] for k in ("accepted", "duplicates", "refused")} == {
        "accepted": 2,
        "duplicates": 1,
        "refused": 1,
    }
    assert count(engine, "events") == 2


def test_the_status_of_a_batch_says_all_some_or_none(api: Api) -> None:
    assert api.post_batch([event("1"), event("2")]).status == 202
    assert api.post_batch([event("3"), 5]).status == 207
    assert api.post_batch([{}, 5]).status == 400
    assert api.post_batch([]).status == 202
    assert api.post_batch([event("1")]).body["duplicates"] == 1


def test_an_event_that_was_never_sent_is_not_found(api: Api) -> None:
    answer = api.get("/v1/events?" + urlencode({"source": "/x", "id": "1"}))

    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert api.get("/v1/events?source=%00&id=1").status == 400
    assert api.get("/v1/events?source=").status == 400


# The table "What bad input gets"


@pytest.mark.parametrize(
    ("sent", "attribute"),
    [
        (event(id=...), "id"),
        (event(""), "id"),
        (event(source=...), "source"),
        (event(type=""), "type"),
        (event(specversion=...), "specversion"),
        (event(specversion="0.3"), "specversion"),
        (event(time="noon"), "time"),
        (event(data_base64="AA=="), "data_base64"),
    ],
)
def test_what_is_wrong_is_named_alone_and_in_a_batch(
    api: Api, engine: Engine, sent: dict[str, Any], attribute: str
) -> None:
    alone = api.post_event(sent)
    batch = api.post_batch([event("before"), sent, event("after")])

    assert alone.status == 400
    assert alone.headers["content-type"] == "application/problem+json"
    assert alone.body["type"] == "urn:veltrix:problem:bad-event"
    assert alone.body["attribute"] == attribute
    assert batch.status == 207
    assert [item["status"] for item in batch.body["items"]] == [202, 400, 202]
    assert batch.body["items"][1]["attribute"] == attribute
    assert batch.body["items"][1]["index"] == 1
    assert count(engine, "events") == 2


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/xml"])
def test_a_wrong_content_type_is_named(api: Api, content_type: str) -> None:
    answer = api.request("POST", "/v1/events", event(), {"content-type": content_type})

    assert answer.status == 400
    assert answer.body["attribute"] == "content-type"


def test_a_body_that_is_not_json_is_refused(api: Api) -> None:
    assert api.post_event(b"nope").status == 400
    assert api.post_event(b"").status == 400
    assert api.post_batch(b"nope").status == 400
    assert api.post_batch(b'{"a":1}').body["type"] == "urn:veltrix:problem:bad-batch"


def test_the_same_id_with_other_content_is_a_conflict_that_names_the_event(api: Api) -> None:
    first = api.post_event(event()).body
    again, other = api.post_event(event()), api.post_event(event(data=2))

    assert (again.status, again.body) == (202, first | {"duplicate": True})
    assert (other.status, other.body["event"]) == (409, first["event"])


def test_the_same_fact_in_another_mode_is_the_same_event(api: Api) -> None:
    """As SDKs and `curl --data-binary @file` send it: with a last newline, with a charset."""
    head = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": PLACED}
    binary = head | {"content-type": "application/json; charset=utf-8"}
    first = api.request("POST", "/v1/events", b'{"order":17}\n', binary)
    again = [
        api.post_event(
            event(data=..., data_base64="eyJvcmRlciI6MTd9", datacontenttype="application/json")
        ),
        api.request(
            "POST", "/v1/events", b' {"order":17}', head | {"content-type": "Application/JSON"}
        ),
        api.request("POST", "/v1/events", b'{"order": 17}', binary),
    ]

    assert first.status == 202
    assert [answer.status for answer in again] == [202, 202, 409]
    assert again[0].body == again[1].body == first.body | {"duplicate": True}


def test_an_event_or_batch_over_its_limit_is_refused_whole(engine: Engine, api_of: ApiOf) -> None:
    api = api_of(event_bytes_max=65_536, batch_bytes_max=200_000, batch_events_max=3)
    large = event("large", data="x" * 70_000)
    answers = [
        api.post_event(large),
        api.post_batch([event("a"), large]),
        api.post_batch([event(str(i)) for i in range(4)]),
        api.post_batch([event(str(i), data="x" * 60_000) for i in range(4)]),
    ]

    assert [answer.status for answer in answers] == [413] * 4
    assert {answer.body["type"] for answer in answers} == {"urn:veltrix:problem:too-large"}
    assert count(engine, "events") == 0


def test_an_event_of_64_kib_is_taken(api: Api) -> None:
    assert api.post_event(event(data="x" * 65_536)).status == 202


def test_a_body_without_announced_length_is_read_no_further_than_its_limit(api_of: ApiOf) -> None:
    api = api_of(event_bytes_max=65_536)
    head = (
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\n"
        "content-type: application/cloudevents+json\r\n"
        "transfer-encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as line:
        line.sendall(head.encode() + b"10000\r\n" + b"x" * 65_536 + b"\r\n1\r\nx\r\n")
        answered = line.recv(65_536)  # though the body has not ended

    assert answered.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ('"\\u0000"', 202),
        ('"\\ud800"', 400),
        ("18446744073709551616", 202),
        ("1e400", 400),
        ("9" * 5_000, 400),
        ("[" * 1_000 + "]" * 1_000, 400),
        ("[" * 20_000 + "]" * 20_000, 400),
        ('{"a":1,"a":2}', 202),
    ],
)
def test_odd_values_get_a_receipt_or_a_400_and_refuse_no_neighbour(
    api: Api, data: str, status: int
) -> None:
    odd = (json.dumps(event("odd", data=...))[:-1] + f',"data":{data}}}').encode()
    batch = b"[" + b",".join([json.dumps(event("a")).encode(), odd, odd]) + b"]"
    items = api.post_batch(batch).body["items"]

    assert [item["status"] for item in items] == [202, status, status]
    assert api.post_event(odd).status == status


def test_odd_attributes_get_a_400_and_refuse_no_neighbour(api: Api) -> None:
    for odd in (event("a\x00"), event("x" * 6_000), event(subject="\x00"), event(id=5)):
        items = api.post_batch([event("good"), odd]).body["items"]

        assert [item["status"] for item in items] == [202, 400]


def test_while_the_database_is_away_nothing_is_accepted(
    engine: Engine, database_url: str, api_of: ApiOf
) -> None:
    with line_to(database_url) as line:
        api = api_of(url=line.url)
        assert api.post_event(event("1")).status == 202
        line.take_down()
        answers = [api.post_event(event("2")), api.post_batch([event("3"), event("4")])]

        assert [answer.status for answer in answers] == [503, 503]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        assert api.get("/readyz").status == 503
        assert api.get("/livez").status == 200
        line.bring_up()
        assert api.post_event(event("2")).status == 202
    assert count(engine, "events") == 2


def test_more_bodies_than_may_wait_are_refused(api_of: ApiOf) -> None:
    api = api_of()
    api.services.acceptor.stop()
    answer = api.post_event(event())

    assert answer.status == 503
    assert answer.headers["retry-after"]


def test_a_wrong_method_or_path_is_a_problem(api: Api) -> None:
    for answer, status in ((api.request("PUT", "/v1/events"), 405), (api.get("/nope"), 404)):
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("rest", [b"", b",nope"], ids=["valid", "with an item that is no JSON"])
def test_while_a_large_batch_is_read_others_are_answered(api: Api, rest: bytes) -> None:
    """One batch of 15 events of a megabyte each kept everybody waiting for five seconds."""
    small = b"[" + b",".join([b'{"a":1}'] * 125_000) + b"]"
    items = [
        b'{"specversion":"1.0","id":"%d","source":"/s","type":"t","subject":"\\u0041","data":%b}'
        % (number, small)
        for number in range(8)
    ]
    kind = {"content-type": "application/cloudevents-batch+json"}
    body = b"[" + b",".join(items) + rest + b"]"
    answered = 0
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(api.request, "POST", "/v1/events", body, kind)
        while not sent.done():
            assert api.get("/livez").status == 200
            answered += 1

    assert sent.result().status == (207 if rest else 202)
    assert answered > len(items), "they were answered between its events"


def test_a_large_list_of_inputs_is_refused_by_its_length_alone(api: Api) -> None:
    many = b'{"inputs":[' + b"1," * 200_000 + b"1]}"
    answer = api.request("POST", "/v1/workflows/fulfil/runs", many)

    assert (answer.status, answer.body["type"]) == (413, "urn:veltrix:problem:too-large")
