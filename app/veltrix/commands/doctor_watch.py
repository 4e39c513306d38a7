"""`veltrix doctor --watch`: the process that keeps looking."""

import signal
from pathlib import Path
from threading import Event
from types import FrameType

import typer

from veltrix.commands.mistakes import CommandRefused


def watch(ca_file: Path | None, *, is_production: bool) -> None:
    """Look until SIGTERM or Ctrl-C. Raises CommandRefused, SettingsError."""
    from veltrix.leaving import end_now, end_within

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_now)  # what follows takes a second to import
    from veltrix.client.errors import ApiMistake
    from veltrix.processes.relay import END_S
    from veltrix.processes.watch import apis_of, run_watch
    from veltrix.settings.links import api_mistake
    from veltrix.settings.load import DEV_FILE, load_settings
    from veltrix.telemetry import configure_logs

    settings = load_settings(dev_file=DEV_FILE)
    configure_logs(settings.log_format, settings.log_level)
    webhook = settings.doctor_webhook.get_secret_value() if settings.doctor_webhook else ""
    if webhook and api_mistake(webhook, settings.plain_hosts) is not None:
        raise CommandRefused(
            "VELTRIX_DOCTOR_WEBHOOK leads to another host without TLS: write https://, or name its"
            " host in VELTRIX_PLAIN_HOSTS"
        )
    for api in apis_of(settings):
        if mistake := api_mistake(api, settings.plain_hosts):
            raise CommandRefused(f"VELTRIX_DOCTOR_APIS: {mistake}")
    stop = Event()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        end_within(END_S)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    typer.echo(
        f"Looking every {settings.doctor_interval_s:g} s, with canaries to"
        f" {', '.join(apis_of(settings))}. Ctrl-C ends it.",
        err=True,
    )
    try:
        run_watch(settings, stop, ca_file=ca_file, is_production=is_production)
    except ApiMistake as mistake:
        raise CommandRefused(str(mistake)) from None
