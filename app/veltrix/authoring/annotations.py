"""What an annotation makes of JSON text: msgspec where it knows the types, pydantic where not.

Chosen once for each annotation. The same text is the same value in every process.
"""

import enum
import inspect
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from functools import lru_cache, partial
from typing import Any

import msgspec
from typing_extensions import TypeAliasType, is_typeddict

from veltrix.authoring.time_formats import READ_BY_MSGSPEC, name_formats

Decode = Callable[[str], Any]
Schema = dict[str, Any]

plain: Decode = msgspec.json.Decoder().decode
_IS_JSON: frozenset[type] = frozenset({str, int, bool, type(None)})
_TEXT_OR_NUMBER = (str, int, float)
_LAZY = (abc.Iterable, abc.Iterator, abc.Collection)  # pydantic reads them only when asked
_OUR_BYTES: Any = {"val_json_bytes": "base64"}  # as msgspec writes them
_OF_PYDANTIC = ("pydantic", "pydantic_core", "pydantic_extra_types", "annotated_types")


class NoReader(TypeError):
    """Nothing can make a value of this type from JSON; the message names the type."""


class Reader:
    """How text becomes a value of one type. `decode` raises what the type's own code raises."""

    def __init__(self, decode: Decode, schema: Callable[[], Schema] | None = None) -> None:
        self.decode, self._schema = decode, schema

    def schema(self) -> Schema | None:
        """Its JSON Schema; None: it has none, and only `decode` can tell what fits."""
        try:
            return self._schema() if self._schema else None
        except Exception:  # noqa: BLE001 - the types' own code says what their schema is
            return None


def alternatives(type_: Any) -> Iterator[Any]:
    """The members of a union, of a new type, an annotated type or an alias: what it is made of."""
    origin = typing.get_origin(type_)
    if origin in (typing.Union, types.UnionType):
        for member in typing.get_args(type_):
            yield from alternatives(member)
    elif origin is typing.Annotated:
        yield from alternatives(type_.__origin__)
    elif isinstance(type_, typing.NewType):
        yield from alternatives(type_.__supertype__)
    elif isinstance(type_, TypeAliasType) or isinstance(origin, TypeAliasType):
        yield from alternatives(type_.__value__)
    else:
        yield type_


def is_anything(type_: Any) -> bool:
    """The annotation says nothing of what the value is."""
    return type_ is Any or type_ is object or isinstance(type_, typing.TypeVar)


def same_as_json(type_: Any) -> frozenset[type]:
    """The types whose values come back as they are, so that nobody need read their text."""
    if is_anything(type_):
        return _IS_JSON | {float}
    kinds = [type(None) if kind is None else kind for kind in alternatives(type_)]
    return frozenset(kinds) if all(kind in _IS_JSON for kind in kinds) else frozenset()


def reader(type_: Any, *, is_output: bool) -> Reader:
    """How values of the type are read. Raises NoReader.

    Of an output the fields of pydantic models are known by their names, as we write them, and by
    their aliases; of an input as the model says.
    """
    if is_anything(type_) or type_ is None:
        return Reader(plain)
    if typing.get_origin(type_) in _LAZY:
        type_ = list[typing.get_args(type_)]  # type: ignore[misc]
    parts = _Parts()
    parts.look_at(type_)
    if parts.is_unsafe and not is_output:
        raise NoReader(f"{shown(type_)}: no union may have a fixed tuple and a type with limits")
    if parts.is_unsafe:
        return _by_pydantic(type_, is_output=True)
    ways = [partial(_by_msgspec, type_, parts.strangers), partial(_by_pydantic, type_)]
    if parts.is_of_pydantic or parts.strangers:
        ways.reverse()
    try:
        return ways[0](is_output=is_output)
    except NoReader as error:
        if parts.is_of_msgspec and not parts.strangers:
            raise
        try:
            return ways[1](is_output=is_output)
        except NoReader:
            raise error from None


class _Parts:
    """What an annotation is made of, with the fields of its classes."""

    def __init__(self) -> None:
        self.is_of_pydantic = self.is_of_msgspec = self.is_unsafe = False
        self.strangers: list[Any] = []  # what msgspec leaves to its hook
        self._seen: list[Any] = []

    def look_at(self, type_: Any) -> None:
        if any(type_ is seen for seen in self._seen) or isinstance(type_, str):
            return None
        self._seen.append(type_)
        origin = typing.get_origin(type_)
        if origin is typing.Literal:
            return None
        if origin is typing.Annotated:
            for one in type_.__metadata__:
                package = type(one).__module__.partition(".")[0]
                self.is_of_pydantic |= package in _OF_PYDANTIC
                self.is_of_msgspec |= package == "msgspec"
            self.is_unsafe |= _is_unsafe(type_)
            return self.look_at(type_.__origin__)
        self.is_unsafe |= _is_unsafe(type_)
        if isinstance(type_, typing.NewType):
            return self.look_at(type_.__supertype__)
        if isinstance(type_, TypeAliasType) or isinstance(origin, TypeAliasType):
            return self.look_at(type_.__value__)
        arguments = typing.get_args(type_)
        if origin is dict and arguments[0] is bool:
            self.is_of_pydantic = True  # msgspec knows no such keys
        for argument in arguments:
            self.look_at(argument)
        kind = origin or type_
        if inspect.isclass(kind) and kind is not types.UnionType:
            self._look_at_class(kind, type_)
        return None

    def _look_at_class(self, kind: type, type_: Any) -> None:
        if _is_model(kind) or hasattr(kind, "__pydantic_validator__"):
            self.is_of_pydantic = True
            return self.strangers.append(type_) if _is_model(kind) else None
        is_struct = issubclass(kind, msgspec.Struct) or hasattr(kind, "__attrs_attrs__")
        self.is_of_msgspec |= is_struct or kind in (msgspec.UnsetType, msgspec.Raw)
        is_pair = issubclass(kind, tuple) and hasattr(kind, "_fields")
        if is_struct or is_pair or is_dataclass(kind) or is_typeddict(kind):
            for hint in hints_of(kind).values():
                self.look_at(hint)
        elif issubclass(kind, enum.Flag) or _is_strange(kind):
            self.strangers.append(type_)
        return None


def _is_unsafe(type_: Any) -> bool:
    """A union that would end the process: tuples of a fixed length, and a type with limits.

    msgspec 0.22 reads beyond the end of what it knows of such a type.
    """
    kinds = list(alternatives(type_))
    tuples = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is tuple]
    is_fixed = any(Ellipsis not in arguments for arguments in tuples)
    return len(kinds) > 1 and is_fixed and _has_limits(type_)


def _has_limits(type_: Any) -> bool:
    origin = typing.get_origin(type_)
    if origin is typing.Annotated:
        is_limit = any(isinstance(one, msgspec.Meta) for one in type_.__metadata__)
        return is_limit or _has_limits(type_.__origin__)
    if origin in (typing.Union, types.UnionType):
        return any(_has_limits(one) for one in typing.get_args(type_))
    if isinstance(type_, typing.NewType):
        return _has_limits(type_.__supertype__)
    value = getattr(type_, "__value__", None) or getattr(origin, "__value__", None)
    is_alias = isinstance(type_, TypeAliasType) or isinstance(origin, TypeAliasType)
    return is_alias and _has_limits(value)


def hints_of(holder: Any) -> dict[str, Any]:
    """The annotations of a class or function; those that cannot be resolved are left out."""
    try:
        return typing.get_type_hints(holder, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation is the author's code
        return {
            name: found for name in _names(holder) if (found := _hint(holder, name)) is not None
        }


def unresolved(function: Any) -> list[str]:
    """The parameters with an annotation that says something and cannot be resolved."""
    known = hints_of(function)
    names = [name for name in _names(function) if name != "return" and name not in known]
    return [name for name in names if "[" in str(function.__annotations__[name])]


def _names(holder: Any) -> list[str]:
    try:
        return list(getattr(holder, "__annotations__", {}))
    except Exception:  # noqa: BLE001 - from Python 3.14 on this runs the author's code
        return []


def _hint(holder: Any, name: str) -> Any:
    one = types.SimpleNamespace(__annotations__={name: holder.__annotations__[name]})
    try:
        names = getattr(inspect.unwrap(holder), "__globals__", {})
        return typing.get_type_hints(one, names, include_extras=True)[name]
    except Exception:  # noqa: BLE001 - as above
        return None


def _is_strange(kind: type) -> bool:
    if issubclass(kind, _TEXT_OR_NUMBER):
        return False  # `_made` can
    try:
        return isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType)
    except TypeError:
        return False


def _by_pydantic(type_: Any, *, is_output: bool) -> Reader:
    try:
        from pydantic import TypeAdapter
        from pydantic_core import SchemaValidator

        adapter = TypeAdapter(type_)
        read = SchemaValidator(_with_our_bytes(adapter.core_schema), _OUR_BYTES).validate_json
    except Exception as error:
        raise NoReader(_first_line(type_, error)) from error
    decode = partial(read, by_alias=True, by_name=True) if is_output else read
    return Reader(decode, adapter.json_schema)


def _with_our_bytes(schema: Any) -> Any:
    """A core schema in which bytes are read as we write them; models write their own way."""
    if isinstance(schema, list):
        return [_with_our_bytes(item) for item in schema]
    if not isinstance(schema, dict) or schema.get("type") == "model":
        return schema
    copied = {key: _with_our_bytes(value) for key, value in schema.items()}
    if copied.get("type") in ("dataclass", "typed-dict"):
        copied["config"] = copied.get("config", {}) | _OUR_BYTES
    return copied


def _by_msgspec(type_: Any, strangers: Sequence[Any], *, is_output: bool) -> Reader:
    for stranger in strangers:
        _stranger(stranger, is_output)
    try:
        decode = msgspec.json.Decoder(type_, dec_hook=partial(_made, is_output)).decode
    except Exception as error:
        raise NoReader(_first_line(type_, error)) from error
    return Reader(decode, partial(_schema, type_, not strangers))


@lru_cache(maxsize=1_000)
def _stranger(type_: Any, is_output: bool) -> Reader:
    return _by_pydantic(type_, is_output=is_output)


def _made(is_output: bool, type_: Any, value: Any) -> Any:
    """What msgspec does not know: subclasses of str, int and float, and what pydantic knows."""
    for base, given in ((str, str), (int, int), (float, int | float)):
        if inspect.isclass(type_) and issubclass(type_, base):
            if not isinstance(value, given) or isinstance(value, bool):
                raise TypeError(f"{type(value).__name__} is no {type_.__name__}")
            return type_(value)
    return _stranger(type_, is_output).decode(msgspec.json.encode(value).decode())


def _schema(type_: Any, is_strict: bool) -> Schema:
    definitions: Schema = {}

    def of_stranger(stranger: Any) -> Schema:
        for base, name in ((str, "string"), (int, "integer"), (float, "number")):
            if inspect.isclass(stranger) and issubclass(stranger, base):
                return {"type": name}
        found = _stranger(stranger, False).schema() or {}
        definitions.update(found.pop("$defs", {}))
        return found

    schema = msgspec.json.schema(type_, schema_hook=of_stranger)
    name_formats(type_, schema)
    if is_strict:
        schema["$comment"] = READ_BY_MSGSPEC
    if definitions:
        schema["$defs"] = definitions | schema.get("$defs", {})
    return schema


def _first_line(type_: Any, error: Exception) -> str:
    why = str(error).partition("\n")[0].partition(". Set `arbitrary")[0]  # which would not help
    return f"{shown(type_)}: {why}"


def shown(type_: Any) -> str:
    """The type as its author wrote it, more or less."""
    return type_.__qualname__ if inspect.isclass(type_) else str(type_)


def _is_model(kind: type) -> bool:
    """A model of pydantic's, which is not loaded before somebody's code asks for it."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def is_record(kind: Any) -> bool:
    """A class that says which fields its objects have."""
    return inspect.isclass(kind) and (
        _is_model(kind)
        or issubclass(kind, msgspec.Struct)
        or is_dataclass(kind)
        or is_typeddict(kind)
        or hasattr(kind, "__attrs_attrs__")
    )
