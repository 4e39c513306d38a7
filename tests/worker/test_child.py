"""A child and its lists, in this process: what the engine cannot do fails one run, and no other."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, hand_over, read_runs
from veltrix import Event, step, workflow
from veltrix.authoring.workflows import Workflow
from veltrix.bootstrap import real_sources
from veltrix.broker.message import HANDED, Message
from veltrix.settings.fields import Settings
from veltrix.worker.child.child import WorkerChild
from veltrix.worker.child.parts import Inheritance, put_together
from veltrix.worker.jobs import ListJob, unpack_report
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.places import Places
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles

calls: list[Any] = []


@step(retries=0)
def note(what: Any) -> Any:
    calls.append(what)
    return msgspec.Raw(b"{not json") if what == "odd" else what


@workflow(name="fulfil", retries=0)
async def fulfil(event: Event[Any]) -> Any:
    return await note(event.data)


Make = Callable[..., WorkerChild]


@pytest.fixture
def child(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    calls.clear()
    # This process stays none: other tests await steps in it.
    monkeypatch.setattr("veltrix.worker.child.child.enter_worker", lambda: None)
    made: list[WorkerChild] = []

    def make(*workflows: Workflow) -> WorkerChild:
        settings = Settings.model_validate({"database_url": database_url})
        inheritance = Inheritance(
            settings=settings,
            sources=real_sources(),
            workflows={one.name: (one, "1") for one in workflows},
            queues=["orders"],
            node="tests@host",
            stamps=Stamps(tmp_path / "stamps"),
            places=Places(tmp_path / "places"),
            troubles=Troubles(tmp_path / "troubles"),
            mailbox=Mailbox(),
        )
        made.append(WorkerChild(put_together(inheritance)))
        return made[-1]

    yield make
    for one in made:
        one._watch._stopped.set()
        one._link.close()


def list_of(*messages: Message) -> ListJob:
    pairs = [(run_id, message.id) for message in messages for run_id in message.run_ids]
    handed = {}
    for message in messages:
        body = msgspec.json.decode(message.body, type=tuple[Any, Any, dict[str, msgspec.Raw]])
        handed[message.id] = bytes(body[2][HANDED])
    return ListJob(str(uuid.uuid4()), pairs, handed=handed)


def test_the_run_that_the_engine_fails_for_fails_and_its_neighbours_do_not(
    child: Make, engine: Engine
) -> None:
    odd, good = add_runs(engine, 1, data='"odd"'), add_runs(engine, 2, data='"good"')
    ids = sorted([*odd, *good])

    report = unpack_report(
        child(fulfil).run(ListJob(str(uuid.uuid4()), [(id_, id_) for id_ in ids]))
    )

    assert [report.outcomes[id_] for id_ in odd] == ["failed"]
    assert [report.outcomes[id_] for id_ in good] == ["succeeded"] * 2
    assert read_runs(engine, good, "outcome") == [("good",)] * 2


def test_a_list_whose_end_meets_what_nobody_foresaw_is_not_begun_again(
    child: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = child(fulfil)
    one.run_patiently(list_of(hand_over(engine)))
    calls.clear()
    message = hand_over(engine, 3, data='"once"')
    count, failures = one._count, iter([OSError("no space left for metrics")])

    def count_or_fail(*arguments: Any) -> None:
        for error in failures:
            raise error
        count(*arguments)

    monkeypatch.setattr(one, "_count", count_or_fail)
    one.run_patiently(list_of(message))

    assert calls == ["once"] * 3
    assert read_runs(engine, message.run_ids, "state") == [("succeeded",)] * 3
