"""Does an input fit the JSON Schema that its workflow declares?"""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import msgspec
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from veltrix.authoring.input_formats import LENIENT, STRICT, base64_problem
from veltrix.authoring.time_formats import READ_BY_MSGSPEC

_VIOLATIONS_MAX = 20
_extend: Any = extend


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
        is_strict = self._schema.get("$comment") == READ_BY_MSGSPEC
        types = kind.TYPE_CHECKER.redefine("integer", _is_int) if is_strict else kind.TYPE_CHECKER
        made = _extend(kind, {"contentEncoding": _encoding}, type_checker=types)
        # Nothing is fetched from anywhere.
        checker = STRICT if is_strict else LENIENT
        validator: Validator = made(self._schema, registry=Registry(), format_checker=checker)
        return validator

    def violations(self, value: Any) -> list[Violation]:
        """What is wrong with this input; empty: nothing, or the workflow declares no type.

        A schema that cannot be followed finds nothing: the worker's own check decides.
        """
        if self._validator is None:
            return []
        try:
            errors = (one for error in self._validator.iter_errors(value) for one in _places(error))
            first = list(islice(errors, _VIOLATIONS_MAX))
        except (Unresolvable, RecursionError):
            return []
        return [
            Violation("".join(f"/{part}" for part in error.absolute_path), error.message[:500])
            for error in first
        ]


def _places(error: Any) -> Iterator[Any]:
    """Where a value that fits none of several types does not fit the only one that it could be."""
    by_option: dict[Any, list[Any]] = {}
    for inner in error.context if error.validator in ("anyOf", "oneOf") else ():
        by_option.setdefault(inner.schema_path[0], []).append(inner)
    possible = [inner for inner in by_option.values() if not _is_of_other_type(inner)]
    if len(possible) != 1:
        yield error
        return
    for inner in possible[0]:
        yield from _places(inner)


def _is_of_other_type(errors: list[Any]) -> bool:
    return any(error.validator in ("type", "enum") and not error.path for error in errors)


def _is_int(_checker: Any, value: object) -> bool:
    """`3.0` is none for msgspec, where JSON Schema says that it is."""
    return isinstance(value, int) and not isinstance(value, bool)


def _encoding(_validator: Any, encoding: Any, value: Any, _schema: Any) -> Iterator[Any]:
    problem = base64_problem(value) if encoding == "base64" else None
    if problem is not None:
        yield ValidationError(problem)
