"""The worker's `/livez`, `/readyz` and `/metrics`, in a process beside it.

The parent may have no thread and no database connection (mechanics 6), so neither may its health.
The sidecar ends with the worker: it watches the worker's sign of life and its pid.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import msgspec
from celery.platforms import set_pdeathsig
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from veltrix import telemetry
from veltrix.bootstrap import engine_for
from veltrix.health import HealthServer
from veltrix.settings.fields import Settings
from veltrix.settings.load import load_settings
from veltrix.store.transactions import open_autocommit
from veltrix.worker.metric_files import MetricFiles
from veltrix.worker.stamps import CONSUMING_S, PARENT, Stamps
from veltrix.worker.troubles import Troubles

_LOOK_S = 0.5


def start_sidecar(settings: Settings, folder: Path, parent_pid: int) -> "subprocess.Popen[bytes]":
    """The sidecar of worker `parent_pid`, whose stamps and metrics are in `folder`."""
    arguments = [str(folder), settings.health_host, str(settings.worker_port), str(parent_pid)]
    return subprocess.Popen([sys.executable, "-m", "veltrix.worker.sidecar", *arguments])


def serve(folder: Path, host: str, port: int, parent_pid: int) -> None:
    """Answer until the worker has ended.

    Live: the worker is there. Ready: its loop consumed within the last 3 s (`Consuming`), the
    database answers, and no process of it has a trouble that stops work.
    """
    set_pdeathsig("SIGKILL")  # at once: a new worker may want the port
    settings = load_settings()
    telemetry.configure_logs(settings.log_format, settings.log_level)
    stamps = Stamps(folder / "stamps")
    engine = engine_for(settings, "veltrix worker health", connections_max=2, statement_timeout_s=2)

    troubles, files = Troubles(folder / "troubles"), MetricFiles(folder / "metrics")
    collector = TroublesCollector(troubles)

    def checks() -> dict[str, Any]:
        pid, seen = stamps.read(PARENT)
        found = troubles.read()
        return {
            "consuming": pid == parent_pid and monotonic() - seen < CONSUMING_S,
            "database": _answers(engine),
            "working": not any(trouble.stops_work for trouble in found),
            "troubles": msgspec.to_builtins(found),
        }

    ended = Event()
    server = None
    while server is None:
        try:
            server = HealthServer(host, port, checks, lambda: files.text(collector))
        except OSError as error:
            telemetry.logger("worker").warning("health.waits", port=port, error=str(error))
            ended.wait(_LOOK_S)
    server.start()
    while os.getppid() == parent_pid:
        ended.wait(_LOOK_S)
        files.fold_dead()
    server.stop()


def _answers(engine: Engine) -> bool:
    try:
        with open_autocommit(engine) as connection:
            connection.exec_driver_sql("select 1")
    except SQLAlchemyError:
        return False
    return True


class TroublesCollector(Collector):
    """How many processes have each trouble."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        told = GaugeMetricFamily(*telemetry.WORKER_TROUBLES, labels=["name"])
        counts = Counter(trouble.name for trouble in self._troubles.read())
        for name, processes in counts.items():
            told.add_metric([name], processes)
        yield told


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
