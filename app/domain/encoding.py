"""Values of authors' code as JSON text and back: what the journal can keep.

A value is given to the workflow as the journal would give it after a crash, so that both runs see
the same: a tuple becomes a list, unless the annotation says what it is.
"""

import math
import typing
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from typing import Any

import msgspec

from app.domain.events import Event

_PLAIN = (str, int, float, bool, type(None))


class Unstorable(ValueError):
    """The value cannot be kept as JSON; the message says why."""


class InvalidInput(ValueError):
    """The event's data does not fit the input type that the workflow declares."""


def _encode_other(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)
_decode = msgspec.json.Decoder().decode


def encode(value: Any, bytes_max: int) -> str:
    """`value` as JSON text, at most `bytes_max` bytes of it. Raises Unstorable."""
    try:
        encoded = _encoder.encode(value)
        text = encoded.decode()
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeError) as error:
        raise Unstorable(f"{type(value).__name__} cannot be stored as JSON: {error}") from error
    if len(encoded) > bytes_max:
        raise Unstorable(f"{len(encoded):,} bytes of JSON, more than the {bytes_max:,} allowed")
    if "null" in text and _has_non_finite(value):
        raise Unstorable("NaN and infinity have no JSON form")
    return text


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_has_non_finite(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_has_non_finite(item) for item in value)
    return False


def digest(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bytes | None:
    """What tells whether a step has the arguments it was recorded with; None: nobody can tell."""
    try:
        return blake2b(_encoder.encode((arguments, keywords)), digest_size=8).digest()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


class Codec:
    """What a function's annotations say of its input (an `Event[...]`) and its output."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self._function)
        except (NameError, TypeError, AttributeError):
            return {}

    @cached_property
    def _output(self) -> Callable[[str], Any]:
        return _decoder_of(self._hints.get("return", Any))

    @cached_property
    def input_type(self) -> Any:
        """`T` of the first parameter's `Event[T]`, or Any."""
        first = next((hint for name, hint in self._hints.items() if name != "return"), Any)
        arguments = typing.get_args(first)
        return arguments[0] if typing.get_origin(first) is Event and arguments else Any

    @cached_property
    def _input(self) -> Callable[[str], Any]:
        return _decoder_of(self.input_type)

    def output(self, value: Any, text: str) -> Any:
        """`value` as the journal gives it back, from its JSON `text`."""
        return value if type(value) in _PLAIN else self.recorded(text)

    def recorded(self, text: str) -> Any:
        """The output that the journal holds as `text`; as plain JSON if its type has changed."""
        try:
            return self._output(text)
        except (msgspec.ValidationError, ValueError, TypeError):
            return _decode(text)

    def input(self, text: str) -> Any:
        """The event's data as the declared type. Raises InvalidInput."""
        try:
            return self._input(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(str(error)) from error

    def input_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the input type, or None if it declares none."""
        if self.input_type is Any:
            return None
        if hasattr(self.input_type, "model_json_schema"):
            return typing.cast(dict[str, Any], self.input_type.model_json_schema())
        return msgspec.json.schema(self.input_type)


def _decoder_of(type_: Any) -> Callable[[str], Any]:
    if type_ is Any or type_ is None or type_ is type(None):
        return _decode
    validate = getattr(type_, "model_validate_json", None)
    if validate is not None:
        return typing.cast(Callable[[str], Any], validate)
    try:
        return msgspec.json.Decoder(type_).decode
    except TypeError:
        return _decode
