"""Every command of operators prints the same, asked of the database and of an api over HTTP."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Ran, Veltrix
from tests.support.due_runs import add_runs, subscribe
from tests.support.old_ledger import add_past, days_ago
from tests.support.served import Client, served
from tests.support.settled import hold, settle
from veltrix.domain.dead_letters import DeadLetter
from veltrix.domain.states import RunState
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.operations.retention.rules import JudgedEvent, JudgedRun
from veltrix.pipeline.execute.journal_rows import JournalEntry
from veltrix.pipeline.relay.dead_letters import bury

WHY = ("--reason", "a test", "--json")
GROUPS = ("a" * 16, "b" * 16)
NO_ID = "00000000-0000-0000-0000-000000000000"
ERROR = '{"type": "Declined", "message": "no money\\nat all"}'
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| UTC)?")

REQUEST = re.compile(r'"asked":\{.*?\}\}?(?=[,}])|"note":\d+')  # as sent each way; a number


class Ways(NamedTuple):
    """A command asked both ways: of the database, and of the api with a key named ann."""

    database: Veltrix
    http: Veltrix
    api: Client

    def same(self, *arguments: str) -> Ran:
        """What both say of one thing, which must be the same to the letter."""
        one, other = self.database(*arguments), self.http(*arguments)
        assert _without_now(one) == _without_now(other), other.err
        return one

    def alike(self, line: str, one: Sequence[str], other: Sequence[str], *more: str) -> Ran:
        """What both say when each does it to what is its own, which must be the same but for ids.

        `{0}` in the line is the first of its own.
        """
        by_ann = ("--author", "ann")
        mine = self.database(*line.format(*one).split(), *more, *by_ann)
        theirs = self.http(*line.format(*other).split(), *more)
        assert _without_ids(mine, one) == _without_ids(theirs, other), theirs.err
        return theirs


def _without_now(ran: Ran) -> tuple[object, ...]:
    out = re.sub(r'(as of {4}|"as_of":")' + TIME.pattern, r"\1", ran.out)
    return ran.code, out, ran.err


def _without_ids(ran: Ran, own: Sequence[str]) -> tuple[object, ...]:
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"#{len(names)}")

    texts = []
    for text in (ran.out, ran.err):
        told = REQUEST.sub("", text)
        for number, one in enumerate(own):
            told = told.replace(one, f"own {number}")
        texts.append(TIME.sub("then", UUID.sub(named, told)))
    return ran.code, *texts


@pytest.fixture
def ways(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, engine: Engine, database_url: str
) -> Iterator[Ways]:
    """One platform, with a key named `ann` that may do everything; the file `key` may only read."""
    reader = veltrix("keys", "create", "reader", "--scope", "runs:read", "--json").json["key"]
    Path("key").write_text(reader + "\n")
    key = veltrix("keys", "create", "ann", "--scope", "admin", "--json").json["key"]

    def over_http(*arguments: str) -> Ran:
        with monkeypatch.context() as patch:
            patch.delenv("VELTRIX_DATABASE_URL", raising=False)
            patch.setenv("VELTRIX_URL", api.url)
            patch.setenv("VELTRIX_API_KEY", key)
            return veltrix(*arguments)

    with served(engine, database_url, require_keys=True) as api:
        yield Ways(veltrix, over_http, api)


def fail(engine: Engine, count: int, group: str = GROUPS[0]) -> list[str]:
    ids = add_runs(engine, count)
    settle(engine, ids, "failed", reason="error", fingerprint=group, outcome=ERROR)
    fold_groups_once(engine)
    return ids


def fill(engine: Engine) -> list[str]:
    """Runs in four states, a group, dead letters and unrouted events; the ids of the runs."""
    subscribe(engine, "score", types=["shop.*"])
    ids = add_runs(engine, 230)
    hold(engine, [ids[0]])
    settle(engine, ids[1:3], "failed", reason="error", fingerprint=GROUPS[0], outcome=ERROR)
    entry = JournalEntry(ids[3], "1", "step", "charge", output='"paid"')
    settle(engine, [ids[3]], "succeeded", [entry], outcome='{"n": 1}')
    add_runs(engine, 1, type_="shop.old", is_routed=False)
    bury(engine, [DeadLetter(queue="q", reason="rejected", body=b"\xff", headers='{"a": 1}')])
    bury(engine, [DeadLetter(queue="q", reason="malformed", body=b"text")])
    fold_groups_once(engine)
    return ids


READS = [
    "balance",
    "balance --by 0",
    "runs",
    "runs --limit 225",
    "runs --state failed --workflow fulfil --since 1h",
    "runs --archived",
    "events list",
    "events list --unrouted --type shop.old",
    "events dead-letters",
    "events dead-letters --unseen --limit 1",
    "events dead-letter 1",
    "events dead-letter 2",
    "events dead-letter 99",
    f"events show {NO_ID}",
    "events show nothing --source /shop",
    "failures list",
    "failures list --kind run --state open --state regressed --order count",
    f"failures show {GROUPS[0]}",
    "failures show unknown",
    "audit",
    "audit --by nobody",
    "audit list 1",
    "audit 99",
    "workflows list",
    "replay list",
    f"run {NO_ID}",
    "retention show",
    "retention plan",
    "retention plan --defaults",
    "retention plan --workflow nobody --outcome failed --content never",
]


def test_what_is_read_is_the_same_both_ways(ways: Ways, engine: Engine, tmp_path: Path) -> None:
    ids = fill(engine)
    more = [f"run {id_}" for id_ in ids[:4]]
    event = ways.database("run", ids[3], "--json").json["event"]
    more += [f"runs --event {event}", f"events show {event}"]

    for line in [*READS, *more]:
        said = ways.same(*line.split())
        assert said.out or said.err, line
        if said.code == 0:
            ways.same(*line.split(), "--json")
    page = ways.same("runs", "--limit", "205", "--json").json
    assert len(page["items"]) == 205, "more than the api gives at once"
    assert len(ways.same("runs", "--after", page["next"], "--json").json["items"]) == 25
    for way, name in ((ways.database, "one"), (ways.http, "other")):
        way("events", "dead-letters", "--export", str(tmp_path / name))
    assert (tmp_path / "one").read_text() == (tmp_path / "other").read_text() != ""


def test_what_is_done_to_runs_is_the_same_both_ways(ways: Ways, engine: Engine) -> None:
    subscribe(engine, "fulfil", types=["shop.*"])
    one, other = fail(engine, 3), fail(engine, 3, GROUPS[1])
    free, also = add_runs(engine, 2), add_runs(engine, 2)
    hold(engine, [free[1], also[1]])
    edit = ("--payload", "payload.json", *WHY)
    Path("payload.json").write_text('{"cents": 1}')

    done = [
        ways.alike("replay run {0} {1}", one, other, *WHY),
        ways.alike("cancel {0} {1}", free, also, *WHY),
        ways.alike("failures archive {2}", one, other, *WHY),
        ways.alike("failures restore {2}", one, other, "--reason", "as text"),
        ways.alike("replay edit {2}", one, other, *edit),
    ]
    refused = [
        ways.alike(f"replay run {{0}} {NO_ID}", one, other, "--reason", "as text"),
        ways.alike("cancel {0}", free, also, "--reason", "as text"),
        ways.alike("failures archive {0}", one, other, *WHY),
        ways.alike("failures archive {0}", [NO_ID], [NO_ID], *WHY),
        ways.alike("replay edit {0}", one, other, *edit),
        ways.alike("replay edit {0}", [NO_ID], [NO_ID], *edit),
    ]

    assert [ran.code for ran in done] == [0] * len(done)
    assert [ran.code for ran in refused] == [1] * len(refused)


def test_what_is_done_to_many_runs_is_the_same_both_ways(ways: Ways, engine: Engine) -> None:
    fail(engine, 2)
    fail(engine, 2, GROUPS[1])
    groups = (GROUPS[:1], GROUPS[1:])

    asked = ways.alike("failures archive --group {0}", *groups, *WHY)
    archived = ways.alike("failures archive --yes --group {0}", *groups, *WHY)
    restored = ways.alike("failures restore --yes --group {0}", *groups, *WHY)
    nobody = ways.alike("cancel --yes --workflow {0}", ["nobody"], ["nobody"], *WHY)
    add_runs(engine, 2, queue="one")
    add_runs(engine, 2, queue="other")
    cancelled = ways.alike("cancel --yes --queue {0}", ["one"], ["other"], *WHY)

    assert "Archive 2 runs?" in asked.err
    assert (asked.code, nobody.code) == (1, 1)
    assert [ran.json["runs"] for ran in (archived, restored, cancelled)] == [2, 2, 2]


def test_replays_are_the_same_both_ways(ways: Ways, engine: Engine) -> None:
    subscribe(engine, "fulfil", types=["shop.*"])
    one, other = fail(engine, 2), fail(engine, 2)

    ways.alike("replay plan {0} {1} --canary 1 --rate 5", one, other, "--reason", "as text")
    ways.alike("replay plan {0} --never-stop", one, other, *WHY)
    assert ways.alike("replay plan --workflow {0}", ["x"], ["x"], *WHY).code == 1
    assert ways.alike("replay plan {0} --rate 0", one, other, *WHY).code == 2
    newest = ways.same("replay", "list", "--limit", "2", "--json").json["items"]
    mine, theirs = [newest[1]["id"]], [newest[0]["id"]]
    for verb in ("start --yes", "pause", "resume", "abort"):
        assert ways.alike(f"replay {verb} {{0}}", mine, theirs, *WHY).code == 0
    assert ways.alike("replay pause {0}", mine, theirs, *WHY).code == 1
    assert ways.alike("replay abort {0}", [NO_ID], [NO_ID], *WHY).code == 1
    ways.same("replay", "list", "--state", "aborted")


def test_what_is_decided_is_the_same_both_ways(ways: Ways, engine: Engine) -> None:
    fail(engine, 1)
    fail(engine, 1, GROUPS[1])
    groups = (GROUPS[:1], GROUPS[1:])
    bury(engine, [DeadLetter(queue=queue, reason="rejected") for queue in "ab"])
    fold_groups_once(engine)

    for verb, code in (("resolve", 0), ("ignore", 0), ("ignore", 1), ("reopen", 0)):
        assert ways.alike(f"failures {verb} {{0}}", *groups, *WHY).code == code
    assert ways.alike("failures reopen {0}", ["unknown"], ["unknown"], *WHY).code == 1
    assert ways.alike("failures note {0} noted", *groups, "--json").code == 0
    listed = ways.same("failures", "list", "--kind", "dead_letter", "--json").json["items"]
    one, other = ([group["id"]] for group in listed)
    assert ways.alike("failures resolve {0} --version 2", one, other, *WHY).code == 1
    assert ways.database("events", "seen", "1").code == 0
    assert ways.http("events", "seen", "2").lines == ["1 marked as seen by ann"]
    assert ways.alike("events seen --up-to {0}", ["2"], ["2"], "--json").code == 1


def test_policies_of_retention_are_the_same_both_ways(ways: Ways, engine: Engine) -> None:
    at = days_ago(datetime.now(UTC), 40)
    ended = [JudgedRun("a", RunState.SUCCEEDED, at)]
    add_past(engine, [JudgedEvent(at, False, True, ended)] * 3)

    ways.alike("retention apply --defaults --yes", (), (), *WHY[:2])
    own = "retention apply --outcome failed --content 7d --lines never --yes"
    found = ways.alike(own, (), (), *WHY)

    assert found.json["plan"]["days"][0]["leaving"] == 3
    for line in ("retention show", "retention plan"):
        ways.same(*line.split())
        ways.same(*line.split(), "--json")
    assert ways.alike("retention apply --outcome failed --content 1h --yes", (), (), *WHY).code == 2
    assert len(ways.database("audit", "--action", "retention.set", "--json").json["items"]) == 4


def test_over_http_the_key_says_who_acts(ways: Ways, engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    cancel = ("cancel", run_id, "--reason", "withdrawn")

    refused = ways.http(*cancel, "--author", "ben")
    done = ways.http(*cancel)

    assert (refused.code, done.code) == (2, 0)
    assert "leave --author out" in refused.err
    (row,) = ways.same("audit", "--action", "run.cancel", "--json").json["items"]
    assert row["author"] == "ann"


def test_who_may_not_call_is_told_so_in_a_sentence_with_its_cure(
    ways: Ways, veltrix: Veltrix, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = fail(engine, 1)
    monkeypatch.delenv("VELTRIX_DATABASE_URL")
    there = ("--url", ways.api.url)

    without = veltrix("runs", *there)
    read = veltrix("run", run_id, *there, "--key-file", "key", "--json")
    told = veltrix("run", run_id, *there, "--key-file", "key")
    act = veltrix("replay", "run", run_id, "--reason", "r", *there, "--key-file", "key")
    both = ways.http("runs", "--key-file", "key")
    plain = veltrix("runs", "--url", "http://api.example", "--key-file", "key")
    nothing = veltrix("runs", "--url", "ftp://here")

    assert [ran.code for ran in (without, act, both, plain, nothing)] == [2] * 5
    assert "401" in without.err
    assert "--key-file" in without.err
    assert read.json["redacted"] is True
    assert "Withheld, for the key may not see payloads" in told.out
    assert "lacks the scope runs:replay" in act.err
    assert "leave one of them out" in both.err
    assert "without TLS" in plain.err
    assert "is no address" in nothing.err


def test_where_an_api_is_may_stand_in_the_env_file_as_settings_may(
    ways: Ways, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"VELTRIX_URL={ways.api.url}\nVELTRIX_API_KEY_FILE=key\n")
    (tmp_path / "key").write_text(Path("key").read_text())
    command = [sys.executable, "-m", "veltrix.cli", "balance", "--json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("VELTRIX_")}

    told = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    covered = env | {"VELTRIX_URL": "http://127.0.0.1:1"}
    other = subprocess.run(command, cwd=tmp_path, env=covered, capture_output=True, check=False)

    assert (told.returncode, json.loads(told.stdout)["unaccounted"]) == (0, 0)
    assert other.returncode == 2, "the environment covers the file"
    assert b"127.0.0.1:1" in other.stderr
