"""What proofs left is removed, whole, and the books balance whatever happens on the way."""

from random import Random
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import PLACED, accepting, submission, subscribe, subscription
from tests.support.settled import fold_all, run_sql, settle
from tests.support.wait import until
from veltrix.dev.children import CannotStart
from veltrix.domain.ids import EventIds
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import Balance, balance, fold_once, recount_once
from veltrix.operations.books.counter_rows import lock_books
from veltrix.operations.failures.triage import check_groups
from veltrix.operations.replays import edit_rows, read
from veltrix.operations.replays.edit import EditOf
from veltrix.operations.replays.move import replay
from veltrix.operations.replays.mover import Mover
from veltrix.operations.replays.plan import PlanRequest, act, edit_now, plan
from veltrix.operations.replays.rules import Options, Verb
from veltrix.operations.runs.query import RunQuery
from veltrix.pipeline.accept.receipts import Receipt
from veltrix.prove import clean as module
from veltrix.prove.clean import PREFIX, Cleaning, NotOver, Removed, clean
from veltrix.settings.fields import Settings
from veltrix.store.prove_effects import make_table
from veltrix.store.transactions import transaction

OURS, OTHERS = f"{PREFIX}1-a", "/veltrix/provenance"
TABLES = ("events", "identities", "runs", "journal", "failed_attempts", "actions", "prove_effects")
BOOKS = ("counters", "counter_deltas", "counter_totals", "accounts")


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings without a broker: nothing here needs one."""
    return Settings.model_validate({"database_url": database_url})


def accept(settings: Settings, source: str, ids: range, type_: str = PLACED) -> list[str]:
    """The runs of these events, of which the first is sent twice."""
    events = [submission(str(number), source=source, type_=type_) for number in ids]
    with accepting(settings) as acceptor:
        answers = acceptor.accept(events)
        acceptor.accept(events[:1])
    return [run.id for answer in answers if isinstance(answer, Receipt) for run in answer.runs]


def fill(engine: Engine, settings: Settings, source: str) -> list[str]:
    """Nine events: six runs that succeeded, two that failed, with all that can come of them."""
    subscribe(engine, subscription("fulfil", PLACED))
    runs = accept(settings, source, range(8))
    accept(settings, source, range(8, 9), "shop.unknown")
    settle(engine, runs[:6], "succeeded")
    settle(engine, runs[6:], "failed")
    for run_id in runs:
        run_sql(
            engine,
            "insert into journal (run_id, generation, position, kind, name, attempts)"
            f" values ('{run_id}', 0, '1', 'step', 'book', 1)",
            "insert into failed_attempts (run_id, generation, position, step, attempt, type,"
            " message, traceback, fingerprint)"
            f" values ('{run_id}', 0, '1', 's', 1, '', '', '', '')",
            "insert into actions (run_id, action, generation, author, reason)"
            f" values ('{run_id}', 'replay', 0, 'ann', 'why')",
            f"insert into prove_effects values ('{run_id}:1'), ('{run_id}:2')",
        )
    return runs


def counts(engine: Engine, *tables: str) -> dict[str, int]:
    with transaction(engine) as tx:
        return {t: tx.execute(text(f"select count(*) from {t}")).scalar_one() for t in tables}


def audit(engine: Engine) -> Balance:
    """The books as they are, after they were folded, and after a recount of every minute."""
    assert balance(engine).unaccounted == 0
    fold_all(engine)
    assert balance(engine).unaccounted == 0
    found = recount_once(engine, closed_minutes=-1, is_forced=True)
    assert (found.unbalanced, found.discrepancy) == (0, 0)
    return balance(engine)


def test_nothing_of_ours_is_left_and_all_of_others(engine: Engine, settings: Settings) -> None:
    make_table(engine)
    fill(engine, settings, OTHERS)
    audit(engine)
    before, books = counts(engine, *TABLES, *BOOKS), balance(engine)
    fill(engine, settings, OURS)

    removed = clean(engine)

    assert removed == Removed(
        **dict.fromkeys(("events", "identities"), 9),
        **dict.fromkeys(("runs", "steps", "failed_attempts", "actions"), 8),
        effects=16,
        counter_deltas=removed.counter_deltas,
        accounts=2,
    )
    assert counts(engine, *TABLES, *BOOKS) == before
    assert audit(engine).by == books.by
    assert str(clean(engine)) == "there was nothing to remove"


@pytest.mark.parametrize("is_sealed", [False, True])
def test_the_books_balance_wherever_it_dies(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, *, is_sealed: bool
) -> None:
    monkeypatch.setattr(module, "BATCH_EVENTS_MAX", 2)
    make_table(engine)
    fill(engine, settings, OTHERS)
    fill(engine, settings, OURS)
    others = [one for one in audit(engine).by if one.source == OTHERS] if is_sealed else []

    def die() -> None:
        raise KeyboardInterrupt

    deaths = 0
    while clean_until(engine, die):
        deaths += 1
        assert balance(engine).unaccounted == 0
        if deaths % 2:
            audit(engine)
        assert deaths < 50

    assert deaths >= 5, "four batches, and the accounts"
    assert counts(engine, "events", "runs", "accounts") == {"events": 9, "runs": 8, "accounts": 2}
    left = audit(engine).by
    assert {one.source for one in left} == {OTHERS}
    assert not is_sealed or left == others


def clean_until(engine: Engine, die: Any) -> bool:
    """Whether it died, at its first commit that removed something."""
    cleaning = Cleaning(engine, PREFIX)
    cleaning._after_batch = lambda: die() if cleaning.removed != Removed() else None
    try:
        cleaning.run()
    except KeyboardInterrupt:
        return True
    return False


def test_the_books_balance_at_every_moment_beside_fold_and_recount(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_EVENTS_MAX", 3)
    make_table(engine)
    for number in range(6):
        fill(engine, settings, f"{PREFIX}{number}")
    fill(engine, settings, OTHERS)
    others = [one for one in audit(engine).by if one.source == OTHERS]
    seen: list[int] = []
    is_over = Event()

    def keep_books() -> None:
        while not is_over.is_set():
            fold_once(engine)
            found = recount_once(engine, closed_minutes=-1, is_forced=True)
            seen.append(found.discrepancy + balance(engine).unaccounted)

    duties = [Thread(target=keep_books) for _ in range(2)]
    for duty in duties:
        duty.start()
    removed = clean(engine)
    is_over.set()
    for duty in duties:
        duty.join()

    assert (removed.events, removed.runs, removed.accounts) == (54, 48, 12)
    assert seen
    assert set(seen) == {0}
    assert audit(engine).by == others
    assert counts(engine, "counter_totals", "accounts") == {"counter_totals": 2, "accounts": 2}


def test_what_edits_made_of_ours_goes_too_and_what_they_made_of_others_stays(
    engine: Engine, settings: Settings
) -> None:
    ours, others = fill_failed(engine, settings, OURS), fill_failed(engine, settings, OTHERS)
    kept = edit(engine, others[0])
    settle(engine, [kept], "failed")
    before = counts(engine, "events", "runs", "identities", "edits")
    ours += fill_failed(engine, settings, f"{PREFIX}2-b")
    first = edit(engine, ours[0])
    settle(engine, [first], "failed")
    second = edit(engine, first)

    with pytest.raises(NotOver, match="1 runs of proofs are open"):
        clean(engine)
    settle(engine, [second], "succeeded")
    removed = clean(engine)

    assert (removed.edits, removed.runs) == (2, 6)
    for table in before:
        before[table] -= {"edits": 0}.get(table, 2)
    assert counts(engine, *before) == before
    with transaction(engine) as tx:
        assert edit_rows.find(tx, kept) is not None
    assert check_groups(engine) == []
    assert audit(engine).runs.failed == 3


def test_unrouted_events_that_share_a_group_with_others_leave_it(
    engine: Engine, settings: Settings
) -> None:
    make_table(engine)
    accept(settings, OTHERS, range(2), "shop.unknown")
    accept(settings, OURS, range(3), "shop.unknown")
    while fold_once(engine, unrouted_groups_max=0):
        pass
    assert check_groups(engine) == []

    clean(engine)

    assert check_groups(engine) == []
    assert audit(engine).events.unrouted == 2


def edit(engine: Engine, run_id: str) -> str:
    """The run that an edit makes of a failed one."""
    new_ids = EventIds(Random(run_id).getrandbits)
    of = EditOf("", "ann", "mended", 1_000_000, new_ids, 1_000)
    return edit_now(engine, run_id, [{"op": "replace", "path": "", "value": 1}], None, of).id


def test_what_is_open_is_never_removed(engine: Engine, settings: Settings) -> None:
    make_table(engine)
    runs = fill(engine, settings, OURS)
    audit(engine)
    before = counts(engine, *TABLES)
    replay(engine, runs[-1:], ReplayMode.BEGINNING, "again", "ann")
    before["actions"] += 1

    with pytest.raises(NotOver, match="1 runs of proofs are open; wait until they have ended"):
        clean(engine)

    assert counts(engine, *TABLES) == before
    settle(engine, runs[-1:], "succeeded")
    assert clean(engine).runs == 8
    assert audit(engine).by == []


def test_a_run_that_is_replayed_meanwhile_stops_it(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_EVENTS_MAX", 2)
    make_table(engine)
    runs = fill(engine, settings, OURS)
    again = [runs[-1]]
    cleaning = Cleaning(
        engine,
        PREFIX,
        lambda: again and replay(engine, [again.pop()], ReplayMode.BEGINNING, "", "ann"),
    )

    with pytest.raises(NotOver):
        cleaning.run()

    assert 0 < counts(engine, "runs")["runs"] < 8
    assert audit(engine).runs.open == 1


def test_rows_that_lost_each_other_go_too(engine: Engine, settings: Settings) -> None:
    runs = fill_without_effects(engine, settings)
    run_sql(
        engine,
        f"delete from runs where id = '{runs[0]}'",
        f"delete from events where id = (select event_id from runs where id = '{runs[1]}')",
        f"delete from identities where sender_id = '2' and source = '{OURS}'",
    )

    clean(engine)

    assert set(counts(engine, "events", "identities", "runs", *BOOKS).values()) == {0}
    assert audit(engine).unaccounted == 0


def fill_without_effects(engine: Engine, settings: Settings) -> list[str]:
    """A deployment that was never proved with VELTRIX_PROVE has no table of effects."""
    subscribe(engine, subscription("fulfil", PLACED))
    runs = accept(settings, OURS, range(4))
    settle(engine, runs, "succeeded")
    return runs


def test_replays_keep_the_runs_of_others_and_go_when_they_have_none(
    engine: Engine, settings: Settings
) -> None:
    make_table(engine)
    ours, others = fill(engine, settings, OURS)[6:], fill(engine, settings, OTHERS)[6:]
    mixed = started_replay(engine, *ours, *others)
    proof_only, other_only = started_replay(engine, ours[0]), started_replay(engine, others[0])
    replaying = Mover(engine, settings, EventIds(Random(3).getrandbits))
    until(lambda: not open_of(engine, mixed, replaying), what="every run to be moved")
    settle(engine, [ours[0], others[0]], "succeeded")
    settle(engine, [ours[1], others[1]], "failed")
    replaying.once()
    assert told(engine, mixed) == ("done", 4, 4, 2, 2, 0)
    assert told(engine, proof_only) == ("done", 1, 0, 0, 0, 1)

    removed = clean(engine)

    assert (removed.replay_runs, removed.replays) == (3, 1)
    assert told(engine, mixed) == ("done", 2, 2, 1, 1, 0)
    assert told(engine, other_only) == ("done", 1, 0, 0, 0, 1)
    assert told(engine, proof_only) is None
    assert counts(engine, "replays", "replay_runs") == {"replays": 2, "replay_runs": 3}
    assert audit(engine).unaccounted == 0


def test_a_replay_that_was_planned_goes_on_with_the_runs_that_are_left(
    engine: Engine, settings: Settings
) -> None:
    ours, others = fill_failed(engine, settings, OURS), fill_failed(engine, settings, OTHERS)
    id_ = started_replay(engine, *ours, *others)

    assert clean(engine).replay_runs == len(ours)
    replaying = Mover(engine, settings, EventIds(Random(3).getrandbits))
    until(lambda: not open_of(engine, id_, replaying), what="every run to be moved")
    settle(engine, others, "succeeded")
    replaying.once()

    assert told(engine, id_) == ("done", 2, 2, 2, 0, 0)


def fill_failed(engine: Engine, settings: Settings, source: str) -> list[str]:
    """Two runs that failed."""
    subscribe(engine, subscription("fulfil", PLACED))
    runs = accept(settings, source, range(2))
    settle(engine, runs, "failed")
    return runs


def started_replay(engine: Engine, *run_ids: str) -> str:
    """A replay of these failed runs, which relays may move now."""
    asked = PlanRequest(
        wanted=RunQuery(ids=run_ids),
        options=Options(rate=100_000.0, stop_share=None),
        author="ann",
        reason="mended",
        request={},
    )
    id_ = plan(engine, asked, 1_000_000).id
    act(engine, id_, Verb.START, reason="go", author="ann")
    return id_


def open_of(engine: Engine, replay_id: str, replaying: Mover) -> int:
    """How many runs of the replay wait for their turn after one look of a relay."""
    replaying.once()
    with transaction(engine) as tx:
        story = read.find(tx, replay_id)
    assert story is not None
    return story.planned - story.replayed - story.skipped


def told(engine: Engine, replay_id: str) -> tuple[Any, ...] | None:
    """State, planned, replayed, succeeded, failed again, skipped; None: there is no such replay."""
    with transaction(engine) as tx:
        story = read.find(tx, replay_id)
    if story is None:
        return None
    outcomes = (story.succeeded, story.failed_again, story.skipped)
    return (story.state, story.planned, story.replayed, *outcomes)


def test_it_waits_its_turn_at_the_books(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BOOKS_WAIT_S", 0.2)
    fill_without_effects(engine, settings)
    with transaction(engine) as tx:
        assert lock_books(tx)
        with pytest.raises(CannotStart, match="the same command removes these"):
            clean(engine)
        assert counts(engine, "events", "accounts") == {"events": 0, "accounts": 1}
        assert balance(engine).unaccounted == 0

    assert clean(engine).accounts == 1
    assert fold_once(engine) == 0


def test_only_sources_of_proofs_are_removed(engine: Engine) -> None:
    with pytest.raises(ValueError, match="only what begins with"):
        clean(engine, "/")
