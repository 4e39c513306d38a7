"""A call without a key that may call leaves a trace, and a flood of them no flood of lines."""

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from tests.api.conftest import ApiOf
from veltrix.access import keys
from veltrix.access.keys import KeyRefused
from veltrix.store.transactions import transaction
from veltrix.web.auth_failures import SAY_S, AuthFailures

KEY = "till-0123456789abcdef0123456789abcdef"


def test_each_is_counted_by_reason(engine: Engine, api_of: ApiOf) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "till", ["runs:read"], "anna", KEY)
    api = api_of(require_keys=True, metrics_addresses="127.0.0.1")

    def counted(reason: str) -> float:
        wanted = f'veltrix_auth_failures_total{{reason="{reason}"}} '
        lines = api.get("/metrics").text.splitlines()
        return sum(float(one.removeprefix(wanted)) for one in lines if one.startswith(wanted))

    before = {reason: counted(reason) for reason in ("missing", "unknown")}
    assert api.get("/v1/runs").status == 401
    assert api.post_event({}, authorization=f"Bearer {KEY}x").status == 401
    assert api.get("/v1/runs", authorization=f"Bearer {KEY}").status == 200

    assert {reason: counted(reason) - was for reason, was in before.items()} == {
        "missing": 1,
        "unknown": 1,
    }


def test_a_flood_is_a_line_a_second_with_its_numbers() -> None:
    now = 100.0
    failures = AuthFailures(lambda: now)
    with capture_logs() as said:
        for _ in range(1_000):
            failures.note("unknown")
        failures.note("missing")
        now += SAY_S
        failures.note("unknown")

    assert [(one["event"], one.get("unknown"), one.get("missing")) for one in said] == [
        ("auth.failed", 1, None),
        ("auth.failed", 1_000, 1),
    ]


@pytest.mark.parametrize("name", ["local", "admin", "Veltrix", "VELTRIX_ADMIN_KEY_FILE"])
def test_no_key_has_a_name_that_the_product_writes(engine: Engine, name: str) -> None:
    with transaction(engine) as tx, pytest.raises(KeyRefused, match="itself writes"):
        keys.create(tx, name, ["runs:read"], "anna", KEY)
