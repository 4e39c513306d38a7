"""What the routes work with, made once per process."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine
from starlette.requests import HTTPConnection

from veltrix.pipeline.accept.writers import Writers
from veltrix.settings.fields import Settings
from veltrix.web.auth import KeyRing
from veltrix.web.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Services:
    """On `request.app.state.services`. `engine` is pooled and for reads and short writes.

    `new_key` makes a fresh unique text (the id of a start without an Idempotency-Key);
    `is_broker_up` says whether the api's own relay thread has a connection: shown, never required.
    """

    settings: Settings
    engine: Engine
    acceptor: Writers
    keys: KeyRing
    catalog: Catalog
    new_key: Callable[[], str]
    is_broker_up: Callable[[], bool]


def services_of(request: HTTPConnection) -> Services:
    """What the process that answers this request made once."""
    services: Services = request.app.state.services
    return services
