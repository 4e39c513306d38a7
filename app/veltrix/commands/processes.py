"""The commands that keep running: api, relay, worker, flower, dev."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from veltrix.settings.fields import Settings


def api() -> None:
    """Take events and answer questions over HTTP.

    Until SIGTERM or Ctrl-C: what is in hand is finished. After SIGTERM /readyz is 503 for 3 s
    before that, so that a load balancer sends nothing more. Address and port: VELTRIX_API_HOST,
    VELTRIX_API_PORT. Any number run side by side.

    Example: VELTRIX_API_PORT=8080 veltrix api
    """
    hear()
    from veltrix.processes.api import serve

    serve(_settings())


def relay() -> None:
    """Hand due runs to RabbitMQ and keep the books.

    Drains dead letters as well. Until SIGTERM or Ctrl-C. Any number run side by side. /livez,
    /readyz and /metrics are on VELTRIX_RELAY_PORT.

    Example: VELTRIX_RELAY_PORT=8081 veltrix relay
    """
    hear()
    from veltrix.leaving import told_to_leave
    from veltrix.processes.relay import END_S, run_relay

    run_relay(_settings(), told_to_leave(END_S))


def worker(
    *,
    solo: Annotated[
        bool, typer.Option("--solo", help="One process in the foreground, for a debugger.")
    ] = False,
) -> None:
    """Run workflows.

    Until SIGTERM or Ctrl-C: what is in hand is finished or handed back, nothing is lost.
    Children: VELTRIX_WORKER_CHILDREN; time to finish: VELTRIX_GRACE_S. Any number run side by
    side, each with a VELTRIX_WORKER_NAME of its own. With --solo one run at a time, here, without
    limits of time for steps: breakpoint() has this terminal. A `veltrix dev`
    of this folder is found.

    Example: VELTRIX_WORKER_NAME=blue@host1 veltrix worker
    """
    hear()
    if solo:
        from veltrix.processes.solo import run_solo

        raise typer.Exit(run_solo(_solo_settings()))
    from veltrix.processes.worker import start

    raise typer.Exit(start(_settings))


def flower() -> None:
    """Show workers and tasks in Flower, read-only.

    Until SIGTERM or Ctrl-C. Address: VELTRIX_FLOWER_HOST, VELTRIX_FLOWER_PORT; user and
    password: VELTRIX_FLOWER_BASIC_AUTH.

    Example: VELTRIX_FLOWER_PORT=5555 veltrix flower
    """
    hear()
    from veltrix.commands.flower import run_flower

    run_flower(_settings())


def dev(
    folder: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".veltrix"),
    reload: Annotated[
        bool, typer.Option(help="Start the worker again when a Python file here changes.")
    ] = True,
    worker: Annotated[
        bool, typer.Option(help="Without one, run `veltrix worker --solo` beside it.")
    ] = True,
) -> None:
    """Run everything here, in one terminal.

    PostgreSQL, RabbitMQ, api, relay, worker and Flower. Ctrl-C stops it. Other commands in this
    folder find what runs by themselves. A file that cannot be imported keeps the code before.

    Example: veltrix dev
    """
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.dev.run import run_dev
    from veltrix.settings.load import load_settings

    settings = load_settings()
    if settings.api_tls_cert or settings.flower_tls_cert:
        raise CommandRefused(
            "veltrix dev speaks plain HTTP, on loopback: leave VELTRIX_API_TLS_CERT and"
            " VELTRIX_FLOWER_TLS_CERT out for it"
        )
    raise typer.Exit(run_dev(folder, settings=settings, is_reloading=reload, has_worker=worker))


def hear() -> None:
    """SIGTERM and SIGINT end the process, until it has begun and there is something to finish.

    The first process of a container is not ended by a signal for which it has no handler. So this
    comes before what takes a second to import. And Python's own handler of SIGINT raises wherever
    the process stands, which may be where libraries pass over what is raised.
    """
    import signal

    from veltrix.leaving import end_now

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_now)
    # A worker held them: see its start.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


def _solo_settings() -> "Settings":
    """As `veltrix dev` gives them: its servers, and for steps what `.env` has beside settings."""
    from veltrix.settings.load import DEV_FILE, give_to_authors

    give_to_authors()
    return _settings(DEV_FILE)


def _settings(dev_file: Path | None = None) -> "Settings":
    """The settings of a process that keeps running; its logs are configured."""
    from veltrix.settings.load import load_settings
    from veltrix.telemetry import configure_logs

    settings = load_settings(dev_file=dev_file)
    configure_logs(settings.log_format, settings.log_level)
    return settings
