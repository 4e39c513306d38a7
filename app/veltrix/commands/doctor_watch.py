"""`veltrix doctor --watch`: the process that keeps looking."""

from pathlib import Path

import typer

from veltrix.commands.mistakes import CommandRefused


def watch(ca_file: Path | None, *, is_production: bool) -> None:
    """Look until SIGTERM or Ctrl-C. Raises CommandRefused, SettingsError."""
    from veltrix.commands.processes import hear

    hear()
    from veltrix.client.errors import ApiMistake
    from veltrix.leaving import told_to_leave
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
    stop = told_to_leave(END_S)
    typer.echo(
        f"Looking every {settings.doctor_interval_s:g} s, with canaries to"
        f" {', '.join(apis_of(settings))}. Ctrl-C ends it.",
        err=True,
    )
    try:
        run_watch(settings, stop, ca_file=ca_file, is_production=is_production)
    except ApiMistake as mistake:
        raise CommandRefused(str(mistake)) from None
