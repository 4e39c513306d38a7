"""What texts must look like: the formats of JSON Schema that can be checked without asking anybody.

Of a type that msgspec reads exactly what it reads fits; of another what pydantic or msgspec reads,
for a start may be refused only for what its worker would refuse as well.
"""

import base64
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
from jsonschema import FormatChecker
from pydantic import AnyUrl, TypeAdapter

_ZONED, _LOCAL = msgspec.Meta(tz=True), msgspec.Meta(tz=False)
_TYPES: dict[str, Any] = {
    "date-time": Annotated[datetime, _ZONED],
    "date-time-local": Annotated[datetime, _LOCAL],
    "iso-date-time": datetime,
    "date": date,
    "time": Annotated[time, _ZONED],
    "partial-time": Annotated[time, _LOCAL],
    "iso-time": time,
    "duration": timedelta,
    "uuid": UUID,
    "decimal": Decimal,
}


def _by(check: Callable[[Any], object]) -> Callable[[object], bool]:
    def does_fit(value: object) -> bool:
        if isinstance(value, str):
            check(value)
        return True

    return does_fit


def _msgspec_reads(type_: Any) -> Callable[[Any], object]:
    return lambda value: msgspec.convert(value, type_)


def _either_reads(type_: Any) -> Callable[[Any], object]:
    adapter = TypeAdapter(type_)

    def read(value: Any) -> object:
        try:
            return msgspec.convert(value, type_)
        except msgspec.ValidationError:
            return adapter.validate_python(value)

    return read


def _is_base64(value: str) -> object:
    return base64.b64decode(value, validate=True)


def _is_email(value: str) -> object:
    name, _, host = value.rpartition("@")
    if not name or not host:
        raise ValueError("it has no @")
    return host


def _checker(reads: Callable[[Any], Callable[[Any], object]]) -> FormatChecker:
    checker = FormatChecker(formats=())
    checks = {name: reads(type_) for name, type_ in _TYPES.items()} | {
        "email": _is_email,
        "uri": TypeAdapter(AnyUrl).validate_python,
        "ipv4": ipaddress.IPv4Address,
        "ipv6": ipaddress.IPv6Address,
        "ipvanyaddress": ipaddress.ip_address,
        "regex": re.compile,
    }
    for name, check in checks.items():
        checker.checks(name, raises=(ValueError, re.error))(_by(check))
    return checker


STRICT = _checker(_msgspec_reads)
LENIENT = _checker(_either_reads)


def base64_problem(value: object) -> str | None:
    """Why this text is no base64; None: it is, or it is no text."""
    if not isinstance(value, str):
        return None
    try:
        _is_base64(value)
    except ValueError:
        return f"{value[:100]!r} is not base64"
    return None
