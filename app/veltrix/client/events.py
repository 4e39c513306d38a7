"""Posting events: a list in one request, until the api has answered for each of them.

Sending an event twice is harmless: its identity is known. So what the api cannot take now (503, of
the whole list or of an item) is sent again, as often as the transport's `wait` lets it. A list that
is too large, or that is refused as a whole, goes in halves. An event that is no JSON goes alone: it
could end the list early.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from veltrix.client.errors import error_of
from veltrix.client.transport import (
    BACKOFF_S,
    BACKOFF_S_MAX,
    Again,
    ApiAnswer,
    Transport,
    retry_after_s,
)
from veltrix.domain.events import BATCH_TYPE, STRUCTURED_TYPE

PATH = "/v1/events"
_OF_EVENTS = frozenset({202, 207, 400, 409, 413, 422})  # any other answer is about who sends
_CHARS = 200


class EventAnswer(msgspec.Struct):
    """What the api answers for one event: 202, or why it is refused, for good."""

    status: int
    duplicate: bool = False
    detail: str = ""
    type: str | None = None
    id: str | None = None
    source: str | None = None


class _Batch(msgspec.Struct):
    items: list[EventAnswer]


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_item = msgspec.json.Decoder(EventAnswer).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class EventPoster:
    """Posts lists of events over one transport. For one thread.

    `wait` is asked for a pause when an api has taken a part of a list, as the transport's own is.
    """

    def __init__(self, transport: Transport, wait: Callable[[Again], None]) -> None:
        self._transport, self._wait = transport, wait

    def post(self, events: Sequence[bytes]) -> Iterator[tuple[int, EventAnswer]]:
        """The place of each event in the list, and the last answer for it, as they come.

        Raises ApiError when the api takes none from this caller, and what `wait` raises.
        """
        whole = [place for place, text in enumerate(events) if _is_json(text)]
        yield from self._post(events, whole)
        alone = set(range(len(events))) - set(whole)
        for place in sorted(alone):
            yield place, self._post_alone(events[place])

    def _post(
        self, events: Sequence[bytes], places: list[int]
    ) -> Iterator[tuple[int, EventAnswer]]:
        backoff_s, attempt = BACKOFF_S, 1
        while places:
            body = b"[" + b",".join(events[place] for place in places) + b"]"
            answer = self._send(BATCH_TYPE, body)
            items = _items_of(answer)
            if items is None or len(items) != len(places):
                if len(places) == 1:
                    yield places[0], self._post_alone(events[places[0]])
                    return
                half = len(places) // 2
                yield from self._post(events, places[:half])
                places = places[half:]
                continue
            later = []
            for place, item in zip(places, items, strict=True):
                if item.status == 503:
                    later.append(place)
                else:
                    yield place, item
            places = later
            if places:
                attempt += 1
                pause_s = max(backoff_s, retry_after_s(answer.headers))
                self._wait(Again(attempt, None, pause_s, "the api cannot reach its database"))
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    def _post_alone(self, event: bytes) -> EventAnswer:
        answer = self._send(STRUCTURED_TYPE, event)
        item = _item_of(answer)
        item.status = answer.status
        return item

    def _send(self, content_type: str, body: bytes) -> ApiAnswer:
        # Receipts are short: to pack them would cost more than it saves.
        headers = {"content-type": content_type, "accept-encoding": "identity"}
        answer = self._transport.send("POST", PATH, body=body, headers=headers)
        if answer.status not in _OF_EVENTS:
            raise error_of(answer.status, answer.body, f"POST {PATH}")
        return answer


def _is_json(text: bytes) -> bool:
    try:
        _check_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _items_of(answer: ApiAnswer) -> list[EventAnswer] | None:
    """The items of a list's answer; None: the list as a whole was not taken."""
    if answer.status not in {202, 207, 400}:
        return None
    try:
        return _decode_batch(answer.body).items
    except msgspec.MsgspecError:
        return None


def _item_of(answer: ApiAnswer) -> EventAnswer:
    """A receipt or problem that stands alone; of another server's page the first characters."""
    try:
        return _decode_item(answer.body)
    except msgspec.ValidationError:
        try:
            told = msgspec.json.decode(answer.body)
            return msgspec.convert({**told, "status": answer.status}, EventAnswer)
        except (msgspec.MsgspecError, TypeError):
            pass
    except msgspec.DecodeError:
        pass
    if answer.status < 400:  # no api of ours has taken it
        raise error_of(answer.status, answer.body, f"POST {PATH}")
    return EventAnswer(answer.status, detail=answer.body[:_CHARS].decode(errors="replace"))
