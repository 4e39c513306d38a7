"""Sabotage: known ways to lose, double or forget work, switched on so that the checker must see it.

`python -m veltrix.prove.sabotage.catalog NAME worker` is `veltrix worker` with a function or
statement replaced: the product itself has no switch for any of it. Some mistakes lose nothing here
because the ledger remembers what the broker forgot (`due_at`); those take that net away as well, as
a design that trusts its broker would.
"""

import json
import runpy
import sys
from collections.abc import Callable
from functools import wraps
from queue import SimpleQueue
from threading import Thread
from typing import Any

from veltrix.dev.platform import Kind
from veltrix.prove.sabotage import authors, handed, history, servers
from veltrix.prove.sabotage.swaps import Saboteur, nothing, replace, swap

_INSERTS = (
    ("veltrix.pipeline.accept.ledger_rows", "_INSERT"),
    ("veltrix.pipeline.accept.new_rows", "_INSERT_NEW"),
)

# The ledger forgets what it handed over


def due_cleared_at_publish() -> None:
    """A run that was handed over is the broker's: nothing makes it due again."""
    swap(
        "veltrix.pipeline.relay.due_rows",
        "_SCAN",
        ("due_at = now() +", "due_at = 'infinity'::timestamptz +"),
    )
    for place in _INSERTS:
        swap(
            *place,
            (
                "now() + case",
                "case when r.hinted then 'infinity'::timestamptz else now() end + case",
            ),
        )
    for name in ("make_due", "make_runs_due"):
        replace("veltrix.pipeline.relay.relay", name, nothing(0))
        replace("veltrix.pipeline.relay.hint_looks", name, nothing(0))


def early_ack() -> None:
    """Messages are acknowledged when they arrive, and the broker is all that remembers them."""
    due_cleared_at_publish()

    def early(on_message: Any) -> Any:
        @wraps(on_message)
        def taken(self: Any, message: Any) -> None:
            message.ack()
            on_message(self, message)

        return taken

    replace("veltrix.worker.parent.consumer", "ListConsumer._on_message", early)
    replace("veltrix.worker.parent.consumer", "ListConsumer.acknowledge", nothing())


def no_confirms() -> None:
    """What was written to the socket counts as delivered; every fourth list is lost on its way.

    With confirms such a loss is found out, and the connection given up.
    """
    due_cleared_at_publish()

    def believing(publish: Any) -> Any:
        written = 0

        @wraps(publish)
        def believed(self: Any, messages: Any) -> int:
            nonlocal written
            written += 1
            is_lost = written % 4 == 0
            taken: int = len(messages) if is_lost else publish(self, messages)
            self._said.confirmed.extend(messages[:taken])
            self._unconfirmed.clear()
            return taken

        return believed

    replace("veltrix.broker.publisher", "Publisher.publish", believing)


def rescue_off() -> None:
    """Nobody looks for the runs of dead workers."""

    def blind(scan: Any) -> Any:
        return lambda *args, **keywords: scan(*args, **{**keywords, "rescue": ()})

    replace("veltrix.pipeline.relay.relay", "scan", blind)


# Accept


def answered_before_commit() -> None:
    """The 202 is sent at once; the ledger is written half a second later."""
    lists: SimpleQueue[Any] = SimpleQueue()

    def late(write: Any) -> Any:
        @wraps(write)
        def written(self: Any, tx: Any, accounts: Any, hold_s: float) -> None:
            self._fresh = {item.event_id for item in self._undecided}
            lists.put((self, tx.engine, accounts, hold_s))

        Thread(target=_write_late, args=(write, lists), daemon=True).start()
        return written

    replace("veltrix.pipeline.accept.event_list", "AcceptList.write", late)
    replace("veltrix.pipeline.accept.event_list", "AcceptList.hinted_runs", nothing([]))


def _write_late(write: Any, lists: "SimpleQueue[Any]") -> None:
    from threading import Event

    from veltrix.store.transactions import open_autocommit

    never = Event()
    while True:
        accept_list, engine, accounts, hold_s = lists.get()
        never.wait(0.5)
        with open_autocommit(engine) as tx:
            write(accept_list, tx, accounts, hold_s)


def identity_forgotten() -> None:
    """An event that is sent again is another event."""
    forgetful = (
        "select source, sender_id, digest,",
        "select source, sender_id || event_id, digest,",
    )
    for place in _INSERTS:
        swap(*place, forgetful)


def content_normalised() -> None:
    """JSON is stored as this program would have written it."""

    def normal(init: Any) -> Any:
        @wraps(init)
        def made(self: Any, submissions: Any, *args: Any, **keywords: Any) -> None:
            for submission in submissions:
                event = submission.event
                if event.data_json is not None:
                    event.data_json = json.dumps(json.loads(event.data_json))
            init(self, submissions, *args, **keywords)

        return made

    replace("veltrix.pipeline.accept.event_list", "AcceptList.__init__", normal)


def unrouted_dropped() -> None:
    """Events that nobody subscribes to get their 202 and are forgotten."""

    def dropping(init: Any) -> Any:
        @wraps(init)
        def made(self: Any, *args: Any, **keywords: Any) -> None:
            init(self, *args, **keywords)
            self._fresh = {item.event_id for item in self._undecided if not item.runs}
            self._undecided = [item for item in self._undecided if item.runs]

        return made

    replace("veltrix.pipeline.accept.event_list", "AcceptList.__init__", dropping)


def conflicts_overwrite() -> None:
    """Other content under a known identity is refused, and replaces what was there."""

    def overwriting(write: Any) -> Any:
        @wraps(write)
        def written(self: Any, tx: Any, accounts: Any, hold_s: float) -> None:
            write(self, tx, accounts, hold_s)
            for identity, known in self._known.items():
                event = self._by_identity[identity].event
                if event.digest != known.digest and event.data_json is not None:
                    tx.exec_driver_sql(
                        "update events set data = %(data)s::json, data_binary = null,"
                        " datacontenttype = %(type)s where id = %(id)s::uuid",
                        {
                            "data": event.data_json,
                            "type": event.datacontenttype,
                            "id": known.event_id,
                        },
                    )

        return written

    replace("veltrix.pipeline.accept.event_list", "AcceptList.write", overwriting)


# Work


def settle_without_token() -> None:
    """Whoever comes to an end writes it, whether the run is still his or not."""
    for piece in ("_LOCKED", "_MOVED"):
        swap(
            "veltrix.pipeline.execute.journal_statement",
            piece,
            ("r.lease_token = any(%(tokens)s)", "(r.lease_token = any(%(tokens)s) or true)"),
        )
    swap(
        "veltrix.pipeline.execute.lease_rows",
        "_LOCK_HELD",
        ("lease_token = any(%(tokens)s)", "(lease_token = any(%(tokens)s) or true)"),
    )


def journal_after_next_step() -> None:
    """The next step begins while the one before it is not written yet."""

    def eager(land: Any) -> Any:
        @wraps(land)
        def landed(self: Any, hand: Any, step: Any, value: Any, error: Any, dirty: Any) -> Any:
            now = land(self, hand, step, value, error, dirty)
            execution = step.execution
            unwritten, execution.unwritten = execution.unwritten, []
            later: list[Any] = []
            self._start(hand, execution, later, dirty)
            execution.unwritten = unwritten + execution.unwritten
            execution.pending += later  # transactional steps wait for their turn all the same
            execution.in_flight -= len(later)
            return now

        return landed

    replace("veltrix.pipeline.execute.engine", "BatchExecutor._land", eager)


def journal_forgotten() -> None:
    """A run that is taken up again begins from its beginning."""

    def blank(past: Any) -> Any:
        @wraps(past)
        def nothing_past(*arguments: Any) -> Any:
            found = past(*arguments)
            for one in found.values():
                one.entries.clear()
            return found

        return nothing_past

    replace("veltrix.pipeline.execute.journal_rows", "past", blank)


def lease_shorter_than_work() -> None:
    """A lease ends after a twentieth of a second and is not renewed."""
    for place in _INSERTS:
        swap(*place, ("case when r.hinted then %(hold_s)s", "case when r.hinted then 0.05"))
    replace(
        "veltrix.pipeline.execute.lease_rows",
        "announce",
        lambda _: lambda _tx, _tokens, _id, handed, _hold_s: {run_id for run_id, _, _ in handed},
    )
    swap(
        "veltrix.pipeline.execute.lease_rows",
        "_CLAIM",
        ("now() + %(hold_s)s * interval '1 second'", "now() + interval '50 milliseconds'"),
    )
    replace(
        "veltrix.pipeline.execute.lease_rows",
        "renew",
        lambda _: lambda _tx, _token, ids, _hold_s: set(ids),
    )


def key_per_attempt() -> None:
    """Every attempt of a step has another idempotency key."""

    def changing(context_of: Any) -> Any:
        def context(step: Any) -> Any:
            from msgspec import structs

            found = context_of(step)
            return structs.replace(
                found, idempotency_key=f"{found.idempotency_key}/{found.attempt}"
            )

        return context

    replace("veltrix.pipeline.execute.step_calls", "context_of", changing)


def effects_beside_the_transaction() -> None:
    """The session of a transactional step commits by itself."""
    from sqlalchemy.orm import Session

    def apart(_session: Any) -> Any:
        return lambda bind, **_: Session(
            bind=bind.engine.execution_options(isolation_level="AUTOCOMMIT")
        )

    replace("veltrix.pipeline.execute.transactional.together", "_StepSession", apart)
    replace("veltrix.pipeline.execute.transactional.savepoints", "Session", apart)


def shutdown_cancels() -> None:
    """A worker that is told to end cancels what it has in hand."""
    from veltrix.domain.states import RunState

    def cancelling(leave: Any) -> Any:
        @wraps(leave)
        def left(self: Any, hand: Any, transactions: Any, dirty: Any) -> None:
            leave(self, hand, transactions, dirty)
            for execution in dirty:
                if execution.settlement is not None and execution.settlement.state == "queued":
                    execution.settlement = None
                    execution.settle(RunState.CANCELLED)

        return left

    replace("veltrix.pipeline.execute.engine", "BatchExecutor._leave", cancelling)


# What nobody may lose sight of


def dead_letters_dropped() -> None:
    """Messages that nobody can read are acknowledged, and that is all."""

    def silent(_refuse: Any) -> Any:
        return lambda self, message, _reason, _detail: self.acknowledge(message)

    replace("veltrix.worker.parent.consumer", "ListConsumer._refuse", silent)
    replace("veltrix.worker.child.child", "WorkerChild._write_unknown", nothing())


def failures_not_counted() -> None:
    """The books know of successes only."""
    swap(
        "veltrix.pipeline.execute.journal_statement",
        "_COUNTED",
        ("sum((state = 'failed')::int)", "sum((state = 'nothing')::int)"),
    )


SABOTAGES: dict[str, Saboteur] = {
    one.__name__: one
    for one in (
        due_cleared_at_publish,
        early_ack,
        no_confirms,
        rescue_off,
        answered_before_commit,
        identity_forgotten,
        content_normalised,
        unrouted_dropped,
        conflicts_overwrite,
        settle_without_token,
        journal_after_next_step,
        journal_forgotten,
        lease_shorter_than_work,
        key_per_attempt,
        effects_beside_the_transaction,
        shutdown_cancels,
        dead_letters_dropped,
        failures_not_counted,
    )
}
SABOTAGES |= authors.SABOTAGES | servers.SABOTAGES | handed.SABOTAGES | history.SABOTAGES


def sabotaged(name: str) -> Callable[[Kind], tuple[str, ...]]:
    """The command line of each process with this sabotage; for `Platform(command_of=...)`."""
    assert name in SABOTAGES
    return lambda kind: (sys.executable, "-m", "veltrix.prove.sabotage.catalog", name, kind)


def main() -> None:
    """The harness's own entry: sabotage, then the process as it always starts."""
    _, name, *words = sys.argv
    SABOTAGES[name]()
    sys.argv = ["veltrix", *words]
    runpy.run_module("veltrix.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
