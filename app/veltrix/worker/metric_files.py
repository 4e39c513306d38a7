"""Metric files of dead children: their sums are kept in one file for each kind, the files go.

prometheus-client has a file for each kind of metric and process. Those of dead processes would stay
as long as the worker, and each scrape would read them all.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from prometheus_client import CollectorRegistry, Metric, generate_latest, multiprocess
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.registry import Collector

from veltrix import telemetry

_SUMMED = ("counter", "histogram", "summary")
_KEPT = "dead"  # in the place of a pid


class MetricFiles:
    """The folder of a worker's metrics. One process folds and reads it; any thread may."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, Lock()

    def text(self, *more: Collector) -> bytes:
        """All processes of the worker added up, those that have died too, and what `more` tell."""
        with self._lock:
            self._fold_dead()
            registry = CollectorRegistry()
            registry.register(_Own(self._folder))
            for one in more:
                registry.register(one)
            return generate_latest(registry)

    def fold_dead(self) -> None:
        """Keep the sums of processes that have ended, and remove their files."""
        with self._lock:
            self._fold_dead()

    def _fold_dead(self) -> None:
        for path in self._folder.glob("*_*.db"):
            kind, pid = path.stem.split("_")[0], path.stem.rpartition("_")[2]
            if not pid.isdecimal() or _is_alive(int(pid)):
                continue
            try:
                if kind in _SUMMED:
                    self._add(path, kind)
                path.unlink()  # a gauge says what is: of a dead process, nothing
            except (OSError, ValueError, RuntimeError, struct.error) as error:
                telemetry.logger("worker").warning(
                    "metrics.unreadable", file=path.name, error=str(error)
                )
                path.rename(path.with_suffix(".unreadable"))

    def _add(self, path: Path, kind: str) -> None:
        told = list(MmapedDict.read_all_values_from_file(path))  # type: ignore[no-untyped-call]
        kept = MmapedDict(self._folder / f"{kind}_{_KEPT}.db")  # type: ignore[no-untyped-call]
        try:
            for key, value, timestamp, _ in told:
                before, at = kept.read_value(key)  # type: ignore[no-untyped-call]
                kept.write_value(key, before + value, max(at, timestamp))  # type: ignore[no-untyped-call]
        finally:
            kept.close()  # type: ignore[no-untyped-call]


class _Own(Collector):
    """The metrics in a folder, those of authors too, without the gauges of apis and relays."""

    def __init__(self, folder: Path) -> None:
        self._all = multiprocess.MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        for metric in self._all.collect():  # type: ignore[no-untyped-call]
            is_other = metric.type == "gauge" and metric.name.startswith("veltrix_")
            if not is_other or metric.name in telemetry.WORKER_GAUGES:
                yield metric


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
