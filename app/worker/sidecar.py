"""The worker's `/livez`, `/readyz` and `/metrics`, in a process beside it.

The parent may have no thread and no database connection (mechanics 6), so neither may its health.
The sidecar ends with the worker: it watches the worker's sign of life and its pid.
"""

import os
import subprocess
import sys
from pathlib import Path
from threading import Event
from time import monotonic

from celery.platforms import set_pdeathsig
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from sqlalchemy.exc import SQLAlchemyError

from app import telemetry
from app.bootstrap import engine_for
from app.health import HealthServer
from app.settings import Settings
from app.settings_load import load_settings
from app.store.transactions import open_autocommit
from app.worker.stamps import PARENT, Stamps

_LOOK_S = 0.5
_SILENT_S = 30.0


def start_sidecar(settings: Settings, folder: Path, parent_pid: int) -> "subprocess.Popen[bytes]":
    """The sidecar of worker `parent_pid`, whose stamps and metrics are in `folder`."""
    arguments = [str(folder), settings.health_host, str(settings.worker_port), str(parent_pid)]
    return subprocess.Popen([sys.executable, "-m", "app.worker.sidecar", *arguments])


def serve(folder: Path, host: str, port: int, parent_pid: int) -> None:
    """Answer until the worker has ended.

    Live: the parent's loop has turned within the last 30 s, or it looks for RabbitMQ. Ready: it
    consumes, and the database answers.
    """
    set_pdeathsig("SIGKILL")  # at once: a new worker may want the port
    settings = load_settings()
    stamps = Stamps(folder / "stamps")
    engine = engine_for(settings, "veltrix worker health", connections_max=2, statement_timeout_s=2)

    def checks() -> dict[str, bool]:
        pid, seen = stamps.read(PARENT)
        is_consuming = pid == parent_pid and monotonic() - seen < _SILENT_S
        try:
            with open_autocommit(engine) as connection:
                connection.exec_driver_sql("select 1")
        except SQLAlchemyError:
            return {"consuming": is_consuming, "database": False}
        return {"consuming": is_consuming, "database": True}

    ended = Event()
    server = None
    while server is None:
        try:
            server = HealthServer(host, port, checks, _metrics)
        except OSError as error:
            telemetry.logger("worker").warning("health.waits", port=port, error=str(error))
            ended.wait(_LOOK_S)
    server.start()
    while os.getppid() == parent_pid:
        ended.wait(_LOOK_S)
    server.stop()


def _metrics() -> bytes:
    """All processes of the worker added up."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
