"""A proof on the PostgreSQL and RabbitMQ of the test run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Broker, Services
from veltrix.prove.report.report import Proof
from veltrix.prove.scenario import Plan, prove

Prove = Callable[..., Proof]


@pytest.fixture
def proved(services: Services, database: tuple[str, str], broker: Broker, tmp_path: Path) -> Prove:
    """Run a plan: `proved("child_killed", events=500)`; options of `Plan`, or of the site.

    Leases are of 2 s, so that what waits for their end is soon over.
    """

    def run(*faults: str, events: int, seed: int = 1, **changes: Any) -> Proof:
        of_plan = {name: changes.pop(name) for name in list(changes) if name in _PLAN}
        plan = Plan(
            **{
                "scenario": "test",
                "faults": faults,
                "events": events,
                "seed": seed,
                "source": f"/veltrix/prove/{seed}",
                "command": "pytest",
                "stall_s": 15.0,
                "slack": 3.0,
                **of_plan,
            }
        )
        site = {
            "postgres": services.postgres,
            "database": database[0],
            "rabbitmq": services.rabbitmq,
            "vhost": broker.vhost,
            "env": {"VELTRIX_HOLD_S": "2"},
            **changes,
        }
        return prove(plan, tmp_path / "proof", **site)

    return run


_PLAN = set(Plan.__struct_fields__)
