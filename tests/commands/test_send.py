"""`veltrix send` against a real api: every line taken or refused with its number, never lost."""

import bz2
import gzip
import json
import lzma
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.commands.conftest import Veltrix
from tests.support.served import Client, served
from tests.support.wait import until
from veltrix.commands.sending import read_batches
from veltrix.dev.platform import Platform
from veltrix.store.transactions import transaction


def event(id_: object, **changes: Any) -> bytes:
    attributes = {"specversion": "1.0", "id": str(id_), "source": "/shop", "type": "shop.order"}
    return json.dumps(attributes | {"data": {"id": id_}} | changes).encode()


def write(path: Path, *lines: bytes) -> str:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def accepted(engine: Engine) -> list[str]:
    with transaction(engine) as tx:
        return list(
            tx.execute(
                text("select sender_id from events order by length(sender_id), sender_id")
            ).scalars()
        )


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    with served(engine, database_url) as api:
        yield api


@pytest.fixture
def sending(api: Client, veltrix: Veltrix) -> Callable[..., Any]:
    return lambda *arguments: veltrix("send", *arguments, "--url", api.url)


def test_every_line_is_taken_and_a_second_time_a_duplicate(
    sending: Callable[..., Any], engine: Engine, tmp_path: Path
) -> None:
    file = write(tmp_path / "events", *(event(n) for n in range(1_234)))

    first = sending(file, "--json")
    again = sending(file)

    assert first.code == again.code == 0
    assert first.json["accepted"] == first.json["lines"] == 1_234
    assert first.json["next_line"] == 1_235
    assert "0 accepted, 1,234 duplicates, 0 refused" in again.out
    assert len(accepted(engine)) == 1_234


def test_every_refused_line_is_named_and_none_hides_its_neighbours(
    sending: Callable[..., Any], engine: Engine, tmp_path: Path
) -> None:
    wrong = {
        2: b'{"id": "cut off',
        4: b'{"a": 1}], [{"b": 2}',
        6: event("no type", type=""),
        7: event("1", data="other"),
        9: event("big", data="x" * 1_100_000),
        11: b"\xff\xfe",
    }
    lines = [wrong.get(n) or event(n) for n in range(1, 13)]
    lines[11 - 2] = b""  # line 10 is empty: nobody's event

    ran = sending(write(tmp_path / "events", *lines), "--json")

    assert ran.code == 1
    assert [one["line"] for one in ran.json["refusals"]] == sorted(wrong)
    assert [one["status"] for one in ran.json["refusals"]] == [400, 400, 400, 409, 413, 400]
    assert [line.split(":")[0] for line in ran.err.splitlines()] == [f"line {n}" for n in wrong]
    assert accepted(engine) == ["1", "3", "5", "8", "12"]


def test_it_begins_at_the_line_it_is_told(
    sending: Callable[..., Any], engine: Engine, tmp_path: Path
) -> None:
    file = write(tmp_path / "events", event(1), b"", event(3), b"not json", event(5))

    ran = sending(file, "--from-line", "3", "--json", "--batch", "1")

    assert accepted(engine) == ["3", "5"]
    assert [one["line"] for one in ran.json["refusals"]] == [4]
    assert ran.json["next_line"] == 6


def send_from_pipe(url: str, *options: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "veltrix.cli", "send", "-", "--url", url, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def feed(sender: "subprocess.Popen[bytes]", *lines: bytes) -> None:
    assert sender.stdin is not None
    sender.stdin.write(b"\n".join(lines) + b"\n")
    sender.stdin.flush()


@contextmanager
def piped(url: str) -> Iterator["subprocess.Popen[bytes]"]:
    sender = send_from_pipe(url)
    yield sender
    sender.kill()
    sender.communicate()


def test_a_pipe_is_sent_as_it_comes_and_ctrl_c_says_how_to_go_on(
    api: Client, engine: Engine
) -> None:
    with piped(api.url) as pipe:
        feed(pipe, event(1), event(2))
        until(lambda: accepted(engine) == ["1", "2"], what="two events, though the pipe is open")
        feed(pipe, event(3))
        until(lambda: len(accepted(engine)) == 3, what="the third")

        pipe.send_signal(signal.SIGINT)
        _, errors = pipe.communicate(timeout=10)

    assert pipe.returncode == 130
    # The answer to the third may still have been on its way: it goes again, as a duplicate.
    assert b"--from-line 4" in errors or b"--from-line 3" in errors
    assert b"Traceback" not in errors


def test_an_api_that_is_away_is_waited_for_without_losing_the_place(
    platform: Callable[..., Platform], engine: Engine
) -> None:
    running = platform(relays=0, workers=0)
    with piped(running.api_url) as pipe:
        feed(pipe, event(1))
        until(lambda: accepted(engine) == ["1"], what="the first")
        running.kill("api-1")
        feed(pipe, event(2), b"not json", event(4))
        assert pipe.stderr is not None
        assert b"waiting: no connection" in pipe.stderr.readline()

        running.start("api-1", "api")
        output, errors = pipe.communicate(timeout=30)

    assert accepted(engine) == ["1", "2", "4"]
    # It may have been killed between the first commit and its answer.
    told = re.search(rb"4 events: (\d) accepted, (\d) duplicates, 1 refused", output)
    assert told is not None, output
    assert told.groups() in ((b"3", b"0"), (b"2", b"1"))
    assert b"line 3: 400" in errors
    assert pipe.returncode == 1


def test_it_gives_up_after_the_time_it_is_given(veltrix: Veltrix, tmp_path: Path) -> None:
    file = write(tmp_path / "events", event(1))

    ran = veltrix("send", file, "--url", "http://127.0.0.1:1", "--give-up-s", "0")

    assert ran.code == 2
    assert "--from-line 1" in ran.err
    assert "gave up" in ran.err


def test_a_key_comes_from_the_environment_or_a_file_and_a_wrong_one_ends_it(
    engine: Engine,
    database_url: str,
    veltrix: Veltrix,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    key = veltrix("keys", "create", "shop", "--scope", "events:write", "--json").json["key"]
    file = write(tmp_path / "events", event(1))
    (tmp_path / "key").write_text(key + "\n")

    with served(engine, database_url, require_keys=True) as api:
        monkeypatch.setenv("VELTRIX_API_URL", api.url)
        without = veltrix("send", file)
        from_file = veltrix("send", file, "--key-file", "key")
        monkeypatch.setenv("VELTRIX_API_KEY", key)
        from_environment = veltrix("send", file)

    assert without.code == 2
    assert "VELTRIX_API_KEY" in without.err
    assert from_file.code == from_environment.code == 0
    assert "1 accepted" in from_file.out


@pytest.mark.parametrize("arguments", [["nowhere.ndjson"], ["events", "--url", "ftp://a"]])
def test_a_wrong_file_or_address_is_a_sentence(
    veltrix: Veltrix, tmp_path: Path, arguments: list[str]
) -> None:
    write(tmp_path / "events", event(1))

    ran = veltrix("send", *arguments)

    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(event(1)), "a gzip file, not NDJSON .* gunzip -c FILE"),
        (bz2.compress(event(1)), "a bzip2 file"),
        (lzma.compress(event(1)), "a xz file"),
        (b"\xef\xbb\xbf[" + event(1) + b"," + event(2) + b"]", "a JSON array, .* jq -c '.\\[\\]'"),
        (b"\n  [\n" + event(1) + b"\n]", "a JSON array"),
        (b'{\n  "id": "1"\n}\n', "JSON over several lines"),
        (event(1).decode().encode("utf-16"), "text in UTF-16"),
    ],
    ids=["gzip", "bzip2", "xz", "array", "array over lines", "object over lines", "utf-16"],
)
def test_what_is_no_file_of_lines_is_one_sentence_and_nothing_is_sent(
    sending: Callable[..., Any], engine: Engine, tmp_path: Path, content: bytes, words: str
) -> None:
    ran = sending(write(tmp_path / "events", content))

    assert ran.code == 2
    assert re.search(words, " ".join(ran.err.split()))
    assert accepted(engine) == []


def test_lines_keep_their_numbers_however_a_file_is_read(tmp_path: Path) -> None:
    texts = [b"\xef\xbb\xbf{}", b"", b"  { } \r", b"3" * 2_000_000, b"last, without an end"]
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(texts))

    with path.open("rb") as file:
        lines = [line for batch in read_batches(file.fileno(), 1, 2) for line in batch]

    assert [line.number for line in lines] == [1, 3, 4, 5]
    assert [line.text for line in lines] == [b"{}", b"{ }", texts[3], texts[4]]
    assert lines[-2].end == sum(map(len, texts[:4])) + 4


def test_a_sample_comes_with_veltrix_and_is_taken(
    sending: Callable[..., Any], engine: Engine
) -> None:
    sent = sending("--sample", "--json")
    again = sending("--sample", "--json")
    neither, both = sending(), sending("--sample", "events")

    assert (sent.code, sent.json["accepted"], again.json["duplicates"]) == (0, 10, 10)
    assert accepted(engine)[0] == "order-4711-placed"
    assert (neither.code, both.code) == (2, 2)
