"""Evidence against what deployment files ask for."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Protocol, TypeVar

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.deployment.container import DeployedContainer
from veltrix.doctor.facts.deployment.definitions import DefinedPlace
from veltrix.doctor.rule import Evidence


class _OfFiles(Protocol):
    troubles: list[str]


Read = TypeVar("Read", bound=_OfFiles)


def of_files(check: Callable[[Read], Iterable[Evidence]]) -> Callable[[Read], Iterator[Evidence]]:
    """The check says, after what it found, which files it could not be held against."""

    @wraps(check)
    def checked(facts: Read) -> Iterator[Evidence]:
        troubles = facts.troubles
        try:
            yield from check(facts)
        except Unread as unread:
            troubles = [str(unread), *troubles]
        if troubles:
            raise Unread("; ".join(troubles))

    return checked


def unread_elsewhere(services: list[DeployedContainer], what: str) -> None:
    """Raises Unread for services whose variables decide and are in what was not read."""
    if services:
        told = [f"{one.name} ({', '.join(one.elsewhere)})" for one in services]
        raise Unread(f"{what} of {', '.join(told)} is not known: variables are in what is not here")


def of_container(
    service: DeployedContainer,
    found: str,
    cure: str,
    line: int = 0,
    *,
    file: str | None = None,
    implied_by: str | None = None,
) -> Evidence:
    """A service that is not safe, at this line of its file (0: where it begins)."""
    return Evidence(
        found=f"{service.name}: {found}",
        origin=f"{file or service.file}:{line or service.line}",
        cure=cure,
        file=file or service.file,
        line=line or service.line,
        implied_by=implied_by,
    )


def of_definition(place: DefinedPlace, found: str, cure: str) -> Evidence:
    """Something in a definitions file."""
    origin = place.file if place.line is None else f"{place.file}:{place.line}"
    return Evidence(found=found, origin=origin, cure=cure, file=place.file, line=place.line)
