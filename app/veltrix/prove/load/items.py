"""What the workload sends: every event is made from the seed and its number, and from nothing else.

A number has two contents: the one it is first sent with, and another for the same identity.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from veltrix.domain.events import BATCH_TYPE, STRUCTURED_TYPE
from veltrix.prove.load.workflows import PREFIX

JSON = "application/json"
BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
LARGE_BYTES = 1_000_000  # with its attributes just below the limit of an event, 1 MiB
_LARGE_EVERY = 2_000
_DEATHS = {"killing": (10_000, 40), "poison": (50_000, 90)}  # one in so many, beginning with
# In a thousand events; the rest is fast.
_SHARES = {
    "slow": 10,
    "blocking": 4,
    "flaky": 15,
    "failing": 15,
    "sleeping": 15,
    "parallel": 20,
    "booking": 30,
    "pair": 20,
    "nobody": 10,  # no workflow subscribes: unrouted
    "invalid": 10,  # to be refused
}
# What families add: (weight in its round, kind); see `_of_family`.
FAMILY_KINDS: dict[str, tuple[tuple[int, str], ...]] = {
    "author": (
        *((2, kind) for kind in ("finally", "catching", "managing", "stubborn", "ending")),
        *(
            (2, kind)
            for kind in (
                "changing",
                "chance",
                "chosen",
                "unchosen",
                "long",
                "tenant",
                "tenantless",
                "threads",
            )
        ),
        *((1, kind) for kind in ("wide", "rounds", "long_wide", "dying_loop", "odd", "programs")),
        *((1, kind) for kind in ("limited_sleep", "limited_backoff", "limited_wide", "mute")),
        *((1, kind) for kind in ("refused", "unconnected", "untidy")),
        (6, "values"),
    ),
    "deploy": ((3, "moving"), (2, "turning")),
}
# One in so many events is of a family: more of them at first, so that a short proof has all.
_FAMILY_EVERY, _FAMILY_EVERY_AT_FIRST, _AT_FIRST = 60, 10, 1_500
_AUTHORED = frozenset(kind for named in FAMILY_KINDS.values() for _, kind in named)
WORKFLOWS = {"pair": ("prove_pair_left", "prove_pair_right"), "nobody": (), "invalid": ()}


class Item(NamedTuple):
    """An event to send. `data` is JSON text, or bytes of another content type, or nothing."""

    id: str
    kind: str
    type: str
    content_type: str | None
    data: bytes
    flaw: str = ""  # why it is to be refused

    @property
    def digest(self) -> str:
        """Of its type and content; the ledger's row has the same if it is the same."""
        return content_digest(self.type, self.content_type, self.data)


def content_digest(type_: str, content_type: str | None, data: bytes) -> str:
    """32 hexadecimal digits that differ when type, content type or content do."""
    parts = b"\0".join((type_.encode(), (content_type or "").encode(), data))
    return sha256(parts).hexdigest()[:32]


def kinds() -> tuple[str, ...]:
    """Every kind there is."""
    return (*_DEATHS, *_SHARES, "fast")


def workflows_of(kind: str) -> tuple[str, ...]:
    """The workflows that an event of this kind starts."""
    return WORKFLOWS.get(kind, (f"prove_{kind}",))


def kind_of(type_: str) -> str:
    """The kind of an event of this type."""
    return type_.removeprefix(PREFIX)


def make_item(
    seed: int, number: int, *, is_other: bool = False, families: Collection[str] = ()
) -> Item:
    """The event with this number, or another content under its identity."""
    chance = Random(f"{seed}/{number}")
    kind = _kind(chance, number)
    if kind == "fast" and families:
        kind = _of_family(number, families) or kind
    id_ = f"{number}"
    type_ = f"{PREFIX}{kind}"
    if is_other:
        chance = Random(f"{seed}/{number}/other")
    if kind == "invalid":
        return _flawed(chance, id_, type_)
    if kind in {"fast", "pair", "nobody"}:
        content_type, data = _payload(chance, number)
    else:
        content_type, data = JSON, _order(chance, kind)
    if is_other:  # surely another content
        content_type, data = JSON, json.dumps({"other": number, **_object(data)}).encode()
    return Item(id_, kind, type_, content_type, data)


def _kind(chance: Random, number: int) -> str:
    for kind, (every, first) in _DEATHS.items():
        if number % every == first:
            return kind
    point = chance.randrange(1_000)
    for kind, share in _SHARES.items():
        if point < share:
            return kind
        point -= share
    return "fast"


def _of_family(number: int, families: Collection[str]) -> str:
    """One kind after the other, at fixed numbers; "" for most numbers."""
    every = _FAMILY_EVERY_AT_FIRST if number < _AT_FIRST else _FAMILY_EVERY
    if number % every:
        return ""
    kinds = _round_of(frozenset(families))
    return kinds[number // every % len(kinds)] if kinds else ""


@cache
def _round_of(families: frozenset[str]) -> tuple[str, ...]:
    """Every kind of these families as often as it weighs, in an order that mixes them."""
    named = [one for family in sorted(families) for one in FAMILY_KINDS.get(family, ())]
    most = max((weight for weight, _ in named), default=0)
    return tuple(kind for turn in range(most) for weight, kind in named if turn < weight)


def order_of(kind: str, seconds: float, times: int) -> bytes:
    """An order, as the workload sends it."""
    return json.dumps({"seconds": seconds, "times": times, "pad": kind}).encode()


def _order(chance: Random, kind: str) -> bytes:
    seconds = {
        "slow": chance.uniform(0.05, 0.6),
        "blocking": chance.uniform(0.01, 0.05),
        "sleeping": chance.uniform(0.1, 2.0),
        "parallel": chance.uniform(0.0, 0.02),
    }.get(kind, chance.uniform(0.1, 1.5) if kind in _AUTHORED else 0.0)
    times = {
        "flaky": chance.randint(1, 3),
        "booking": int(chance.random() < 0.2),
        "refused": 2,
        "unconnected": 2,
    }.get(kind, chance.randrange(3) if kind in _AUTHORED else 0)
    order = {"seconds": round(seconds, 3), "times": times, "pad": "x" * chance.randrange(60)}
    return json.dumps(order).encode()


def _object(data: bytes) -> dict[str, Any]:
    """The order in this content, to go on with; nothing of any other content."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    names = {"seconds", "times"}
    return {k: v for k, v in found.items() if k in names} if isinstance(found, dict) else {}


def _payload(chance: Random, number: int) -> tuple[str | None, bytes]:
    """Any content there can be: none, JSON of all kinds, text, bytes, up to the limit."""
    if number % _LARGE_EVERY == _LARGE_EVERY // 2:
        size = LARGE_BYTES if number % (3 * _LARGE_EVERY) == _LARGE_EVERY // 2 else 200_000
        return JSON, json.dumps("é" * (size // 6)).encode()  # six bytes each, as \u00e9
    make: Callable[[Random], tuple[str | None, bytes]] = chance.choices(
        [_small, _none, _unicode, _numbers, _deep, _bytes, _text], [50, 8, 20, 8, 4, 6, 4]
    )[0]
    return make(chance)


def _small(chance: Random) -> tuple[str, bytes]:
    return JSON, json.dumps(
        {"n": chance.randrange(10**9), "text": "a" * chance.randrange(200)}
    ).encode()


def _none(_chance: Random) -> tuple[None, bytes]:
    return None, b""


def _unicode(chance: Random) -> tuple[str, bytes]:
    words = ["Grüße", "日本語", "🙂", "\u202eabc", "'; drop table", "<b>", "\\u0000", "\u0301", " "]
    text = "".join(chance.choice(words) for _ in range(chance.randrange(1, 40)))
    return JSON, json.dumps({"text": text}, ensure_ascii=chance.random() < 0.5).encode()


def _numbers(chance: Random) -> tuple[str, bytes]:
    texts = [b"null", b"0", b"-0.0", b"1e5", b"123456789012345678901234567890", b"true", b'""']
    return JSON, chance.choice([*texts, b'{"a":1,"a":2}', b"[]", b"{}", b'{ "spaced" :\t1 }'])


def _deep(chance: Random) -> tuple[str, bytes]:
    depth = chance.randrange(1, 60)
    return JSON, b"[" * depth + b"]" * depth


def _bytes(chance: Random) -> tuple[str, bytes]:
    return BYTES, chance.randbytes(chance.randrange(1, 300))


def _text(chance: Random) -> tuple[str, bytes]:
    return TEXT, ("naïve " * chance.randrange(1, 20)).encode()


def _flawed(chance: Random, id_: str, type_: str) -> Item:
    flaw = chance.choice(["no type", "NUL in the id", "not CloudEvents 1.0", "broken base64"])
    return Item(id_, "invalid", type_, JSON, b'{"never":"stored"}', flaw)


# How an item travels


def structured(item: Item, source: str) -> bytes:
    """The event in the JSON format."""
    event: dict[str, Any] = {"specversion": "1.0", "id": item.id, "source": source}
    event["type"] = item.type
    match item.flaw:
        case "no type":
            del event["type"]
        case "NUL in the id":
            event["id"] += "\0"
        case "not CloudEvents 1.0":
            event["specversion"] = "0.3"
        case "broken base64":
            return msgspec.json.encode({**event, "data_base64": "%%%"})
    if item.content_type is not None:
        event["datacontenttype"] = item.content_type
    if item.content_type == JSON:
        event["data"] = msgspec.Raw(item.data)
    elif item.content_type == TEXT:
        event["data"] = item.data.decode()
    elif item.data:
        event["data_base64"] = b64encode(item.data).decode()
    return msgspec.json.encode(event)


def batch(items: Sequence[Item], source: str) -> bytes:
    """Several events in the JSON batch format."""
    return b"[" + b",".join(structured(item, source) for item in items) + b"]"


def binary(item: Item, source: str) -> tuple[dict[str, str], bytes]:
    """Headers and body in the binary mode."""
    headers = {"ce-specversion": "1.0", "ce-id": item.id, "ce-type": item.type}
    headers["ce-source"] = quote(source, safe="/:")
    match item.flaw:
        case "no type":
            del headers["ce-type"]
        case "NUL in the id":
            headers["ce-id"] += "%00"
        case "not CloudEvents 1.0" | "broken base64":
            headers["ce-specversion"] = "0.3"
    if item.content_type is not None:
        headers["content-type"] = item.content_type
    return headers, item.data


STRUCTURED, BATCH = {"content-type": STRUCTURED_TYPE}, {"content-type": BATCH_TYPE}
