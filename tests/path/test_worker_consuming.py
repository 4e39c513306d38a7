"""A worker says that it consumes only while it does: its loop turns, its children live."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from tests.path.seen import Start
from tests.support.wait import until
from veltrix.settings.fields import Settings
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.parent.consuming import CHILDREN_S_MAX, Consuming
from veltrix.worker.parent.parts import Parent
from veltrix.worker.places import Places
from veltrix.worker.stamps import CONSUMING_S, PARENT, Stamps
from veltrix.worker.troubles import Troubles


def ready(url: str) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def consumes(url: str) -> bool:
    """It is ready."""
    return ready(url)[0] == 200


@contextmanager
def dying_children(pid: int) -> Iterator[None]:
    """The pool's children are killed as soon as there are any, as where memory has run out."""
    is_over = Event()

    def kill() -> None:
        known: dict[int, bool] = {}  # whether it is the sidecar, which answers for the worker
        while not is_over.wait(0.005):
            for one in psutil.Process(pid).children():
                with suppress(psutil.NoSuchProcess):
                    if one.pid not in known:
                        known[one.pid] = "veltrix.worker.sidecar" in one.cmdline()
                    if not known[one.pid]:
                        one.kill()

    thread = Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def stopped(url: str) -> bool:
    """It says that it consumes no more."""
    status, told = ready(url)
    return status == 503 and not told["consuming"]


def test_a_loop_that_stands_still_and_a_child_that_does_not_come_back_are_seen(
    scene: Start,
) -> None:
    seen = scene(workers=2, children=2)
    still, short = (seen.platform.processes[name] for name in ("worker-1", "worker-2"))
    os.kill(still.pid, signal.SIGSTOP)
    with dying_children(short.pid):
        for url in (still.url, short.url):
            until(partial(stopped, url), 20, "/readyz to say so")
        # It has children for moments, in which it has no trouble: what was seen counts.
        (trouble,) = until(lambda: ready(short.url)[1]["troubles"], what="why")
        assert "of its children are missing" in trouble["detail"]

    os.kill(still.pid, signal.SIGCONT)
    for url in (still.url, short.url):
        until(partial(consumes, url), 15, "them to consume again")
    assert seen.wait_settled(seen.add([["note"]], 10)) == Counter(succeeded=10)


def test_what_is_missing_for_a_moment_is_borne_and_for_long_ends_the_worker(tmp_path: Path) -> None:
    stamps, troubles = Stamps(tmp_path / "stamps"), Troubles(tmp_path / "troubles")
    settings = Settings(worker_children=2)
    parent = Parent(
        settings, ["q"], stamps, Places(tmp_path / "p"), troubles, Mailbox(), str, float
    )
    consuming = Consuming(parent)

    assert consuming.note({1, 2}, [], 100.0)
    assert stamps.read(PARENT) == (os.getpid(), 100.0)
    assert consuming.note({1}, [], 102.0)
    assert troubles.read() == []
    assert consuming.note({1, 3}, ["q"], 100.0 + CONSUMING_S)
    assert [one.detail for one in troubles.read()] == ["1 of its queues have no consumer of it: q"]
    assert stamps.read(PARENT)[1] == 100.0
    assert consuming.note({1, 3}, [], 104.0)
    assert (troubles.read(), stamps.read(PARENT)[1]) == ([], 104.0)

    consuming.worked(1, 105.0)
    assert consuming.note({1}, [], 105.0 + CHILDREN_S_MAX - 0.1)
    consuming.worked(1, 105.0 + CHILDREN_S_MAX)  # the one that is left shows of others nothing
    assert stamps.read(PARENT)[1] == 104.0
    assert not consuming.note({1}, [], 105.0 + CHILDREN_S_MAX)


def test_children_that_are_replaced_all_the_time_are_no_children_that_are_missing(
    tmp_path: Path,
) -> None:
    stamps, troubles = Stamps(tmp_path / "stamps"), Troubles(tmp_path / "troubles")
    settings = Settings(worker_children=2)
    parent = Parent(
        settings, ["q"], stamps, Places(tmp_path / "p"), troubles, Mailbox(), str, float
    )
    consuming = Consuming(parent)
    seconds = [100.0 + second for second in range(3 * int(CHILDREN_S_MAX))]

    for pid, now in enumerate(seconds):
        consuming.worked(pid, now)
        assert consuming.note({pid}, [], now + 0.5)
        assert (troubles.read(), stamps.read(PARENT)[1]) == ([], now)
