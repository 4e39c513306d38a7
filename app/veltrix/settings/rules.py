"""What is wrong with settings, each in one sentence with its cure.

`mistake_of` words a single value out of its bounds; `cross_check` finds combinations that would
lose, double or stall events although each value is allowed.
"""

import re
from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from veltrix.domain.local_names import networks_of
from veltrix.settings.fields import PREFIX, Settings

_FINDING = re.compile(r"[A-Z]\d{2}")
_NODE_NAME = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def bounds_of(field: FieldInfo) -> dict[str, float]:
    """The field's bounds by kind (`ge`, `gt`, `le`, `lt`)."""
    return {
        kind: getattr(piece, kind)
        for piece in field.metadata
        for kind in _BOUNDS
        if getattr(piece, kind, None) is not None
    }


def allowed(field: FieldInfo) -> str:
    """What the field takes, as words: `a whole number of bytes from 1 to 10`, `one of a, b`."""
    if field.annotation is bool:
        return "true or false"
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "one of " + ", ".join(choices)
    bounds = bounds_of(field)
    if not bounds:
        return "text"
    extra = field.json_schema_extra
    unit = extra.get("unit") if isinstance(extra, Mapping) else ""
    number = "a whole number" if field.annotation is int else "a number"
    if unit:
        number += f" of {unit}"
    if bounds.keys() == {"ge", "le"}:
        return f"{number} from {bounds['ge']} to {bounds['le']}"
    return f"{number} " + ", ".join(f"{_BOUNDS[kind]} {limit}" for kind, limit in bounds.items())


def mistake_of(detail: ErrorDetails) -> str:
    """One sentence for one of pydantic's errors. Never shows the value of a secret."""
    name = str(detail["loc"][0])
    variable = PREFIX + name.upper()
    field = Settings.model_fields[name]
    if "Secret" in str(field.annotation):
        return f"{variable} has a value that cannot be used; set it to {allowed(field)}."
    return f"{variable} is {str(detail['input'])!r}; set it to {allowed(field)}."


def cross_check(settings: Settings) -> list[str]:
    """A sentence for each combination that loses, doubles or stalls; empty: there is none."""
    return [
        *_orders(settings),
        *_names(settings),
        *_flower(settings),
        *_addresses(settings),
        *_accepted(settings),
    ]


def accepted_findings(text: str) -> dict[str, str]:
    """VELTRIX_DOCTOR_ACCEPTED by id. Raises ValueError naming the part that is none."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        id_, _, reason = (piece.strip() for piece in part.partition("="))
        if not _FINDING.fullmatch(id_) or not reason:
            raise ValueError(part)
        found[id_] = reason
    return found


# (the smaller, the larger, may they be equal, what happens otherwise)
ORDERS: tuple[tuple[str, str, bool, str], ...] = (
    ("hold_s", "hold_s_max", True, "the hold could not double and a slow queue fills with copies"),
    ("queue_bound_s", "hold_s", False, "runs that only wait in the broker come due and go twice"),
    ("list_work_s", "hold_s", False, "a worker's next list comes due before it is begun"),
    ("relay_scan_s", "hold_s", False, "lost runs are looked for later than they come due"),
    ("step_overrun_s", "grace_s", False, "a step is ended by SIGKILL before it is handed back"),
    ("event_bytes_max", "batch_bytes_max", True, "an event that is taken alone cannot be batched"),
    ("event_bytes_max", "list_bytes_max", True, "the largest event fits into no list"),
    ("event_bytes_max", "accept_list_bytes_max", True, "the largest event fits into no commit"),
    ("batch_bytes_max", "accept_waiting_bytes_max", True, "the largest batch gets 503 for ever"),
    ("batch_events_max", "accept_waiting_events_max", True, "the largest batch gets 503 for ever"),
    ("list_bytes_max", "queue_bytes_max", True, "a queue bounded so refuses every full message"),
)


def _orders(settings: Settings) -> Iterator[str]:
    for low, high, may_equal, otherwise in ORDERS:
        smaller, larger = getattr(settings, low), getattr(settings, high)
        if smaller < larger or (may_equal and smaller == larger):
            continue
        relation = "at least" if may_equal else "more than"
        yield (
            f"{PREFIX}{high.upper()} is {larger} and {PREFIX}{low.upper()} is {smaller}:"
            f" {otherwise}; set the first to {relation} the second."
        )


def _names(settings: Settings) -> Iterator[str]:
    if settings.worker_name and not _NODE_NAME.fullmatch(settings.worker_name):
        yield (
            f"{PREFIX}WORKER_NAME is {settings.worker_name!r}; write it as name@host with letters,"
            " digits, dots, dashes and underscores, or leave it out."
        )
    for module in settings.workflows.split(","):
        if not all(part.isidentifier() for part in module.split(".")):
            yield (
                f"{PREFIX}WORKFLOWS names {module!r}, which is no module; write module names such"
                " as workflows or shop.workflows, separated by commas."
            )


def _flower(settings: Settings) -> Iterator[str]:
    """Flower shows run ids and workers: others see them with a password only."""
    login = settings.flower_basic_auth
    user, colon, password = login.get_secret_value().partition(":") if login else ("", "", "")
    if login and not (user and colon and password):
        yield (
            f"{PREFIX}FLOWER_BASIC_AUTH has a value that cannot be used; write it as user:password."
        )
    if not login and settings.flower_host not in _LOOPBACK:
        yield (
            f"{PREFIX}FLOWER_HOST is {settings.flower_host!r} and {PREFIX}FLOWER_BASIC_AUTH is not"
            " set: everybody could look; set it to user:password, or listen on 127.0.0.1."
        )


def _addresses(settings: Settings) -> Iterator[str]:
    try:
        networks_of(settings.metrics_addresses)
    except ValueError as error:
        yield (
            f"{PREFIX}METRICS_ADDRESSES cannot be used: {error}; write addresses or networks such"
            " as 10.0.0.7,10.1.0.0/16, separated by commas."
        )


def _accepted(settings: Settings) -> Iterator[str]:
    try:
        accepted_findings(settings.doctor_accepted)
    except ValueError as error:
        yield (
            f"{PREFIX}DOCTOR_ACCEPTED has {str(error)!r}; write each finding with its reason, as"
            " D08=a copy of the data that may be lost; B10=one node is enough here."
        )
