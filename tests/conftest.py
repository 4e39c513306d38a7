"""Fixtures: a database, a virtual host and real processes for each test that asks for them."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
import structlog
from sqlalchemy import Engine

from tests.support.empty import empty_database
from tests.support.services import Broker, Services
from veltrix.dev.children import CannotStart
from veltrix.dev.platform import Platform
from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.settings.fields import PREFIX, Settings
from veltrix.store.transactions import make_engine

_FAILED = pytest.StashKey[bool]()
_SERVICES = pytest.StashKey[Services]()


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs in this process sets how lines of log are written from then on."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a developer may ask for."""
    parser.addoption("--pictures", action="store_true", help="keep pictures of the console's pages")


def pytest_configure() -> None:
    """Nothing of this shell reaches a test, nor the processes it starts.

    Neither settings nor, if it started the tests in its background, that SIGINT is ignored; nor
    that no bytecode is kept: the hundreds of processes would translate all of the package each.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]


def pytest_collection_finish(session: pytest.Session) -> None:
    """RabbitMQ takes 5 s to start: it does so while tests run that do not need it."""
    if session.config.option.collectonly:
        return
    needing = [item for item in session.items if "broker" in getattr(item, "fixturenames", ())]
    if needing:
        with suppress(CannotStart):  # said again, by each test that needs it
            _services(session.config).begin_rabbitmq()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing is left running."""
    services = config.stash.get(_SERVICES, None)
    if services is not None:
        services.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember that a test failed, so that its processes' logs are shown."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        item.stash[_FAILED] = True
    return report  # type: ignore[return-value]


def _services(config: pytest.Config) -> Services:
    if _SERVICES not in config.stash:
        config.stash[_SERVICES] = Services()
    return config.stash[_SERVICES]


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    """The run's PostgreSQL and RabbitMQ; each starts when first asked for."""
    return _services(pytestconfig)


@pytest.fixture
def database(services: Services) -> Iterator[tuple[str, str]]:
    """Name and URL of this test's database: empty tables, newest schema."""
    name, url = services.make_database()
    yield name, url
    services.drop_database(name)


@pytest.fixture
def database_url(database: tuple[str, str]) -> str:
    """URL of this test's database: empty tables, newest schema."""
    return database[1]


@pytest.fixture
def empty_url(database_url: str) -> Iterator[str]:
    """The URL of a database of its own without any table."""
    with empty_database(database_url) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on this test's database."""
    engine = make_engine(database_url, application="tests", connections_max=5)
    yield engine
    engine.dispose()


@pytest.fixture
def broker(services: Services) -> Iterator[Broker]:
    """This test's virtual host: `url`, `management_url`, `vhost`."""
    broker = services.make_broker()
    yield broker
    services.drop_broker(broker)


class SettingsOf(Protocol):
    """Makes settings that differ from the test's own in what is named."""

    def __call__(self, **changes: Any) -> Settings: ...


@pytest.fixture
def settings_of(database_url: str, broker: Broker) -> SettingsOf:
    """Settings for this test's database and virtual host, with changes."""

    def make(**changes: Any) -> Settings:
        values = {
            "database_url": database_url,
            "broker_url": broker.url,
            "management_url": broker.management_url,
        }
        return Settings.model_validate(values | changes)

    return make


@pytest.fixture
def settings(settings_of: SettingsOf) -> Settings:
    """Settings for this test's database and virtual host, else the defaults."""
    return settings_of()


@pytest.fixture
def platform(
    request: pytest.FixtureRequest,
    services: Services,
    database: tuple[str, str],
    broker: Broker,
    tmp_path: Path,
) -> Iterator[Callable[..., Platform]]:
    """Start real processes: `platform(workers=2, env={...})` is ready when it returns.

    They use this test's database and virtual host unless others are given, and are killed at its
    end; if it failed, their logs are shown.
    """
    started: list[Platform] = []

    def start(**changes: Any) -> Platform:
        if "postgres" not in changes:
            changes |= {"postgres": services.postgres, "database": database[0]}
        if "rabbitmq" not in changes:
            changes |= {"rabbitmq": services.rabbitmq, "vhost": broker.vhost}
        made = Platform(tmp_path / f"platform-{len(started) + 1}", **changes)
        started.append(made)
        made.open()
        made.wait_ready()
        return made

    yield start
    for one in started:
        one.close(grace_s=0)
        if request.node.stash.get(_FAILED, False):
            request.node.add_report_section("teardown", "processes", one.logs())


@pytest.fixture
def own_postgres(services: Services) -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, to be killed or stopped, with production's durability."""
    server = Postgres(services.folder("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_rabbitmq(services: Services) -> Iterator[RabbitMQ]:
    """A RabbitMQ node of this test's own, to be killed or wiped."""
    node = RabbitMQ(services.folder("rabbitmq"))
    node.start()
    yield node
    if node.is_running:
        node.kill()
    node.stop()
