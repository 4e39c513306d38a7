"""What a sender compressed is taken as it was before, within the limits of that."""

import gzip
import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zstandard

from tests.api.conftest import Api, ApiOf
from tests.api.test_events import event


def raw_deflate(body: bytes) -> bytes:
    writer = zlib.compressobj(wbits=-15)
    return writer.compress(body) + writer.flush()


PACKS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "DEFLATE": raw_deflate,
    "zstd": zstandard.ZstdCompressor().compress,
}
BINARY = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t"}


def data_of(api: Api, source: str, id_: str) -> Any:
    return api.get(f"/v1/events?source={source}&id={id_}").body


@pytest.mark.parametrize("coding", PACKS)
def test_a_compressed_body_is_what_it_was(api: Api, coding: str) -> None:
    pack, headers = PACKS[coding], {"content-encoding": coding}
    structured = {"content-type": "application/cloudevents+json"}
    batch = {"content-type": "application/cloudevents-batch+json"}

    one = json.dumps(event("one")).encode()
    assert api.request("POST", "/v1/events", pack(one), structured | headers).status == 202
    many = json.dumps([event(str(n)) for n in range(500)]).encode()
    told = api.request("POST", "/v1/events", pack(many), batch | headers)
    assert (told.status, len(told.body["items"])) == (202, 500)
    text = {"content-type": "text/plain", "ce-id": "text"}
    assert api.request("POST", "/v1/events", pack(b"hello"), BINARY | text | headers).status == 202
    assert data_of(api, "/s", "text")["data_base64"] == "aGVsbG8="
    start = json.dumps({"input": {"order": 1}}).encode()
    json_type = {"content-type": "application/json"}
    path = "/v1/workflows/fulfil/runs"
    assert api.request("POST", path, pack(start), json_type | headers).status == 202


def test_a_plain_body_may_say_so(api: Api) -> None:
    assert api.post_event(event("plain"), **{"content-encoding": "identity"}).status == 202


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "compress", "x"])
def test_any_other_coding_is_415_and_says_what_would_do(api: Api, coding: str) -> None:
    answer = api.post_event(event("other"), **{"content-encoding": coding})

    assert answer.status == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert "gzip, deflate, zstd" in answer.body["detail"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_413_and_costs_little(api_of: ApiOf, coding: str) -> None:
    api = api_of()
    bomb = PACKS[coding](b"\0" * 200_000_000)
    headers = {"content-type": "application/cloudevents+json", "content-encoding": coding}

    answer = api.request("POST", "/v1/events", bomb, headers)

    assert answer.status == 413
    assert "1,048,576 bytes" in answer.body["detail"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("wrong", ["cut", "other", "tail"])
def test_what_cannot_be_read_is_400_in_words(api: Api, coding: str, wrong: str) -> None:
    good = PACKS[coding](json.dumps(event("bad")).encode())
    body = {"cut": good[:-3], "other": b"{}" * 20, "tail": good + b"tail"}[wrong]
    headers = {"content-type": "application/cloudevents+json", "content-encoding": coding}

    answer = api.request("POST", "/v1/events", body, headers)

    assert (answer.status, answer.body["type"]) == (400, "urn:veltrix:problem:bad-encoding")
    assert f"is not valid {coding}" in answer.body["detail"]


def test_members_of_gzip_one_after_the_other_are_one_body(api: Api) -> None:
    whole = json.dumps(event("members")).encode()
    body = gzip.compress(whole[:20]) + gzip.compress(whole[20:])
    headers = {"content-type": "application/cloudevents+json", "content-encoding": "gzip"}

    assert api.request("POST", "/v1/events", body, headers).status == 202


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_very_many_small_parts_are_refused_and_nobody_waits_for_them(api: Api, coding: str) -> None:
    body = PACKS[coding](b"") * 300_000
    headers = {"content-type": "application/cloudevents-batch+json", "content-encoding": coding}

    answer = api.request("POST", "/v1/events", body, headers)

    assert answer.status == 400
    assert "more than 1,000 parts" in answer.body["detail"]


def test_after_many_that_few_bytes_became_there_is_room_again(api_of: ApiOf) -> None:
    api = api_of(accept_waiting_bytes_max=16 * 1024 * 1024)
    body = gzip.compress(b"[" + b"0," * 4_000_000 + b"0]")
    headers = {"content-type": "application/cloudevents-batch+json", "content-encoding": "gzip"}

    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda _: api.request("POST", "/v1/events", body, headers).status, range(12))
        )

    assert set(answers) <= {413, 503}
    assert api.post_event(event("after")).status == 202
