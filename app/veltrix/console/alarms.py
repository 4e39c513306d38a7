"""What on the first page needs a person, in whole sentences, the worst first."""

from collections.abc import Iterator
from datetime import datetime
from urllib.parse import quote

import msgspec

from veltrix.console.figures import Figures
from veltrix.console.rendering import address, age, count, took
from veltrix.doctor.examine import Finding
from veltrix.doctor.rule import Severity
from veltrix.doctor.watch.report import WatchReport
from veltrix.domain.states import RunState
from veltrix.operations.books.overview import QueueRuns
from veltrix.operations.runs.read_pace import WorkflowPace

OVERDUE_S = 15.0  # a relay looks twice a second, and makes up for an absence in some
SLOWER_TIMES = 2.0
SLOWER_S_MIN = 0.5
SLOWER_RUNS_MIN = 40  # twenty in each half
NAMED_MAX = 5
_SAID_HERE = frozenset({"O09", "O10", "O11", "O12", "O13"})


class UrgentNotice(msgspec.Struct, frozen=True):
    """One sentence of what is wrong, one of what that means or what to do, and where to look.

    Not `is_bad`: it may be meant, or ends by itself.
    """

    what: str
    detail: str
    is_bad: bool
    href: str | None = None


def alarms(figures: Figures) -> list[UrgentNotice]:
    """Everything but failure groups, which are a list of their own."""
    now = figures.books.as_of
    found = [
        *_books(figures),
        *(_bare(queue, now) for queue in figures.queues if not queue.is_served),
        *_overdue(figures.queues, now),
        *_absent(figures),
        *_found(figures.watch, now),
        *(_slower(pace) for pace in figures.paces[1:] if _is_slower(pace)),
    ]
    return sorted(found, key=lambda alarm: not alarm.is_bad)


def _books(figures: Figures) -> Iterator[UrgentNotice]:
    if unaccounted := figures.books.unaccounted:
        yield UrgentNotice(
            f"{count(unaccounted)} unaccounted",
            "The books do not balance: veltrix balance says in which minute and account.",
            is_bad=True,
        )
    if letters := figures.unseen_letters:
        more = " or more" if figures.is_more_letters else ""
        yield UrgentNotice(
            f"{count(letters)}{more} dead letter{'' if letters == 1 else 's'} not looked at",
            "Messages that reached nobody's code: veltrix events dead-letters shows them.",
            is_bad=False,
            href=address("/failures", kind="dead_letter"),
        )


def _bare(queue: QueueRuns, now: datetime) -> UrgentNotice:
    open_ = queue.queued + queue.running + queue.waiting
    runs = "1 run is" if open_ == 1 else f"{count(open_)} runs are"
    return UrgentNotice(
        f"No worker serves {queue.queue}",
        f"{runs} open there, the oldest for {age(queue.oldest_started_at, now)}; nobody will do the"
        " open runs there. Start a worker with their workflows, or cancel them.",
        is_bad=True,
        href=address("/runs", queue=queue.queue, state=RunState.QUEUED),
    )


def _overdue(queues: list[QueueRuns], now: datetime) -> Iterator[UrgentNotice]:
    """Queues that have a worker; of the others that is said already."""
    late = [(q.overdue_at, q) for q in queues if q.is_served and q.overdue_at is not None]
    for due_at, queue in sorted(late, key=lambda one: (one[0], one[1].queue)):
        if (now - due_at).total_seconds() >= OVERDUE_S:
            yield UrgentNotice(
                f"{queue.queue}: the oldest due run is {age(due_at, now)} late",
                "Its workers take no more now, or no relay hands it over: see their /readyz.",
                is_bad=False,
                href=address("/runs", queue=queue.queue, state=RunState.QUEUED),
            )


def _absent(figures: Figures) -> Iterator[UrgentNotice]:
    gone = [worker.id for worker in figures.workers if not worker.is_present]
    if gone:
        more = f", and {len(gone) - NAMED_MAX} more" if len(gone) > NAMED_MAX else ""
        yield UrgentNotice(
            f"{count(len(gone))} worker child{'' if len(gone) == 1 else 'ren'} gone without a word",
            f"{', '.join(gone[:NAMED_MAX])}{more}: killed, or cut off. Others take their runs.",
            is_bad=False,
        )
    if not figures.has_broker:
        yield UrgentNotice(
            "This api has no connection to RabbitMQ",
            "Events are accepted, and runs go out when relays reach it.",
            is_bad=False,
        )


def _found(watch: WatchReport, now: datetime) -> Iterator[UrgentNotice]:
    """What the doctor's watch has found, but for what this page says in words of its own."""
    if watch.look is None:
        return
    if not watch.look.is_watched:
        yield UrgentNotice(
            f"The doctor's watch has said nothing for {age(watch.look.looked_at, now)}",
            "What loses or stalls work would be named by it: start veltrix doctor --watch.",
            is_bad=False,
        )
        return
    findings = [one.finding for one in watch.findings if one.finding.id not in _SAID_HERE]
    by_rule: dict[str, list[Finding]] = {}
    for one in findings:
        if one.accepted is None:
            by_rule.setdefault(one.id, []).append(one)
    for same in list(by_rule.values())[:NAMED_MAX]:
        one, others = same[0], len(same) - 1
        more = f", and {count(others)} more" if others else ""
        yield UrgentNotice(
            f"{one.title[:1].upper()}{one.title[1:]} ({one.id})",
            f"{one.found[:1].upper()}{one.found[1:].rstrip('.?!')}{more}. Cure: {one.cure}",
            is_bad=one.severity is Severity.LOSS,
        )
    if len(by_rule) > NAMED_MAX:
        yield UrgentNotice(
            f"{count(len(by_rule) - NAMED_MAX)} more kinds of findings",
            "veltrix doctor --live names them all.",
            is_bad=False,
        )


def _is_slower(pace: WorkflowPace) -> bool:
    before, lately = pace.before_p95_s, pace.lately_p95_s
    if before is None or lately is None or pace.settled < SLOWER_RUNS_MIN:
        return False
    return lately >= SLOWER_S_MIN and lately >= SLOWER_TIMES * before


def _slower(pace: WorkflowPace) -> UrgentNotice:
    return UrgentNotice(
        f"{pace.workflow} became slower",
        f"95 in 100 of its newest runs took up to {took(pace.lately_p95_s)} without sleeps, and up"
        f" to {took(pace.before_p95_s)} just before.",
        is_bad=False,
        href=address(f"/workflows/{quote(pace.workflow or '')}"),
    )
