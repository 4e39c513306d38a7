"""Canary events: what no rule foresees still keeps them from coming out at the other end."""

from collections.abc import Iterator

from veltrix.doctor.facts.canaries import CanaryWays
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("canaries")

_OPERATING = "docs/how-to/operating.md"


@rules.rule(
    "O18",
    Severity.LOSS,
    CanaryWays,
    title="a canary event was lost",
    why="It was accepted and came to nothing, so what users sent beside it may have, too.",
    safe="veltrix doctor --watch  # every canary comes out",
    source=_OPERATING,
)
def lost(ways: CanaryWays) -> Iterator[Evidence]:
    for one in ways.lost:
        yield Evidence(
            found=f"the canary of queue {one.queue!r} by {one.api!r} {one.why}",
            origin="table canaries",
            cure="veltrix runs list --workflow veltrix.canary  # then what it says of its run",
        )


@rules.rule(
    "O17",
    Severity.STALL,
    CanaryWays,
    title="an api takes no events",
    why="It answers a canary event with a refusal, or not at all; producers get the same.",
    safe="every api of VELTRIX_DOCTOR_APIS answers 202",
    source=_OPERATING,
)
def refusing_api(ways: CanaryWays) -> Iterator[Evidence]:
    for one in ways.troubles:
        yield Evidence(
            found=f"api {one.api!r} took no canary",
            origin=f"POST /v1/events: {one.why}",
            cure="look at its log and /readyz; VELTRIX_DOCTOR_APIS names the apis,"
            " VELTRIX_DOCTOR_KEY_FILE the file with its key",
        )


@rules.rule(
    "O16",
    Severity.STALL,
    CanaryWays,
    title="a canary event is late",
    why="It goes the way of every event of its queue: what users sent waits as well.",
    safe="VELTRIX_DOCTOR_CANARY_S above what a queue may keep waiting",
    source=_OPERATING,
)
def late(ways: CanaryWays) -> Iterator[Evidence]:
    refusing = {one.api for one in ways.troubles}
    for one in ways.late:
        if not one.is_accepted and one.api in refusing:
            continue  # said by O17
        where = "accepted and has no outcome" if one.is_accepted else "not in the ledger"
        yield Evidence(
            found=f"the canary of queue {one.queue!r} by {one.api!r} is {where} after"
            f" {one.age_s:,.0f} s; {ways.may_take_s:g} s are allowed",
            origin="table canaries",
            cure="the other findings say why; if there are none, more workers for that queue, or a"
            " larger VELTRIX_DOCTOR_CANARY_S",
        )
