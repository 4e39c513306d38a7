"""Values of authors' code as JSON text and back: what the journal can keep.

A value is given to the workflow as the journal would give it after a crash, so that both runs see
the same: a tuple becomes a list, unless the annotation says what it is.
"""

import inspect
import typing
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from typing import Any

from veltrix.authoring.annotations import (
    NoReader,
    Reader,
    alternatives,
    hints_of,
    is_anything,
    is_record,
    plain,
    reader,
    same_as_json,
    shown,
    unresolved,
)
from veltrix.authoring.code import function_of
from veltrix.authoring.flow import type_and_message
from veltrix.authoring.json_form import has_non_finite, write, write_ordered
from veltrix.domain.events import Event

CUT = "… (and "  # where kept arguments end before their end


class Unstorable(ValueError):
    """The value cannot be kept as JSON; the message says why."""


class InvalidInput(ValueError):
    """The event's data does not fit the input type that the workflow declares."""


def encode(value: Any, bytes_max: int) -> str:
    """`value` as JSON text, at most `bytes_max` bytes of it. Raises Unstorable."""
    try:
        encoded = write(value)
        text = encoded.decode()
        is_finite = value is None or "null" not in text or not has_non_finite(value)
    except BaseException as error:  # the values' own code may raise anything
        why = type_and_message(error)[1]
        raise Unstorable(f"{type(value).__name__} cannot be stored as JSON: {why}") from error
    if len(encoded) > bytes_max:
        raise Unstorable(f"{len(encoded):,} bytes of JSON, more than the {bytes_max:,} allowed")
    if not is_finite:
        raise Unstorable("NaN and infinity have no JSON form")
    return text


def digest_and_json(
    arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[bytes | None, bytes | None]:
    """What tells whether a step has the arguments it was recorded with, and the JSON it is of.

    The same for equal arguments in every process, whatever the order of their dicts and sets. The
    JSON is `[[arguments], {keywords}]`, of any length. None: they have no JSON form, so nobody can
    tell.
    """
    try:
        encoded = write_ordered((arguments, keywords))
    except Exception:  # noqa: BLE001 - the values' own code may raise anything
        return None, None
    return blake2b(encoded, digest_size=8).digest(), encoded


def digest(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bytes | None:
    """The first of `digest_and_json`."""
    return digest_and_json(arguments, keywords)[0]


def arguments_text(encoded: bytes | None, bytes_max: int) -> str | None:
    """The JSON of `digest_and_json` for people to read; if longer, its beginning and a mark.

    None: nothing is kept. Arguments without a JSON form are kept as a word on why.
    """
    if not bytes_max:
        return None
    if encoded is None:
        return "(no JSON form)"
    if len(encoded) <= bytes_max:
        return encoded.decode()
    kept = encoded[:bytes_max].decode(errors="ignore")
    return f"{kept}{CUT}{len(encoded) - bytes_max:,} bytes more)"


def is_other_call(
    recorded: bytes | None,
    asked: bytes | None,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> bool:
    """The journal holds the digest of other arguments than these, whose digest is `asked`.

    A digest of older code, which took dicts in the order they had, is recognised.
    """
    if recorded is None or asked is None or recorded == asked:
        return False
    try:
        return recorded != blake2b(write((arguments, keywords)), digest_size=8).digest()
    except Exception:  # noqa: BLE001 - as above
        return True


class Codec:
    """What a function's annotations say of its input (an `Event[...]`) and its output."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._called = function_of(function), function

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return hints_of(self._function)

    @cached_property
    def _output(self) -> Callable[[str], Any]:
        try:
            return reader(self._hints.get("return", Any), is_output=True).decode
        except NoReader:
            return plain

    @cached_property
    def _unread(self) -> frozenset[type]:
        return same_as_json(self._hints.get("return", Any))

    @cached_property
    def _parameter(self) -> Any:
        # Of what is called: a partial has filled the first ones of its function.
        first = next(iter(inspect.signature(self._called).parameters), "")
        return self._hints.get(first, Any)

    @cached_property
    def input_type(self) -> Any:
        """`T` of the first parameter's `Event[T]`, or Any."""
        for kind in alternatives(self._parameter):
            if typing.get_origin(kind) is Event:
                return typing.get_args(kind)[0]
        return Any

    @cached_property
    def _wrong_parameter(self) -> Any:
        """What the first parameter is annotated as, if that is no event but a type of data."""
        kinds = [typing.get_origin(kind) or kind for kind in alternatives(self._parameter)]
        is_data = all(is_record(kind) and not issubclass(kind, Event) for kind in kinds)
        return self._parameter if is_data else None

    @cached_property
    def input_of_bytes(self) -> type | None:
        """What the input type makes of content that is no JSON: bytes, str, or None (nothing)."""
        kinds = set(alternatives(self.input_type))
        return bytes if bytes in kinds else str if str in kinds else None

    @cached_property
    def _input(self) -> Reader:
        return reader(self.input_type, is_output=False)

    def output(self, value: Any, text: str) -> Any:
        """`value` as the journal gives it back, from its JSON `text`."""
        return value if type(value) in self._unread else self.recorded(text)

    def recorded(self, text: str) -> Any:
        """The output that the journal holds as `text`; as plain JSON if it does not fit its type.

        The same for the same text, so a value is the same just recorded and long after.
        """
        try:
            return self._output(text)
        except BaseException:  # noqa: BLE001 - the types' own code may raise anything
            return plain(text)

    def input(self, text: str) -> Any:
        """The event's data as the declared type. Raises InvalidInput."""
        try:
            return self._input.decode(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(str(error)) from error

    def input_text(self, text: str) -> Any:
        """The event's data as the declared type, of content that is text. Raises InvalidInput."""
        return text if self.input_type is str else self.input(write(text).decode())

    def input_mistakes(self) -> list[str]:
        """Why nothing can be made the input of this function; empty: something can."""
        if parameters := unresolved(self._function):
            what = f"the annotation of {parameters[0]!r} names what is not there when the code runs"
            return [f"{what}; import it outside of `if TYPE_CHECKING`"]
        if self._wrong_parameter is not None:
            name = shown(self._wrong_parameter)
            return [f"it is given an event, not {name}: annotate it as Event[{name}]"]
        try:
            self.input_schema()
        except NoReader as error:
            cure = "declare a dataclass, a msgspec.Struct, a pydantic model, or a type made of them"
            return [f"nothing can make its input type from JSON ({error}); {cure}"]
        return []

    def input_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the input type; None: it declares none, or has one that JSON cannot say.

        Raises NoReader if nothing can make the type from JSON.
        """
        return None if is_anything(self.input_type) else self._input.schema()
