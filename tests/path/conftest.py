"""Platforms whose workers run `tests.path.flows`: one of a test's own, or one that many share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.path.seen import Scene, Start, options
from tests.support.services import Services
from veltrix.dev.platform import Platform


@pytest.fixture
def scene(platform: Callable[..., Platform], tmp_path: Path) -> Iterator[Start]:
    """Start a platform to do harm to: `scene(workers=2, hold_s=1)` has registered workers."""
    scenes: list[Scene] = []

    def start(**changes: Any) -> Scene:
        effects = tmp_path / "effects"
        one = Scene(platform(**options(effects, **changes)), effects)
        scenes.append(one)
        if changes.get("workers", 1):
            one.wait_registered()
        return one

    yield start
    for one in scenes:
        one.engine.dispose()


@pytest.fixture(scope="session")
def steady(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A platform with leases of 1 s for tests that end none of its processes."""
    options = {"hold_s": 1, "env": {"VELTRIX_STEP_OVERRUN_S": "0.5"}}
    with shared(services, tmp_path_factory.mktemp("steady"), **options) as scene:
        yield scene


@contextmanager
def shared(services: Services, folder: Path, **changes: Any) -> Iterator[Scene]:
    """A platform that many tests share, so each looks at its own runs only."""
    database, _ = services.make_database()
    broker = services.make_broker()
    started = options(
        folder / "effects",
        postgres=services.postgres,
        database=database,
        rabbitmq=services.rabbitmq,
        vhost=broker.vhost,
        **changes,
    )
    platform = Platform(folder / "platform", **started)
    try:
        platform.open()
        platform.wait_ready()
        scene = Scene(platform, folder / "effects")
        scene.wait_registered()
        yield scene
        scene.engine.dispose()
    finally:
        platform.close(grace_s=0)
