"""What is read of this deployment: its settings, and its servers where they are to be asked."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from veltrix.doctor.facts.platform_settings import PlatformSettings, settings_in_effect
from veltrix.doctor.facts.workflow_code import WorkflowCode, read_workflows
from veltrix.settings.fields import Settings
from veltrix.settings.load import DEV_FILE


def readers_of(settings: Settings, *, is_live: bool) -> dict[type, Callable[[], object]]:
    """A reader for each kind of facts; nothing is asked before it is called, or stays open after.

    Who looks again and again has `LiveReaders`.
    """
    names = [one.strip() for one in settings.workflows.split(",") if one.strip()]
    readers: dict[type, Callable[[], object]] = {
        PlatformSettings: lambda: settings_in_effect(settings, DEV_FILE),
        WorkflowCode: lambda: read_workflows(names, Path()),
    }
    if is_live:
        from veltrix.doctor.facts.postgres import LiveDatabase, read_database
        from veltrix.doctor.facts.rabbitmq import LiveBroker, read_broker
        from veltrix.doctor.facts.workers import LiveWorkers, read_live_workers, subscribed_queues

        readers |= {
            LiveBroker: lambda: read_broker(settings, lambda: subscribed_queues(settings)),
            LiveDatabase: lambda: read_database(settings),
            LiveWorkers: lambda: read_live_workers(settings),
        }
    return readers


class LiveReaders:
    """Readers of what the servers have and say, for who looks again and again.

    Their session of PostgreSQL stays open from one look to the next, and the books are counted
    again only when their size allows it. For one thread.
    """

    def __init__(self, settings: Settings) -> None:
        from veltrix.doctor.facts.postgres import LiveDatabase, look_at_database
        from veltrix.doctor.facts.rabbitmq import LiveBroker, read_broker
        from veltrix.doctor.facts.session import LookingSession
        from veltrix.doctor.facts.workers import (
            BooksLook,
            LiveWorkers,
            look_at_workers,
            subscribed_queues,
        )

        books = BooksLook()
        session = self._session = LookingSession(settings)
        self.readers: Mapping[type, Callable[[], object]] = {
            LiveBroker: lambda: read_broker(settings, lambda: subscribed_queues(settings, session)),
            LiveDatabase: lambda: look_at_database(session),
            LiveWorkers: lambda: look_at_workers(session, settings, books),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is open; a look after it opens it again."""
        self._session.close()
