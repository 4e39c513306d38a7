"""The ledger by days: they are there before they are needed."""

from collections.abc import Iterator

from veltrix.doctor.facts.postgres import LiveDatabase
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("history")

AHEAD_DAYS_MIN = 3
_OPERATING = "docs/how-to/operating.md"


@rules.rule(
    "D30",
    Severity.STALL,
    LiveDatabase,
    title="a day of the ledger was not made in time",
    why="What is accepted then lies beside the days: it is found, but not dropped with its day."
    " Where a split of the ledger was never finished, nothing is accepted from its day on.",
    safe="a relay runs, and veltrix_days_ahead is 8",
    source=_OPERATING,
)
def missing_days(facts: LiveDatabase) -> Iterator[Evidence]:
    facts.need()
    days = facts.days
    if days is None:
        return
    for table in days.checked:
        yield Evidence(
            found=f"the split of table {table!r} was not finished, and soon it refuses all rows",
            origin=f"constraint {table}_before",
            cure="veltrix db partition  # goes on with it",
        )
    for table in days.late:
        yield Evidence(
            found=f"table {table!r} has rows of days that it does not have",
            origin=f"table {table}_default",
            cure="start a relay: it makes the days, and moves up to 10,000 rows of each",
        )
    if days.is_split and days.ahead < AHEAD_DAYS_MIN:
        yield Evidence(
            found=f"{days.ahead} days are there from today on",
            origin="partitions of the tables",
            cure="start a relay; without one: veltrix db partition",
        )
