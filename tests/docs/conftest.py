"""One platform with the workflows of the pages and of `examples/`, for all tests of this folder."""

import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, TUTORIAL, blocks_of
from tests.support.services import Services
from tests.support.wait import until
from veltrix.dev.platform import Platform
from veltrix.store.transactions import make_engine, transaction


class Shop:
    """A running platform, and the folder in which its user works."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform, self.folder = platform, folder

    @property
    def api_url(self) -> str:
        """Where it takes events."""
        return self.platform.api_url

    @property
    def env(self) -> dict[str, str]:
        """Of a terminal of the user's."""
        binaries = str(Path(sys.executable).parent)
        path = os.pathsep.join([binaries, os.environ["PATH"]])
        return {**self.platform.env, "PATH": path, "API": self.platform.api_url}

    def ask(self, sql: str) -> list[Any]:
        """The rows."""
        engine = make_engine(self.platform.database_url, application="tests")
        try:
            with transaction(engine) as tx:
                return [tuple(row) for row in tx.exec_driver_sql(sql)]
        finally:
            engine.dispose()

    def wait_settled(self, workflow: str) -> None:
        """None of its runs is open."""
        sql = f"select state from runs where workflow = '{workflow}'"

        def settled() -> bool:
            return not {state for (state,) in self.ask(sql)} & {"queued", "running", "waiting"}

        until(settled, 30, f"all runs of {workflow} to be settled")

    def wait_registered(self) -> None:
        """The worker's workflows have subscriptions, and the api routes by them."""

        def routed() -> bool:
            ((there,),) = self.ask("select count(*) from subscriptions")
            url = f"{self.platform.api_url}/metrics"
            with urllib.request.urlopen(url, timeout=5) as told:  # noqa: S310 - on loopback
                return there and f"veltrix_subscriptions {there}.0".encode() in told.read()

        until(routed, 30, "the api to route by all subscriptions")


@pytest.fixture(scope="package")
def shop(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Ready, with the tutorial's first code."""
    folder = tmp_path_factory.mktemp("shop")
    first = next(block for block in blocks_of(TUTORIAL) if block.file == "kiosk.py")
    (folder / "kiosk.py").write_text(first.text)
    database, _ = services.make_database()
    broker = services.make_broker()
    platform = Platform(
        folder / "platform",
        workflows="workflows.orders,kiosk,examples",
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        postgres=services.postgres,
        database=database,
        rabbitmq=services.rabbitmq,
        vhost=broker.vhost,
    )
    try:
        platform.open()
        platform.wait_ready(deadline_s=60)
        made = Shop(platform, folder)
        made.wait_registered()
        yield made
    finally:
        platform.close(grace_s=0)
