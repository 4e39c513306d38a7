"""Does an input fit the JSON Schema that its workflow declares?"""

from functools import cached_property
from itertools import islice
from typing import Any

import msgspec
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

_VIOLATIONS_MAX = 20


class Violation(msgspec.Struct, frozen=True):
    """One way in which an input does not fit its schema; `at` is a JSON pointer into the input."""

    at: str
    message: str


class InputSchema:
    """The check of a workflow's input; None: the workflow declares no type and takes anything."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self._schema = schema

    @cached_property
    def _validator(self) -> Validator | None:
        if self._schema is None:
            return None
        kind = validator_for(self._schema)
        try:
            kind.check_schema(self._schema)
        except SchemaError:
            return None
        return kind(self._schema, registry=Registry())  # nothing is fetched from anywhere

    def violations(self, value: Any) -> list[Violation]:
        """What is wrong with this input; empty: nothing, or the workflow declares no type.

        A schema that cannot be followed finds nothing: the worker's own check decides.
        """
        if self._validator is None:
            return []
        try:
            first = list(islice(self._validator.iter_errors(value), _VIOLATIONS_MAX))
        except (Unresolvable, RecursionError):
            return []
        return [
            Violation("".join(f"/{part}" for part in error.absolute_path), error.message[:500])
            for error in first
        ]
