"""What the watch knows, for those who ask: its last look, what it found, what went, canaries."""

import msgspec
from sqlalchemy import Connection

from veltrix.doctor.watch import canary_rows, look_rows
from veltrix.doctor.watch.canary_rows import CanaryRow
from veltrix.doctor.watch.look_rows import DoctorLook, SeenFinding


class WatchReport(msgspec.Struct, frozen=True):
    """`look` None: nobody has ever watched. `findings` are there, the worst first; `gone` lately.

    `canaries`: the last of each queue and api.
    """

    look: DoctorLook | None
    findings: list[SeenFinding]
    gone: list[SeenFinding]
    canaries: list[CanaryRow]


def read_report(tx: Connection) -> WatchReport:
    """All of it, from small tables."""
    look = look_rows.last(tx)
    if look is None:
        return WatchReport(None, [], [], [])
    return WatchReport(look, look_rows.there(tx), look_rows.gone(tx), canary_rows.latest(tx))
