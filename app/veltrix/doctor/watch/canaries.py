"""Canary events: sent to every api and through every queue, and looked for at the other end.

One that has not come out is sent again as it is: its identity is known, so nothing piles up where
it is stuck, and an api is asked all the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import msgspec
from sqlalchemy import Engine

from veltrix import telemetry
from veltrix.client.errors import ApiAway, ApiError
from veltrix.client.events import EventPoster
from veltrix.client.transport import Again, Transport
from veltrix.client.whole_answer import WholeAnswer
from veltrix.doctor.facts.canaries import ApiTrouble, CanaryWays, LateCanary, LostCanary
from veltrix.doctor.watch import canary_rows
from veltrix.doctor.watch.canary_rows import CanaryEnding, CanaryOnWay
from veltrix.domain.events import CANARY_SOURCE, CANARY_TYPE_PREFIX
from veltrix.pipeline.relay.due_rows import queues_subscribed
from veltrix.store.transactions import open_autocommit

SENT_MAX = 50  # at one look; the others have their turn at the next
API_S = 3.0  # for each piece of an api's answer
ANSWER_S = 5.0  # and for all of it
LOST_SAID_S = 600.0
_WHY_CHARS = 200
_ENDINGS = ("out", "late", "lost", "refused")
# Who cancels one knows that it did not come out.
_ENDED = {"succeeded": "out", "failed": "lost", "cancelled": "late"}


class _Planned(msgspec.Struct, frozen=True):
    id: str
    queue: str
    is_new: bool


class Canaries:
    """Sends canaries and looks what became of them; `look` again and again. For one thread."""

    def __init__(
        self,
        engine: Engine,
        apis: Sequence[str],
        *,
        new_id: Callable[[], str],
        may_take_s: float,
        key: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._engine, self._new_id, self._may_take_s = engine, new_id, may_take_s
        self._open = partial(_opened, key=key, ca_file=ca_file)
        self._apis = {api: self._open(api) for api in apis}
        self._turn = 0
        self._queues: set[str] = set()  # at the last look: every api knows them by now

    def close(self) -> None:
        """Let the connections to the apis go."""
        for transport in self._apis.values():
            transport.close()

    def look(self) -> CanaryWays:
        """Book what came out, send what is due, and tell what is late, lost or refused."""
        with open_autocommit(self._engine) as tx:
            found = canary_rows.on_way(tx)
            endings = [end for one in found if (end := self._ending(one)) is not None]
            canary_rows.note_endings(tx, endings)
            ended = {one.id for one in endings}
            subscribed = set(queues_subscribed(tx))
            left = [one for one in found if one.id not in ended]
            given_up = {one.id for one in left if self._is_given_up(one, subscribed)}
            canary_rows.drop(tx, sorted(given_up))
            waiting = [one for one in left if one.id not in given_up]
            plan = self._plan(sorted(subscribed & self._queues), waiting)
            self._queues = subscribed
            new = [(one.id, one.queue, api) for api, some in plan.items() for one in some]
            known = {one.id for one in waiting}
            canary_rows.note_sending(tx, [one for one in new if one[0] not in known])
            lost = canary_rows.lost_lately(tx, LOST_SAID_S)
            canary_rows.forget(tx)
        self._count(found, endings, waiting)
        troubles = [
            trouble for api, some in plan.items() if (trouble := self._post(api, some)) is not None
        ]
        return CanaryWays(
            troubles=troubles,
            late=[
                LateCanary(one.queue, one.api, one.age_s, one.event_id is not None)
                for one in waiting
                if one.age_s > self._may_take_s
            ],
            lost=[
                LostCanary(queue, api, "was accepted and came to nothing") for queue, api in lost
            ],
            may_take_s=self._may_take_s,
        )

    def _is_given_up(self, one: CanaryOnWay, subscribed: set[str]) -> bool:
        """No api took it, and its queue or its api is no more."""
        is_gone = one.queue not in subscribed or one.api not in self._apis
        return one.event_id is None and is_gone

    def _ending(self, one: CanaryOnWay) -> CanaryEnding | None:
        """None: it is on its way. One that was accepted for long, and has no run, is lost."""
        if one.event_id is not None and one.state is None and one.age_s > self._may_take_s:
            return CanaryEnding(one.id, "lost", None, one.event_id)
        ending = _ENDED.get(one.state or "")
        if ending == "out" and (one.took_s or 0) > self._may_take_s:
            ending = "late"
        return None if ending is None else CanaryEnding(one.id, ending, one.took_s, one.event_id)

    def _plan(
        self, queues: Sequence[str], waiting: Sequence[CanaryOnWay]
    ) -> dict[str, list[_Planned]]:
        """By api: what waits there, and as many new ones that each queue and api has one."""
        plan: dict[str, list[_Planned]] = {api: [] for api in self._apis}
        for one in waiting:
            if one.api in plan:
                plan[one.api].append(_Planned(one.id, one.queue, is_new=False))
        taken = {(one.queue, one.api) for one in waiting}
        apis, count = list(self._apis), max(len(queues), len(self._apis))
        if not queues or not apis:
            return plan
        for number in range(self._turn, self._turn + min(count, SENT_MAX)):
            # A turn later the same queue goes by another api.
            api = apis[(number % count + number // count) % len(apis)]
            pair = (queues[number % len(queues)], api)
            if pair not in taken:
                taken.add(pair)
                plan[api].append(_Planned(self._new_id(), pair[0], is_new=True))
        self._turn += min(count, SENT_MAX)
        return plan

    def _post(self, api: str, planned: Sequence[_Planned]) -> ApiTrouble | None:
        if not planned:
            return None
        transport = self._apis[api]
        poster = EventPoster(transport, _give_up)
        texts = [_text(one) for one in planned]
        with WholeAnswer(ANSWER_S, transport.close) as whole:
            try:
                answers = [item for _, item in sorted(poster.post(texts), key=itemgetter(0))]
            except Exception as error:  # noqa: BLE001 - whatever answers there, the look goes on
                for one in planned:
                    telemetry.canaries.labels(one.queue, "refused").inc()
                told = str(error) if isinstance(error, ApiError) else type(error).__name__
                late = f"no whole answer within {ANSWER_S:g} s"
                return ApiTrouble(api, _printable(late if whole.is_late else told))
            finally:
                if whole.is_late:
                    self._apis[api] = self._open(api)
        refused = [item for item in answers if item.status != 202]
        for one, item in zip(planned, answers, strict=True):
            if item.status != 202:
                telemetry.canaries.labels(one.queue, "refused").inc()
        if len(refused) < len(planned):
            return None
        return ApiTrouble(api, _printable(f"{refused[0].status} {refused[0].detail}"))

    def _count(
        self,
        found: Sequence[CanaryOnWay],
        endings: Sequence[CanaryEnding],
        waiting: Sequence[CanaryOnWay],
    ) -> None:
        queues = {one.id: one.queue for one in found}
        for ending in endings:
            queue = queues[ending.id]
            telemetry.canaries.labels(queue, ending.ending).inc()
            if ending.ending in ("out", "late") and ending.took_s is not None:
                telemetry.canary_seconds.labels(queue).observe(max(0.0, ending.took_s))
        for queue in self._queues:
            for name in _ENDINGS:  # a counter that begins at 1 has not grown, to Prometheus
                telemetry.canaries.labels(queue, name)
        telemetry.canaries_waiting.set(len(waiting))


def _opened(api: str, *, key: str | None, ca_file: Path | None) -> Transport:
    return Transport(api, key, ca_file=ca_file, timeout_s=API_S, attempts_max=None, wait=_give_up)


def _printable(text: str) -> str:
    """What somebody else said, as it can be stored and shown."""
    return "".join(one if one.isprintable() else "?" for one in text[:_WHY_CHARS])


def _give_up(again: Again) -> None:
    """The next look is soon."""
    raise ApiAway(again.why)


def _text(one: _Planned) -> bytes:
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": one.id,
            "source": CANARY_SOURCE,
            "type": CANARY_TYPE_PREFIX + one.queue,
            "datacontenttype": "application/json",
            "data": {"number": 1},
        }
    )
