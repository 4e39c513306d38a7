"""The guard: whatever arrives is an order of the relay, or malformed; nothing else is raised."""

import json
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.worker.parent.guard import Malformed, letter_of, read_message

ID, OTHER = str(uuid4()), str(uuid4())
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Message:
    """What kombu hands over."""

    def __init__(self, body: Any, headers: Any, **changes: Any) -> None:
        self.body, self.headers = body, headers
        self.content_type: Any = "application/json"
        self.properties: Any = {}
        self.errors: list[Any] = []
        self.delivery_info: Any = {}
        self.__dict__.update(changes)


def body_of(*run_ids: Any) -> bytes:
    return json.dumps([[list(run_ids)], {}, EMBED]).encode()


def test_a_message_of_the_relay_is_read() -> None:
    headers = {"task": "fulfil", "id": ID, "veltrix_bytes": 7, "veltrix_alone": True}

    order = read_message(Message(body_of(ID, OTHER, ID), headers))

    assert (order.task, order.delivery_id) == ("fulfil", ID)
    assert order.run_ids == [ID, OTHER], "a run named twice is one run"
    assert (order.payload_bytes, order.is_alone) == (7, True)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(body_of(ID), None), "no_task"),
        (Message(body_of(ID), {}), "no_task"),
        (Message(body_of(ID), {"task": "a"}), "no_id"),
        (Message(body_of(ID), {"task": 1, "id": ID}), "no_id"),
        (Message(body_of(ID), {"task": "a", "id": "not one"}), "run_ids"),
        (Message(body_of("not one"), {"task": "a", "id": ID}), "run_ids"),
        (Message(body_of(), {"task": "a", "id": ID}), "run_ids"),
        (Message(body_of(7), {"task": "a", "id": ID}), "body"),
        (Message(b"{", {"task": "a", "id": ID}), "body"),
        (Message(b"[[], {}]", {"task": "a", "id": ID}), "body"),
        (Message(b"\xff\xfe", {"task": "a", "id": ID}), "body"),
        (Message("\ud800", {"task": "a", "id": ID}), "body"),
        (Message(None, {"task": "a", "id": ID}), "body"),
        (Message(b"[" * 100_000, {"task": "a", "id": ID}), "body"),
        (Message(body_of(ID), {"task": "a", "id": ID}, content_type="x/pickle"), "content_type"),
        (Message(body_of(ID), {"task": "a", "id": ID}, content_type=None), "content_type"),
        (Message(b"", {"task": "a", "id": ID}, errors=[KeyError("zip")]), "undecodable"),
    ],
)
def test_what_is_malformed_is_called_so(message: Message, reason: str) -> None:
    with pytest.raises(Malformed) as raised:
        read_message(message)

    assert raised.value.reason == reason


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]))
    | st.binary()
    | st.just(ID),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(ID),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
BODIES = (
    st.binary()
    | st.text(st.characters(exclude_categories=[]))
    | st.none()
    | JSON_LIKE.map(lambda value: json.dumps(value).encode())
    | st.lists(JSON_LIKE).map(lambda ids: json.dumps([[ids], {}, EMBED]).encode())
)
HEADERS = ANYTHING | st.fixed_dictionaries(
    {}, optional={"task": ANYTHING, "id": ANYTHING, "veltrix_bytes": ANYTHING, "eta": ANYTHING}
)


@given(
    body=BODIES,
    headers=HEADERS,
    content_type=st.sampled_from(["application/json", None, "text/plain"]) | st.text(),
    properties=ANYTHING,
)
def test_whatever_arrives_raises_nothing_but_malformed_and_can_be_kept(
    body: Any, headers: Any, content_type: Any, properties: Any
) -> None:
    message = Message(body, headers, content_type=content_type, properties=properties)

    try:
        order = read_message(message)
    except Malformed as malformed:
        letter = letter_of(message, "orders", malformed.reason, str(malformed))

        msgspec.json.decode(letter.headers)
        assert letter.detail is not None
        assert letter.detail.isascii()
        assert isinstance(letter.body, bytes)
        msgspec.msgpack.encode(letter)
    else:
        assert order.run_ids
        assert all(len(run_id) == 36 for run_id in order.run_ids)


HANDED = {"token": OTHER, "until_ms": 1, "events": [["\u00e9"]]}


@pytest.mark.parametrize(
    ("info", "is_first"),
    [({"redelivered": False}, True), ({"redelivered": True}, False), ({}, False), (None, False)],
)
def test_what_is_handed_over_is_for_who_has_the_message_first(info: Any, is_first: bool) -> None:
    body = json.dumps([[[ID]], {}, {**EMBED, "veltrix": HANDED}], ensure_ascii=False).encode()
    headers = {"task": "fulfil", "id": ID, "veltrix_token": OTHER}

    order = read_message(Message(body, headers, delivery_info=info))

    assert order.token == OTHER
    assert (order.handed is not None) is is_first
    assert order.handed is None or json.loads(order.handed) == HANDED
    assert order.body == [[[ID]], {}, EMBED], "what Celery shows has no event in it"


@pytest.mark.parametrize("token", [7, "", "no uuid", None, ["a"]])
def test_a_token_that_is_none_is_none(token: Any) -> None:
    order = read_message(Message(body_of(ID), {"task": "a", "id": ID, "veltrix_token": token}))

    assert (order.token, order.handed) == (None, None)
