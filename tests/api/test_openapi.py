"""The OpenAPI document is one that generators make a good client of: names, formats, examples."""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from veltrix.api.openapi import document_of
from veltrix.docs.openapi import document

METHODS = {"get", "put", "post", "delete", "patch"}
# Clients call these: a name that is gone breaks them.
OPERATIONS = """
abort_replay archive_runs cancel_run cancel_runs count_runs edit_run ignore_failure list_audit
list_dead_letters list_events list_failures list_replay_runs list_replays list_runs
list_unserved list_workers list_workflows livez metrics note_failure pause_replay plan_replay
plan_retention post_events
preview_edit preview_retention read_audit read_balance read_dead_letter read_edit read_event
read_failure read_replay read_retention read_run readyz reopen_failure replay_run replay_runs
resolve_failure restore_runs resume_replay see_dead_letters set_retention show_doctor start_replay
start_workflow
"""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
# Cursors are nobody's business; a sender's time is kept as text, with its leap seconds; an action
# may be done to a thing with any name.
TEXT_WHATEVER_IT_HOLDS = {"next", "time", "target_id"}

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return document()


def operations(told: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield method, path, operation


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where, media type, what) of each body and answer."""
    for media_type, shown in operation.get("requestBody", {}).get("content", {}).items():
        yield "body", media_type, shown
    for status, answer in operation["responses"].items():
        for media_type, shown in answer.get("content", {}).items():
            yield status, media_type, shown


def examples(shown: dict[str, Any]) -> list[Any]:
    return [one["value"] for one in shown.get("examples", {}).values()] or [shown["example"]]


def test_the_document_is_valid(told: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(told).validate()
    assert told["servers"][0]["url"] == "/"
    assert {tag["name"] for tag in told["tags"]} == {
        tag for _, _, operation in operations(told) for tag in operation["tags"]
    }


def test_names_of_operations_stay(told: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(told)]

    assert sorted(names) == OPERATIONS.split()


def test_what_is_sent_and_answered_has_a_name_and_an_example_that_fits(
    told: dict[str, Any],
) -> None:
    for method, path, operation in operations(told):
        for where, media_type, shown in contents(operation):
            at = f"{method} {path} {where} {media_type}"
            if media_type in {"*/*", "application/octet-stream", "text/plain"}:
                continue  # any bytes
            assert list(shown["schema"]) == ["$ref"], at
            if where == "default":
                continue
            name = shown["schema"]["$ref"].removeprefix("#/components/schemas/")
            schema = {"$ref": shown["schema"]["$ref"], "components": told["components"]}
            assert name in told["components"]["schemas"], at
            for example in examples(shown):
                Draft202012Validator(schema).validate(example)


def test_problems_are_problems_and_health_needs_no_key(told: dict[str, Any]) -> None:
    problem = {"$ref": "#/components/schemas/Problem"}
    for method, path, operation in operations(told):
        for where, media_type, shown in contents(operation):
            is_problem = where == "default" or (where != "body" and int(where) >= 400)
            if is_problem and media_type == "application/problem+json":
                assert shown["schema"] == problem
            elif is_problem:  # a batch of which nothing was taken; what `/readyz` finds
                assert (method, path) in {
                    ("post", "/v1/events"),
                    ("post", "/v1/workflows/{name}/runs"),
                    ("get", "/readyz"),
                }
        assert (operation.get("security") == []) == (not path.startswith("/v1/"))


def test_times_and_ids_are_told_as_such(told: dict[str, Any]) -> None:
    schemas = told["components"]["schemas"]
    formats = []

    def look(schema: dict[str, Any], value: Any, name: str) -> None:
        options = [schema, *schema.get("anyOf", [])]
        options = [schemas[o["$ref"].rpartition("/")[2]] if "$ref" in o else o for o in options]
        if isinstance(value, dict):
            known = {n: s for o in options for n, s in o.get("properties", {}).items()}
            for member, one in value.items():
                look(known.get(member, {}), one, member)
        elif isinstance(value, list):
            for one in value:
                look(next((o["items"] for o in options if "items" in o), {}), one, name)
        elif isinstance(value, str) and schema and name not in TEXT_WHATEVER_IT_HOLDS:
            wanted = (
                "uuid" if UUID.fullmatch(value) else "date-time" if TIME.fullmatch(value) else ""
            )
            found = {o.get("format", "") for o in options if o.get("type") == "string"}
            if wanted:
                formats.append(wanted)
                assert found == {wanted}, (name, value, schema)

    for _, _, operation in operations(told):
        for where, media_type, shown in contents(operation):
            if where != "default" and media_type.endswith("json"):
                for example in examples(shown):
                    look(shown["schema"], example, "")
    # Of what no example shows, the name says that it is a time.
    for name, schema in schemas.items():
        for member, one in schema.get("properties", {}).items():
            if re.fullmatch(r"at|since|until|as_of|\w+_at", member):
                assert "date-time" in str(one), (name, member)
    assert {"uuid", "date-time"} == set(formats)


def test_parameters_are_told_by_form(told: dict[str, Any]) -> None:
    for _, path, operation in operations(told):
        for parameter in operation.get("parameters", []):
            if parameter.get("name") in {"run_id", "replay_id", "event_id", "event"}:
                assert "uuid" in str(parameter["schema"]), (path, parameter)
            if parameter.get("name") in {"since", "until"}:
                assert "date-time" in str(parameter["schema"]), (path, parameter)


def test_two_classes_of_one_name_are_in_no_document() -> None:
    class RunStory(Enum):  # as the answer for a run is called
        SHORT = "short"

    app = FastAPI()

    def stories(kind: RunStory) -> None:
        del kind

    app.add_api_route("/v1/stories", stories, methods=["GET"])
    for path in ("/v1/events", "/v1/workflows/{name}/runs"):
        app.add_api_route(path, lambda: None, methods=["POST"])

    with pytest.raises(TypeError, match="two classes are called RunStory"):
        document_of(app)
