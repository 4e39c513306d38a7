"""What dead children counted stays in the sums, and their files do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from veltrix.worker.metric_files import MetricFiles

COUNT = """
import sys
from prometheus_client import Counter, Gauge, Histogram
Counter("runs", "x", ["workflow"]).labels("fulfil").inc(2)
Histogram("seconds", "x", buckets=(1, 2)).observe(1.5)
Gauge("load", "x").set(7)
Gauge("veltrix_broker_up", "x", multiprocess_mode="max").set(1)
Gauge("veltrix_open_runs", "x")
print(flush=True)
sys.stdin.readline()
"""


class Child:
    """A process that has counted, and lives until `end`."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COUNT],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def end(self) -> None:
        """As by a crash."""
        with self.process:
            self.process.kill()


def lines(files: MetricFiles) -> set[str]:
    return set(files.text().decode().splitlines())


def test_sums_stay_and_files_go(tmp_path: Path) -> None:
    files = MetricFiles(tmp_path)
    for _ in range(3):
        Child(tmp_path).end()
    living = Child(tmp_path)

    for _ in range(2):  # the second time nobody is counted twice
        told = lines(files)
        assert 'runs_total{workflow="fulfil"} 8.0' in told
        assert 'seconds_bucket{le="2.0"} 4.0' in told
        assert "seconds_sum 6.0" in told
        assert f'load{{pid="{living.process.pid}"}} 7.0' in told
        assert "veltrix_broker_up 1.0" in told
        assert not any("veltrix_open_runs" in line for line in told), "a relay's"
        assert sum(line.startswith("load{") for line in told) == 1, "of a dead process: nothing"
    pids = {path.stem.rpartition("_")[2] for path in tmp_path.iterdir()}
    assert pids == {"dead", str(living.process.pid)}
    living.end()


def test_a_file_that_cannot_be_read_costs_its_own_numbers_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = MetricFiles(tmp_path)
    child = Child(tmp_path)
    child.end()
    broken = tmp_path / f"counter_{child.process.pid}.db"
    broken.write_bytes(b"\xff\x00\x00\x00" + bytes(20))

    told = lines(files)
    assert "seconds_sum 1.5" in told
    assert not any(line.startswith("runs_total") for line in told)
    assert "metrics.unreadable" in capsys.readouterr().out
    lines(files)
    assert "metrics.unreadable" not in capsys.readouterr().out, "said once"
