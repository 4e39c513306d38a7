"""A client that openapi-python-client makes of our document works: nobody has to write one."""

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType
from sqlalchemy import Engine

from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.due_runs import add_runs
from tests.support.served import Client, served
from tests.support.settled import settle
from tests.support.wait import until
from veltrix.access import keys
from veltrix.docs.pages import DOCS
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.store.transactions import transaction

NAME, KEY, GROUP = "made_client", "k" * 43, "a" * 16
# What of the document it has no words for: event data as it is, and a list beside an event.
LEFT_OUT = ("Unsupported content type */*", "CloudEventBatch", "Could not find reference")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The package is made and can be imported; what was said about what it leaves out."""
    folder = tmp_path_factory.mktemp("made")
    named = ConfigFile(package_name_override=NAME, post_hooks=[])
    config = Config.from_sources(
        named, MetaType.NONE, DOCS / "openapi.json", "utf-8", False, folder / NAME
    )
    said = [f"{one.header} {one.detail}" for one in generate(config=config)]
    sys.path.insert(0, str(folder))
    yield said
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    subscribe(engine, subscription("fulfil", PLACED))
    with transaction(engine) as tx:
        keys.create(tx, "shop", ["events:write", "runs:read", "payloads:read"], "tests", KEY)
    with served(engine, database_url, require_keys=True, wait_s_max=30) as client:
        yield client


def operation(part: str, name: str) -> Any:
    """A call of the made client, as it is written in a program."""
    return importlib.import_module(f"{NAME}.api.{part}.{name}").sync


def test_it_leaves_out_what_it_says(made: list[str], tmp_path: Path) -> None:
    unexpected = [one for one in made if not any(words in one for words in LEFT_OUT)]

    assert unexpected == []
    assert len(made) == len(LEFT_OUT)


def test_a_generated_client_does_a_round_trip(made: list[str], engine: Engine, api: Client) -> None:
    with importlib.import_module(NAME).AuthenticatedClient(api.url, KEY) as client:
        go_round(client, engine)


def go_round(client: Any, engine: Engine) -> None:
    """Send, start and wait, list, read what failed; each answer is an object with its types."""
    models = importlib.import_module(f"{NAME}.models")

    sent = models.CloudEvent(
        specversion="1.0", id="1", source="/shop", type_=PLACED, data={"order": 1}
    )
    receipt = operation("events", "post_events")(client=client, body=sent)
    again = operation("events", "post_events")(client=client, body=sent)
    assert isinstance(receipt, models.Receipt)
    assert isinstance(receipt.event, UUID)
    assert (receipt.duplicate, again.duplicate) == (False, True)
    event = operation("events", "read_event")(receipt.event, client=client)
    assert (event.id, event.data) == ("1", {"order": 1})

    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(
            operation("workflows", "start_workflow"),
            "fulfil",
            client=client,
            body=models.StartBody(input_={"order": 2}),
            wait_s=20,
            idempotency_key="k",
        )
        (run,) = until(lambda: waited_for(engine, str(receipt.runs[0].id)), what="the start")
        settle(engine, [run], "succeeded", outcome='{"payment": "p-7"}')
        story = start.result()
    assert isinstance(story, models.RunStory)
    assert (story.id, story.state, story.outcome) == (
        *(UUID(run), models.RunState.SUCCEEDED),
        {"payment": "p-7"},
    )
    assert story.started_at <= story.settled_at

    settle(engine, add_runs(engine, 2), "failed", reason="error", fingerprint=GROUP)
    fold_groups_once(engine)
    page = operation("runs", "list_runs")(client=client, state=models.RunState.FAILED, limit=1)
    rest = operation("runs", "list_runs")(
        client=client, state=models.RunState.FAILED, cursor=page.next_
    )
    assert [len(page.items), len(rest.items)] == [1, 1]
    failure = operation("failures", "read_failure")(GROUP, client=client)
    assert (failure.count, len(failure.runs)) == (2, 2)
    refused = operation("runs", "read_run")(UUID(int=0), client=client)
    assert isinstance(refused, models.Problem)
    assert refused.type_ == "urn:veltrix:problem:not-found"


def waited_for(engine: Engine, other: str) -> list[str]:
    """The runs that were started beside this one."""
    with transaction(engine) as tx:
        found = tx.exec_driver_sql("select id::text from runs where id <> %(id)s", {"id": other})
        return list(found.scalars())
