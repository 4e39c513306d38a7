"""The parameters of a query: those that a route takes, and once where it takes one value.

What is not looked at would be a typing error in a filter that asks for everything.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request

from veltrix.web.problems import Problem
from veltrix.web.suggestions import nowhere


def check_query(request: Request) -> None:
    """Raises a 400 Problem for what the route of this request does not take, or only once."""
    if request.scope["query_string"]:
        _check(request.query_params.multi_items(), _taken(request.scope["route"]))


def check_no_query(query: bytes) -> None:
    """Raises a 400 Problem if there is any parameter."""
    if query:
        _check(parse_qsl(query.decode("latin-1"), keep_blank_values=True), {})


def _check(given: Iterable[tuple[str, str]], taken: Mapping[str, bool]) -> None:
    """`taken`: whether a parameter takes more than one value."""
    seen = set()
    for name, _ in given:
        if name not in taken:
            raise Problem(
                "unknown-parameter",
                nowhere("query parameter", name, list(taken)),
                parameter=name[:100],
            )
        if name in seen and not taken[name]:
            raise Problem(
                "repeated-parameter",
                f"the query parameter {name} is there more than once, and takes one value: send the"
                " one that you mean",
                parameter=name,
            )
        seen.add(name)


def _taken(route: Any) -> dict[str, bool]:
    """The parameters of a route of FastAPI's, by the names that they have in an address."""
    fields = _fields(route.dependant)
    return {field.alias: _is_list(field.field_info.annotation) for field in fields}


def _fields(dependant: Any) -> Iterator[Any]:
    """Its own, and those of what it depends on."""
    yield from dependant.query_params
    for other in dependant.dependencies:
        yield from _fields(other)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(one) is list for one in (annotation, *get_args(annotation)))
