"""What is read of this deployment: its settings, and its servers where they are to be asked."""

from collections.abc import Callable
from pathlib import Path

from veltrix.doctor.facts.platform_settings import PlatformSettings, settings_in_effect
from veltrix.doctor.facts.workflow_code import WorkflowCode, read_workflows
from veltrix.settings.fields import Settings
from veltrix.settings.load import DEV_FILE


def readers_of(settings: Settings, *, is_live: bool) -> dict[type, Callable[[], object]]:
    """A reader for each kind of facts; nothing is asked before it is called."""
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
