"""JSON texts as types that keep parts of them as they are (`msgspec.Raw`).

msgspec decodes a `Raw`, and not a `Raw | None`: of what is not null it says that it is no null.
"""

from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec

T = TypeVar("T")
_MAYBE_RAW = msgspec.Raw | None
_NULL = b"null"


def decoded(type_: type[T], text: bytes) -> T:
    """The text as this type. Raises msgspec.MsgspecError for what is none of it.

    Null is None in a `Raw | None`, unless its struct leaves out what is None: then it is a value.
    """
    return cast("T", _decoded(type_, text))


def _decoded(type_: Any, text: bytes | msgspec.Raw) -> Any:
    if not _has_maybe_raw(type_):
        return msgspec.json.decode(text, type=type_)
    if type_ == _MAYBE_RAW:
        return None if bytes(text) == _NULL else msgspec.Raw(bytes(text))
    if get_origin(type_) is list:
        (item,) = get_args(type_)
        return [_decoded(item, one) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
    given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    values = {}
    for field in msgspec.structs.fields(type_):
        if field.encode_name in given:
            is_value = field.type == _MAYBE_RAW and type_.__struct_config__.omit_defaults
            of = msgspec.Raw if is_value else field.type
            values[field.name] = _decoded(of, given[field.encode_name])
        elif field.required:
            raise msgspec.ValidationError(f"Object missing required field `{field.encode_name}`")
    return type_(**values)


@cache
def _has_maybe_raw(type_: Any) -> bool:
    if type_ == _MAYBE_RAW:
        return True
    if get_origin(type_) is list:
        return _has_maybe_raw(get_args(type_)[0])
    is_struct = isinstance(type_, type) and issubclass(type_, msgspec.Struct)
    return is_struct and any(_has_maybe_raw(one.type) for one in msgspec.structs.fields(type_))
