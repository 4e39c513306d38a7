"""Apis whose clocks are wrong, or jump while they work: nothing is dated by them."""

from contextlib import closing
from pathlib import Path

from tests.path.site import Open, connect, event_of, post, site
from tests.support.wait import until
from veltrix.prove.faults.clock import set_clock

__all__ = ["site"]
WITHIN_S = 5


def library() -> str:
    (found,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return str(found)


def test_an_api_whose_clock_jumps_refuses_and_takes_again_and_dates_nothing_by_it(
    site: Open, tmp_path: Path
) -> None:
    one = site(workers=1, apis=0)
    clock = tmp_path / "clock"
    set_clock(clock, "+0s")
    one.platform.start(
        "api-1",
        "api",
        {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
    )
    one.platform.wait_ready("api-1")
    member = one.member("api-1")
    taken = 0
    with closing(connect(f"http://127.0.0.1:{member.port}")) as connection:
        for jump in ("+0s", "+1s", "-1s", "+90s", "-40s", "+1d", "+0s"):
            set_clock(clock, jump)
            is_small = jump in {"+0s", "+1s", "-1s"}

            def is_as_it_should() -> bool:
                nonlocal taken
                status, _ = post(connection, [event_of(taken)])
                taken += status == 202
                return (status == 202) is is_small  # noqa: B023 - called at once

            until(is_as_it_should, WITHIN_S, f"the answer at {jump}")
            until(
                lambda: member.is_ready is is_small,  # noqa: B023 - called at once
                WITHIN_S,
                f"readiness at {jump}",
            )

    one.wait_settled(taken, 20)
    ((first, last),) = one.ask(
        "select extract(epoch from min(accepted_at) - now()), extract(epoch from max(accepted_at)"
        " - now()) from events"
    )
    assert -120 < first <= last < 1
    one.check_books(taken)
