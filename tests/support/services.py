"""PostgreSQL and RabbitMQ of one test run: one server each, started when first needed."""

import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from veltrix.dev.children import CannotStart, Leash, end_recorded
from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.store.schema import upgrade

_PREFIX = "veltrix-tests-"
_TEMPLATE = "template_veltrix"


@dataclass(frozen=True)
class Broker:
    """A virtual host of a RabbitMQ node."""

    url: str
    management_url: str
    vhost: str
    node: RabbitMQ


class Services:
    """The servers of this test run, in a folder of its own that is gone afterwards.

    A server that cannot start fails the test that needs it.
    """

    def __init__(self) -> None:
        _remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._leash = Leash(self._folder)
        self._leash.open()
        self._node = RabbitMQ(self._folder / "rabbitmq")
        self._numbers = count(1)
        # No test waits for its database to be copied, nor for that of another to be dropped.
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="services")
        self._next_database: Future[tuple[str, str]] | None = None

    def folder(self, name: str) -> Path:
        """A new folder that is gone after the run, short enough for any path limit."""
        return self._folder / f"{name}-{next(self._numbers)}"

    @cached_property
    def postgres(self) -> Postgres:
        """The run's PostgreSQL, started, without fsync."""
        server = Postgres(self._folder / "postgres", durable=False)
        server.start()
        return server

    @cached_property
    def _template(self) -> str:
        upgrade(self.postgres.create_database(_TEMPLATE))
        return _TEMPLATE

    def make_database(self) -> tuple[str, str]:
        """Name and URL of a new database with the newest schema."""
        template = self._template  # by this thread: servers must not end with the background's
        made = self._next_database or self._background.submit(self._copy, template)
        self._next_database = self._background.submit(self._copy, template)
        return made.result()

    def _copy(self, template: str) -> tuple[str, str]:
        name = f"test_{next(self._numbers)}"
        return name, self.postgres.create_database(name, template)

    def drop_database(self, name: str) -> None:
        """Drop it soon, in the background."""
        self._background.submit(self.postgres.drop_database, name)

    def begin_rabbitmq(self) -> None:
        """Start RabbitMQ in the background, so that tests that do not need it run meanwhile."""
        self._node.begin()

    @cached_property
    def rabbitmq(self) -> RabbitMQ:
        """The run's RabbitMQ node, ready."""
        self._node.start()
        return self._node

    def make_broker(self) -> Broker:
        """A new virtual host of the run's node."""
        vhost = f"test_{next(self._numbers)}"
        url = self.rabbitmq.create_vhost(vhost)
        return Broker(url, self.rabbitmq.management_url, vhost, self.rabbitmq)

    def drop_broker(self, broker: Broker) -> None:
        """Delete the virtual host soon, in the background."""
        self._background.submit(self.rabbitmq.delete_vhost, broker.vhost)

    def close(self) -> None:
        """Servers, folders and all are gone; fast, because nothing of them is needed again."""
        self._background.shutdown(cancel_futures=True)
        if "postgres" in self.__dict__:
            self.postgres.stop()
        if self._node.is_running:
            self._node.kill()
        self._node.stop()
        self._leash.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_leftovers() -> None:
    """End and delete what test runs left behind that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        leash = Leash(folder)
        try:
            leash.open()
        except (CannotStart, OSError):  # that run is alive, or another user's
            continue
        for record in folder.rglob("children.jsonl"):
            end_recorded(record)
        leash.close()
        shutil.rmtree(folder, ignore_errors=True)
