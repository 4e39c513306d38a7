"""Proofs on a deployment that is only reached over HTTP: what they see, and what they say."""

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import subscribe, subscription
from tests.support.wait import until
from veltrix.access import keys
from veltrix.authoring.registry import load_workflows
from veltrix.dev.children import CannotStart
from veltrix.dev.platform import Platform
from veltrix.dev.servers.ports import free_port
from veltrix.operations.books.books import balance
from veltrix.prove.check.checker import PROPERTIES
from veltrix.prove.clean import clean
from veltrix.prove.load.inputs import smallest_input
from veltrix.prove.report.report import Proof, Verdict
from veltrix.prove.scenario import Plan
from veltrix.prove.target import reads
from veltrix.prove.target.http_api import Api
from veltrix.prove.target.run import UNSEEN, UNSEEN_OF_STARTS, prove_target
from veltrix.releases.register import register
from veltrix.store.prove_effects import make_table
from veltrix.store.transactions import transaction

KEY, WEAK_KEY = "k" * 40, "w" * 40


class Visit(Protocol):
    """Prove a target: `visit(url, events=120)`, with options of `Plan`; `workflows`, `key`."""

    def __call__(self, url: str, *, events: int = 120, **changes: Any) -> Proof: ...


class Telling(list[str]):
    """What a proof told whoever watches; `when` (beginning, act): then something is done, once."""

    when: tuple[str, Callable[[], None]] | None = None

    def hear(self, line: str) -> None:
        """For `say`."""
        self.append(line)
        if self.when is not None and line.startswith(self.when[0]):
            act, self.when = self.when[1], None
            act()


@pytest.fixture
def said() -> Telling:
    return Telling()


@pytest.fixture
def visit(tmp_path: Path, said: Telling) -> Visit:
    numbers = count(1)

    def visited(url: str, *, events: int = 120, **changes: Any) -> Proof:
        told = {name: changes.pop(name, None) for name in ("key", "workflows")}
        plan = Plan(
            **{
                "scenario": "smoke",
                "faults": (),
                "events": events,
                "seed": 2,
                "source": "/veltrix/prove/2-1",
                "command": "pytest",
                "stall_s": 15.0,
                **changes,
            }
        )
        folder = tmp_path / f"proof-{next(numbers)}"
        return prove_target(plan, url, folder=folder, say=said.hear, **told)

    return visited


@pytest.fixture
def provable(platform: Callable[..., Platform], engine: Engine) -> Platform:
    """A deployment that serves the workflows of prove, and has the table for them."""
    make_table(engine)
    make_table(engine)
    started = platform(env={"VELTRIX_PROVE": "1"})
    until(lambda: ask(engine, "select 1 from subscriptions where workflow = 'prove_fast'"), 20)
    return started


def ask(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def run(engine: Engine, sql: str) -> None:
    with transaction(engine) as tx:
        tx.execute(text(sql))


def change(engine: Engine, sql: str) -> None:
    """Once there is a row for it: events taken before the api knew who wants them start late."""

    def changed() -> int:
        with transaction(engine) as tx:
            return tx.execute(text(sql)).rowcount

    until(changed, what="the row of a lie")


def broken(proof: Proof) -> dict[str, list[str]]:
    return {one.name: one.samples for one in proof.properties if one.broken}


def test_all_that_can_be_seen_holds_and_can_be_removed(
    provable: Platform, visit: Visit, engine: Engine
) -> None:
    proof = visit(provable.api_url)

    assert broken(proof) == {}
    assert proof.verdict is Verdict.INCONCLUSIVE, "held only if everything was checked"
    assert {one.name for one in proof.properties if one.not_checked} == set(UNSEEN)
    assert proof.notes[0].startswith("12 of the 12 properties that could be seen from outside held")
    assert proof.accepted > 100
    assert proof.settled > 100
    assert proof.duplicates > 0
    assert proof.refused > 0
    assert (proof.lost, proof.invented, proof.open, proof.unaccounted) == (0, 0, 0, 0)

    removed = clean(engine)

    assert removed.events == proof.accepted + 1, "and the first one"
    assert removed.effects > 0
    for table in ("events", "identities", "runs", "journal", "accounts", "prove_effects"):
        assert ask(engine, f"select count(*) from {table}") == [(0,)], table
    assert balance(engine).unaccounted == 0


def test_runs_that_start_late_are_waited_for(
    platform: Callable[..., Platform], visit: Visit, said: Telling, engine: Engine
) -> None:
    make_table(engine)
    env = {"VELTRIX_PROVE": "1", "VELTRIX_SUBSCRIPTIONS_CACHE_S": "20"}
    started = platform(env=env)
    until(lambda: ask(engine, "select 1 from subscriptions where workflow = 'prove_fast'"), 20)
    late: list[int] = []

    def count_late() -> None:
        late.extend(one for (one,) in ask(engine, "select count(*) from events where unrouted"))

    said.when = "reading what", count_late

    proof = visit(started.api_url)

    assert late[0] > 20, "the api did not know the workflows yet"
    assert broken(proof) == {}
    assert proof.accepted > 100


_TWICE = """
create function twice() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then insert into prove_effects values (new.key); end if;
    return null;
end $$;
create trigger twice after insert on prove_effects for each row execute function twice();
"""
_ONCE = "drop trigger if exists twice on prove_effects; drop function if exists twice()"
_FAST = """
select {0} from runs where workflow = 'prove_fast'
    and account_id in (select id from accounts where source = '{1}') order by id limit 1
"""
# What is done to the target before its answers are read, and what must be found to be broken.
LIES: list[tuple[str, set[str]]] = [
    (
        "update events set data = '{{\"other\": 1}}', data_binary = null where id = ({event})",
        {"accepted_is_stored", "nothing_invented"},
    ),
    (_TWICE, {"transactional_effects_once"}),
    (
        "update runs set state = 'failed', reason = 'poison' where id = ({run})",
        {"outcomes_as_expected", "books_balance", "healthy_runs_are_not_blamed"},
    ),
    (
        "update journal set output = '\"x\"' where run_id = ({run})",
        {"effects_at_least_once"},
    ),
    (
        "update runs set workflow = 'prove_slow' where id = ({run})",
        {"events_start_their_runs", "effects_at_least_once", "journal_is_whole"},
    ),
    (
        "delete from runs where id = ({run})",
        {"events_start_their_runs", "books_balance"},
    ),
    (
        (
            "insert into counter_deltas (account_id, minute, accepted)"
            " select account_id, minute, 1 from runs where id = ({run})"
        ),
        {"books_balance"},
    ),
    # Later proofs of the same minute see the run without an event as well.
    (
        "delete from events where id = ({event})",
        {"accepted_is_stored", "nothing_invented", "books_balance"},
    ),
]


def check_found_out(
    visit: Visit, said: Telling, engine: Engine, url: str, lies: list[tuple[str, set[str]]]
) -> None:
    """Each lie, told to a proof of its own, breaks what it must, and nothing else."""
    for number, (lie, expected) in enumerate(lies):
        source = f"/veltrix/prove/lie-{number}"
        fast = {"event": _FAST.format("event_id", source), "run": _FAST.format("id", source)}
        if lie is _TWICE:
            said.when = "one event first", partial(run, engine, lie)
        else:
            said.when = "reading", partial(change, engine, lie.format(**fast))

        proof = visit(url, events=30, source=source)
        run(engine, _ONCE)

        assert said.when is None, "it was told"
        assert set(broken(proof)) == expected, (lie, broken(proof))
        assert proof.verdict is Verdict.BROKEN


def test_a_target_that_lies_is_found_out(
    provable: Platform, visit: Visit, said: Telling, engine: Engine
) -> None:
    check_found_out(visit, said, engine, provable.api_url, [LIES[0], LIES[-1]])


@pytest.mark.slow
def test_every_lie_is_found_out(
    provable: Platform, visit: Visit, said: Telling, engine: Engine
) -> None:
    check_found_out(visit, said, engine, provable.api_url, LIES)
    seen = set().union(*(names for _, names in LIES))
    seen |= {
        "refused_is_not_stored",
        "only_faulty_is_refused",
        "nothing_left_open",
    }  # as the checker's own test shows

    assert seen == {rule.__name__ for rule in PROPERTIES} - UNSEEN.keys()


def test_workflows_of_others_are_started_by_name(
    platform: Callable[..., Platform],
    visit: Visit,
    said: Telling,
    engine: Engine,
    tmp_path: Path,
) -> None:
    env = {"PATH_EFFECTS": str(tmp_path / "effects")}
    started = platform(workflows="tests.path.effects_flows", env=env)
    until(lambda: ask(engine, "select 1 from subscriptions where workflow = 'take_fast'"), 20)
    with pytest.raises(CannotStart, match="VELTRIX_PROVE=1, or name workflows to start with"):
        visit(started.api_url)
    with pytest.raises(CannotStart, match="no workflow 'take'; it has take_fast, take_slow"):
        visit(started.api_url, workflows=["take"])
    assert ask(engine, "select 1 from events") == [], "nothing half done"

    proof = visit(started.api_url, events=40, workflows=["take_fast", "take_slow"])

    assert broken(proof) == {}
    assert any("do not serve the workflows of prove" in line for line in said)
    unseen = {one.name for one in proof.properties if one.not_checked}
    assert unseen == set(UNSEEN) | set(UNSEEN_OF_STARTS)
    assert (proof.accepted, proof.settled, proof.verdict) == (40, 40, Verdict.INCONCLUSIVE)
    assert (proof.invented, proof.duplicate_effects) == (None, None), "not seen is not none"
    assert ask(engine, "select workflow, count(*) from runs group by 1 order by 1") == [
        ("take_fast", 20),
        ("take_slow", 20),
    ]


def test_a_target_that_cannot_be_proved_is_told_in_a_sentence(
    platform: Callable[..., Platform], visit: Visit, engine: Engine
) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "prover", ["events:write", "runs:read"], "ann", KEY)
        keys.create(tx, "reader", ["runs:read"], "ann", WEAK_KEY)
    started = platform(workers=0, env={"VELTRIX_REQUIRE_KEYS": "true"})
    url = started.api_url
    relay = started.processes["relay-1"].url
    cases: list[tuple[str, dict[str, Any], str]] = [
        (url, {}, "answers 401: .*; give a key that it knows with --key"),
        (url, {"key": "x" * 40}, "answers 401: the API key is unknown or revoked; give a key"),
        (url, {"key": WEAK_KEY}, "answers 403: .*; the key needs the scopes events:write and"),
        (url, {"key": "\u00fc"}, "the API key has characters that no key has"),
        (relay, {}, "does not answer as the api of a Veltrix does"),
        (f"http://127.0.0.1:{free_port()}", {}, "cannot be reached .*; is it the right address"),
        (url.replace("http", "https"), {}, "cannot be reached over TLS"),
        (url.removeprefix("http://"), {}, "is no address of an api; write https://host:8080"),
        (url, {"key": KEY}, "do not serve the workflows of prove: start them with"),
    ]
    for address, options, sentence in cases:
        with pytest.raises(CannotStart, match=sentence):
            visit(address, **options)
    assert ask(engine, "select 1 from events") == [], "nothing half done"

    with transaction(engine) as tx:
        found = load_workflows("veltrix.prove.load.workflows")
        register(tx, {name: (workflow, "v1") for name, workflow in found.items()})
    with Api(url, KEY) as api:
        until(lambda: "prove_fast" in api.workflows())

    with pytest.raises(CannotStart, match="no worker of the target finished a run of prove within"):
        visit(url, key=KEY, stall_s=2.0)


def test_what_stays_open_is_broken_and_what_cannot_be_read_is_in_doubt(
    platform: Callable[..., Platform],
    visit: Visit,
    said: Telling,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subscribe(engine, subscription("fulfil"))
    started = platform(relays=0, workers=0)

    left_open = visit(started.api_url, events=10, workflows=["fulfil"], stall_s=0.5)

    assert set(broken(left_open)) == {"nothing_left_open"}
    assert (left_open.open, left_open.verdict) == (10, Verdict.BROKEN)

    monkeypatch.setattr(reads, "_TRIES_MAX", 2)
    said.when = "reading", partial(started.kill, "api-1")
    source = "/veltrix/prove/2-2"
    unread = visit(started.api_url, events=10, workflows=["fulfil"], source=source)

    assert broken(unread) == {}
    assert all(one.not_checked for one in unread.properties)
    assert unread.verdict is Verdict.INCONCLUSIVE
    told = json.loads(unread.line())
    assert {told[n] for n in ("lost", "invented", "open", "unaccounted")} == {None}
    assert any("could not be read, so nothing is known" in note for note in unread.notes)


@pytest.mark.slow
def test_a_target_without_the_table_of_effects_is_told_in_a_sentence(
    platform: Callable[..., Platform], visit: Visit, engine: Engine
) -> None:
    started = platform(env={"VELTRIX_PROVE": "1"})
    until(lambda: ask(engine, "select 1 from subscriptions where workflow = 'prove_fast'"), 20)

    with pytest.raises(CannotStart, match="run `veltrix db upgrade` there with VELTRIX_PROVE=1"):
        visit(started.api_url)

    assert ask(engine, "select count(*) from events") == [(1,)], "nothing was driven"


def test_the_smallest_input_fits_its_schema() -> None:
    schema = {
        "$ref": "#/$defs/Order",
        "$defs": {
            "Order": {
                "type": "object",
                "required": ["id", "lines", "at", "kind", "cents", "note"],
                "properties": {
                    "id": {"type": "string", "minLength": 3},
                    "lines": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/Line"}},
                    "at": {"type": "string", "format": "date-time"},
                    "kind": {"enum": ["a", "b"]},
                    "cents": {"type": "integer", "minimum": 5},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "more": {"type": "boolean"},
                },
            },
            "Line": {
                "type": "object",
                "required": ["is_new"],
                "properties": {"is_new": {"type": "boolean"}},
            },
        },
    }

    found = smallest_input(schema)

    assert found == {
        "id": "xxx",
        "lines": [{"is_new": False}] * 2,
        "at": "2026-01-31T12:00:00Z",
        "kind": "a",
        "cents": 5,
        "note": "x",
    }
    assert smallest_input(None) == smallest_input({}) == {}
    endless = {"$ref": "#/$defs/Self", "$defs": {"Self": {"$ref": "#/$defs/Self"}}}
    assert smallest_input(endless) is None
