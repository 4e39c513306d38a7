"""The OpenAPI document is true: whatever fits it, or does not, gets an answer that it describes."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, subscribe
from tests.support.served import Client, served
from tests.support.settled import settle
from veltrix.docs.openapi import document
from veltrix.domain.dead_letters import DeadLetter
from veltrix.operations.books.books import balance
from veltrix.operations.failures.triage import check_groups, fold_groups_once
from veltrix.pipeline.relay import dead_letter_rows
from veltrix.store.transactions import transaction

EXAMPLES_MAX, GROUP = 12, "a" * 16
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def api(engine: Engine, database_url: str) -> Iterator[Client]:
    """An api with runs of every kind, a group and a workflow."""
    subscribe(engine)
    settle(engine, add_runs(engine, 2), "failed", reason="error", fingerprint=GROUP)
    settle(engine, add_runs(engine, 2), "succeeded", outcome="1")
    add_runs(engine, 2)
    fold_groups_once(engine)
    with served(engine, database_url, wait_s_max=1) as client:
        yield client


def ids(engine: Engine, api: Client) -> dict[str, str]:
    """What there is, by the names that the document gives to the parts of a path."""
    asked = {"group": GROUP, "reason": "to be looked at"}
    replay = api.call("POST", "/v1/replays", asked).body["id"]
    with transaction(engine) as tx:
        failed = "select max(id::text) from runs where state = 'failed'"
        run = tx.exec_driver_sql(failed).scalar_one()
    edit = b'{"data": {}, "reason": "to be looked at"}'
    made = api.call("POST", f"/v1/runs/{run}/edit", edit, {"If-Match": "*"}).body["id"]
    with transaction(engine) as tx:
        dead_letter_rows.insert(tx, [DeadLetter(queue="orders", reason="malformed", body=b"x")])
        letter = tx.exec_driver_sql("select max(id)::text from dead_letters").scalar_one()
        event = tx.exec_driver_sql("select max(id::text) from events").scalar_one()
        audit = tx.exec_driver_sql("select max(id)::text from audit").scalar_one()
    known = {"replay_id": replay, "group_id": GROUP, "audit_id": audit, "name": "fulfil"}
    return known | {
        "event_id": event,
        "letter_id": letter,
        "run_id": run,
        "GET /v1/runs/{run_id}/edit": made,  # of others there is no edit
    }


def test_every_answer_is_one_that_the_document_describes(engine: Engine, api: Client) -> None:
    schema = schemathesis.openapi.from_dict(document())
    there, done = ids(engine, api), set()
    tried = []

    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES_MAX,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), is_there=booleans())
        def call(case: Case[Any], is_there: bool) -> None:
            if is_there:  # what a path names by chance is nowhere
                known = {n: there[n] for n in case.path_parameters if n in there}
                if "run_id" in known:
                    known["run_id"] = there.get(case.operation.label, there["run_id"])
                case.path_parameters |= known
            answer = case.call(base_url=api.url)
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code < 300:
                done.add(case.operation.label)

        call()
        tried.append(operation.label)

    assert len(tried) > 25
    assert {one for one in tried if one.startswith("GET")} - done == set()
    assert balance(engine).unaccounted == 0
    assert check_groups(engine) == []
