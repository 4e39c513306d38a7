"""One look after the other: hold the live rules, send canaries, write what was found, tell it."""

from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import Connection, Engine

from veltrix import telemetry
from veltrix.doctor.examine import Examination, Reader, examine
from veltrix.doctor.rule import Rule, Severity
from veltrix.doctor.watch import look_rows
from veltrix.doctor.watch.look_rows import LookChange
from veltrix.doctor.watch.webhook import Webhook
from veltrix.store.transactions import transaction

HOLD_INTERVALS = 3  # so long nobody else looks

_log = telemetry.logger("doctor")


class DoctorWatch:
    """`once` is a look, if this is the watch whose turn it is. For one thread.

    Any number stand by: one looks, and when it does not for three intervals, the next does.
    `prepare` is done once, before the first look.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        rules: Iterable[Rule],
        readers: Mapping[type, Reader],
        accepted: Mapping[str, str],
        *,
        is_production: bool,
        interval_s: float,
        webhook: Webhook | None,
        monotonic: Callable[[], float],
        unix_s: Callable[[], float],
        prepare: Callable[[Connection], object] = lambda _tx: None,
    ) -> None:
        self._engine, self._name, self._webhook = engine, name, webhook
        self._readers, self._accepted = readers, accepted
        self._rules = [rule for rule in rules if rule.reads in readers]
        self._is_production, self._interval_s = is_production, interval_s
        self._monotonic, self._unix_s = monotonic, unix_s
        self._prepare, self._is_prepared = prepare, False
        self.is_looking = False
        self._turned_at = monotonic()

    def is_turning(self) -> bool:
        """It has looked, or seen that another does, within the time that is left to it."""
        return self._monotonic() - self._turned_at < HOLD_INTERVALS * self._interval_s

    def once(self) -> int:
        """Look, write and tell; 0, for the pause that follows."""
        self._look()
        self._turned_at = self._monotonic()
        return 0

    def _look(self) -> None:
        hold_s = HOLD_INTERVALS * self._interval_s
        with transaction(self._engine) as tx:
            if not self._is_prepared:
                self._prepare(tx)
            is_ours = look_rows.take(tx, self._name, hold_s)
        self._is_prepared = True
        if is_ours != self.is_looking:
            self.is_looking = is_ours
            _log.info("watch.looking" if is_ours else "watch.standing_by", watch=self._name)
        if not is_ours:
            telemetry.doctor_findings.clear()  # they are those of the one that looks
            telemetry.doctor_not_checked.set(0)
            telemetry.canaries_waiting.set(0)
            return
        began = self._monotonic()
        telemetry.doctor_not_checked.set(len(self._rules))  # until it is written
        found = examine(
            self._rules, self._readers, self._accepted, is_production=self._is_production
        )
        took_s = self._monotonic() - began
        with transaction(self._engine) as tx:
            change = look_rows.note(
                tx,
                self._name,
                found.findings,
                found.not_checked,
                held=found.held,
                took_ms=round(1_000 * took_s),
            )
        self._measure(found, took_s)
        say(change)
        if self._webhook is not None:
            self._webhook.tell(self._monotonic())

    def leave(self) -> None:
        """Let another watch look at once."""
        if self.is_looking:
            with transaction(self._engine) as tx:
                look_rows.leave(tx, self._name)

    def _measure(self, found: Examination, took_s: float) -> None:
        telemetry.doctor_findings.clear()
        for one in found.findings:
            if one.accepted is None:
                telemetry.doctor_findings.labels(one.id, one.severity.value, one.subject).inc()
        telemetry.doctor_not_checked.set(len(found.not_checked))
        telemetry.doctor_look_seconds.set(took_s)
        telemetry.doctor_looked_at_seconds.set(self._unix_s())


def say(change: LookChange) -> None:
    """A line for each finding that appeared, as loud as it is bad, and for each that is gone."""
    for one in change.appeared:
        line: Callable[..., object] = _log.warning
        if one.finding.accepted is not None:
            line = _log.info
        elif one.finding.severity is Severity.LOSS:
            line = _log.error
        line(
            "finding.appeared",
            id=one.finding.id,
            severity=one.finding.severity.value,
            found=one.finding.found,
            cure=one.finding.cure,
            accepted=one.finding.accepted,
        )
    for one in change.gone:
        _log.info(
            "finding.gone",
            id=one.finding.id,
            found=one.finding.found,
            appeared_at=one.appeared_at.isoformat(),
        )
