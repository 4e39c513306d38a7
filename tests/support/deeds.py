"""Runs of one transactional step each, which does what its test says."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, Integer, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.support.due_runs import add_runs, read_runs
from tests.support.hands import PooledHands
from veltrix import Event, transaction, workflow
from veltrix.authoring.workflows import Workflow
from veltrix.store.transactions import transaction as open_transaction

Deed = Callable[[Session], Any]
calls: Counter[str] = Counter()
deeds: dict[str, Deed] = {}


class Kept(DeclarativeBase):
    """The authors' tables."""


class Effect(Kept):
    """A row of a step."""

    __tablename__ = "effects"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    amount: Mapped[int] = mapped_column(Integer, default=1)


def put(session: Session, what: str) -> None:
    session.execute(text("insert into effects values (:id, 1)"), {"id": what})


@transaction(retries=0)
def do(session: Session, what: str) -> Any:
    calls[what] += 1
    deed = deeds.get(what)
    return put(session, what) if deed is None else deed(session)


@transaction(retries=0)
def look(session: Session, what: str) -> Any:
    calls[what] += 1
    return deeds["look"](session)


@workflow(name="fulfil", retries=0)
async def doing(event: Event[Any]) -> Any:
    if event.data.startswith("look"):
        return await look(event.data)
    return await do(event.data)


class QuickHands(PooledHands):
    """For whom no time passes, so that a transaction ends when it is full."""

    def __init__(self, engine: Engine, workflows: list[Workflow] | None = None) -> None:
        super().__init__(engine, workflows or [doing], monotonic=lambda: 0.0)


def add(engine: Engine, *whats: str) -> list[str]:
    return [add_runs(engine, 1, data=f'"{what}"')[0] for what in whats]


def transactions(engine: Engine) -> Counter[str]:
    """How many effects each transaction has."""
    with open_transaction(engine) as tx:
        return Counter(tx.execute(text("select xmin::text from effects")).scalars())


def effects(engine: Engine) -> list[str]:
    with open_transaction(engine) as tx:
        return list(tx.execute(text("select id from effects order by id")).scalars())


def ends(engine: Engine, run_ids: list[str]) -> list[tuple[str, Any]]:
    rows = {row.key: row for row in read_runs(engine, run_ids, "id::text as key, state, outcome")}
    return [(rows[run_id].state, rows[run_id].outcome) for run_id in run_ids]


def names(count: int) -> list[str]:
    return [f"{n:03}" for n in range(count)]


def make_tables(engine: Engine) -> None:
    """What the steps write to; nothing of the test before is known."""
    calls.clear()
    deeds.clear()
    with open_transaction(engine) as tx:
        Kept.metadata.create_all(tx)
        tx.execute(text("create table stock (id int primary key, left_over int)"))
        tx.execute(text("insert into stock values (1, 1000)"))
