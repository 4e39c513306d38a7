"""Mutations of what senders send, against everything that reads it: only declared errors leave.

`python -m tests.domain.fuzz SECONDS [SEED]` looks for longer than a test may; what it finds it
prints as it was sent.
"""

import json
import sys
import time
from collections.abc import Callable
from random import Random

import msgspec

from veltrix.authoring.input_schema import InputSchema
from veltrix.domain.json_text import json_problem
from veltrix.operations.replays.patch import (
    EditRefused,
    PatchInvalid,
    diff,
    edited,
    read_patch,
    replacing,
)
from veltrix.pipeline.accept.cloudevents import (
    BadBatch,
    TooLarge,
    mode_of,
    parse_batch,
    parse_binary,
    parse_structured,
)
from veltrix.pipeline.accept.event_checks import BadEvent

ONE = json.dumps(
    {
        "specversion": "1.0",
        "id": "a\u0041é",
        "source": "/s",
        "type": "t",
        "time": "2026-01-31T12:00:00Z",
        "datacontenttype": "application/json; charset=utf-8",
        "subject": "x y",
        "ext": 5,
        "data": {"a": [1, -0.0, 1e5, "\n\u00e9", None, True, {"b": "\ud83d\ude00"}]},
    }
).encode()
PATCH = (
    b'[{"op":"replace","path":"/a/0","value":1.5},{"op":"copy","from":"/a","path":"/c"},'
    b'{"op":"test","path":"/c/0","value":1.5},{"op":"remove","path":"/c"}]'
)
HEADERS = (
    b'1.0|i%20d|/s|t|2026-01-31T12:00:00Z|application/json|"q\\"uoted"|%C3%A9|00-ab-cd-01'
).split(b"|")
NAMES = (
    b"ce-specversion ce-id ce-source ce-type ce-time content-type ce-subject ce-ext ce-traceparent"
).split()
SEEDS = [ONE, b"[" + ONE + b"," + ONE + b"]", b"[]", b"{}", PATCH, b'{"data_base64":"eA=="}']
PIECES = [
    *(b'"', b"\\", b"\\u0000", b"\\ud800", b"[", b"]", b"{", b"}", b",", b":", b"null", b"true"),
    *(
        b"1" * 5_000,
        b"1e999",
        b"9" * 150,
        b"e199",
        b"E+0300",
        b"1e308",
        b".5",
        b"-",
        b"0",
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\n",
        b" " * 300,
    ),
    *(b"[" * 600, b'{"a":' * 600, b'"id":"x",', b'"data":', b'"' + b'\\"' * 300, b"//", b"~2"),
]
ANY = InputSchema(None)
decode = msgspec.json.Decoder().decode
MIB = 1024 * 1024
DECLARED = (BadEvent, BadBatch, TooLarge, PatchInvalid, EditRefused)


def mutated(chance: Random, text: bytes) -> bytes:
    """A few changes: cut, doubled, replaced, with something in it that parsers trip over."""
    made = bytearray(text)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(made) + 1)
        until = min(len(made), at + chance.choice((0, 1, 1, 4, 40)))
        what = chance.randrange(6)
        if what == 0:
            del made[at:until]
        elif what == 1:
            made[at:at] = chance.choice(PIECES)
        elif what == 2:
            made[at:until] = chance.choice(PIECES)
        elif what == 3:
            made[at:at] = made[at:until] * chance.choice((1, 2, 30))
        elif what == 4 and made:
            made[at % len(made)] = chance.randrange(256)
        else:
            del made[at:]
    return bytes(made)


def read_all(chance: Random, text: bytes) -> None:
    """Give it to every reader; what they raise is what they say they raise."""
    headers = [
        (name, mutated(chance, value) if chance.random() < 0.3 else value)
        for name, value in zip(NAMES, HEADERS, strict=True)
        if chance.random() < 0.95
    ]
    readers: list[Callable[[], object]] = [
        lambda: parse_structured(text),
        lambda: parse_batch(text, 10, MIB),
        lambda: parse_binary(headers, text),
        lambda: mode_of(headers[0][1].decode("latin-1") if headers else None, [b"ce-id"]),
        lambda: _judged(text),
        lambda: _patched(text),
    ]
    for read in readers:
        try:
            read()
        except DECLARED:
            continue


def _judged(text: bytes) -> None:
    """What is found without decoding is what a decoder finds, but for two bounds of ours."""
    problem = json_problem(text)
    if problem is not None and ("nested deeper" in problem or "beyond 1e200" in problem):
        return
    try:
        decode(text)
        is_json = True
    except (ValueError, RecursionError):
        is_json = False
    assert (problem is None) == is_json, problem


def _patched(text: bytes) -> None:
    patch = read_patch(text)
    after = edited('{"a":[1,2.50]}', patch, ANY, MIB)
    diff('{"a":[1,2.50]}', after, replacing(after))


def fuzz(seconds: float, seed: int, cpu_s_max: float = float("inf")) -> int:
    """Go on for so long; how many texts were tried. Raises what should not have left, with it.

    So is a text that takes more than `cpu_s_max` of processor time.
    """
    chance, tried = Random(seed), 0
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        text = mutated(chance, chance.choice(SEEDS))
        began = time.process_time()
        try:
            read_all(chance, text)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} left a reader of {text!r}") from error
        took = time.process_time() - began
        assert took < cpu_s_max, (
            f"{took:.1f} s of processor time for {len(text):,} bytes: {text[:300]!r}"
        )
        tried += 1
    return tried


if __name__ == "__main__":
    given = [*sys.argv[1:], "1"]
    sys.stdout.write(f"{fuzz(float(given[0]), int(given[1]), cpu_s_max=1.0):,} texts\n")
