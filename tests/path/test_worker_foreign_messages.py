"""Messages the relay did not send (W09, W10, W11): the worker lives, and each becomes a row."""

import gzip
import json
from collections import Counter
from typing import Any
from uuid import uuid4

import pika
import psutil

from tests.path.seen import Scene
from tests.support.wait import until

ID = str(uuid4())
BODY = json.dumps([[[ID]], {}, {}]).encode()
HEADERS = {"task": "act", "id": ID}
UNKNOWN = str(uuid4())
UNKNOWN_BODY = json.dumps([[[UNKNOWN]], {}, {}]).encode()


def of(body: bytes, headers: Any, **properties: Any) -> tuple[bytes, pika.BasicProperties]:
    """A message as a foreign publisher would make it."""
    values = {"content_type": "application/json", "content_encoding": "utf-8"} | properties
    return body, pika.BasicProperties(headers=headers, **values)


BOMB = gzip.compress(bytes(300_000_000))
FOREIGN = {
    "undecodable JSON": of(b"{no json", HEADERS),
    "not UTF-8": of(b"[[[\xff\xfe", HEADERS),
    "unknown compression": of(BODY, HEADERS | {"compression": "zstandard-9"}),
    "known compression, other content": of(BODY, HEADERS | {"compression": "application/x-gzip"}),
    "a bomb": of(
        gzip.compress(bytes(300_000_000)), HEADERS | {"compression": "application/x-gzip"}
    ),
    "pickle": of(b"\x80\x04N.", HEADERS, content_type="application/x-python-serialize"),
    "unknown content type": of(BODY, HEADERS, content_type="text/x-unheard-of"),
    "no content type": (BODY, pika.BasicProperties(headers=HEADERS)),
    "bad eta": of(BODY, HEADERS | {"eta": "tomorrow", "expires": "never"}),
    "unknown task": of(UNKNOWN_BODY, {"task": "nobody.knows.it", "id": UNKNOWN}),
    "no id": of(BODY, {"task": "act"}),
    "no headers": of(BODY, None),
    "no properties": (BODY, pika.BasicProperties()),
    "protocol 1": of(json.dumps({"task": "act", "id": ID, "args": [], "kwargs": {}}).encode(), {}),
    "body is no 3-list": of(json.dumps([[ID], {}]).encode(), HEADERS),
    "body is a number": of(b"7", HEADERS),
    "empty body": of(b"", HEADERS),
    "deep body": of(b"[" * 5_000 + b"]" * 5_000, HEADERS),
    "run ids are no UUIDs": of(json.dumps([[["a", "b"]], {}, {}]).encode(), HEADERS),
    "run ids are numbers": of(json.dumps([[[1, 2]], {}, {}]).encode(), HEADERS),
    "no run ids": of(json.dumps([[[]], {}, {}]).encode(), HEADERS),
    "id is no UUID": of(BODY, HEADERS | {"id": "x" * 36}),
    "task is a number": of(BODY, HEADERS | {"task": 7}),
    "task is a table": of(BODY, HEADERS | {"task": {"a": "b"}}),
}
# Strange, but the relay's shape: worked on, and nothing comes of a run that does not exist.
HARMLESS = {
    "unknown encoding": of(BODY, HEADERS, content_encoding="utf-99"),
    "bad time limits": of(BODY, HEADERS | {"timelimit": "long", "retries": "many"}),
    "a run nobody knows": of(BODY, HEADERS),
}


def test_each_foreign_message_leaves_a_row_and_the_worker_goes_on(steady: Scene) -> None:
    seen = steady
    worker = seen.platform.processes["worker-1"]

    with pika.BlockingConnection(pika.URLParameters(seen.platform.broker_url)) as connection:
        channel = connection.channel()
        for body, properties in [*FOREIGN.values(), *HARMLESS.values()]:
            channel.basic_publish("veltrix.runs", "path", body, properties)
    run_ids = seen.add([["note"]], 50)

    assert seen.wait_settled(run_ids) == Counter(succeeded=50)
    rows = until(
        lambda: found if len(found := letters(seen)) >= len(FOREIGN) else None,
        what="a row for each",
    )
    assert Counter(rows) == Counter(body for body, _ in FOREIGN.values())
    assert worker.is_running
    assert seen.began_once(1, run_ids)
    until(lambda: ready(seen) == 0, what="every message to be acknowledged")
    assert len(letters(seen)) == len(FOREIGN)
    assert worker.is_running
    assert psutil.Process(worker.pid).memory_info().rss < 250_000_000, "nothing was decompressed"
    (why,) = seen.ask(
        "select distinct detail from dead_letters where position('compressed' in detail) > 0"
    )
    assert why == ("it is compressed, and no message of ours is",)


def letters(seen: Any) -> list[bytes]:
    """The bodies of all dead letters."""
    return [body for (body,) in seen.ask("select body from dead_letters order by id")]


def ready(seen: Any) -> int:
    """Messages in the queue that nobody has."""
    with pika.BlockingConnection(pika.URLParameters(seen.platform.broker_url)) as connection:
        found = connection.channel().queue_declare("path", passive=True)
        return int(found.method.message_count)
