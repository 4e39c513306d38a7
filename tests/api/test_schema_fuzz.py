"""The OpenAPI document is true: whatever fits it, or does not, gets an answer that it describes."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Engine

from app.api.openapi_docs import document
from app.pipeline.books import balance
from app.pipeline.groups import check_groups, fold_groups_once
from tests.support.due_runs import add_runs, subscribe
from tests.support.served import Client, served
from tests.support.settled import settle

EXAMPLES_MAX = 12
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
    settle(engine, add_runs(engine, 2), "failed", reason="error", fingerprint="a" * 16)
    settle(engine, add_runs(engine, 2), "succeeded", outcome="1")
    add_runs(engine, 2)
    fold_groups_once(engine)
    with served(engine, database_url, wait_s_max=1) as client:
        yield client


def test_every_answer_is_one_that_the_document_describes(engine: Engine, api: Client) -> None:
    schema = schemathesis.openapi.from_dict(document())
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
        @given(case=operation.as_strategy())
        def call(case: Case[Any]) -> None:
            answer = case.call(base_url=api.url)
            case.validate_response(answer, checks=CHECKS)

        call()
        tried.append(operation.label)

    assert len(tried) > 25
    assert balance(engine).unaccounted == 0
    assert check_groups(engine) == []
