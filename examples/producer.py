"""A producer that loses nothing: it sends again until it has a receipt.

Sending again is safe, because `source` and `id` say which event it is: what was taken already is
answered with `"duplicate": true`, and starts nothing. So choose ids that a second try repeats.
"""

import time
from typing import Any

import httpx


def send(api: httpx.Client, event: dict[str, Any], patience_s: float = 60.0) -> dict[str, Any]:
    """The receipt of an event, which is then on disk with its runs.

    Raises httpx.HTTPStatusError when the event is refused, and TimeoutError when nobody answered.
    """
    give_up_at = time.monotonic() + patience_s
    pause_s = 0.1
    while time.monotonic() < give_up_at:
        try:
            answer = api.post(
                "/v1/events",
                json={"specversion": "1.0", **event},
                headers={"content-type": "application/cloudevents+json"},
            )
        except httpx.TransportError:  # nobody there, or no answer: it may or may not be taken
            told_s = 0.0
        else:
            if answer.status_code not in {429, 503}:
                answer.raise_for_status()
                receipt: dict[str, Any] = answer.json()
                return receipt
            told_s = float(answer.headers.get("retry-after", 0))
        time.sleep(max(pause_s, told_s))
        pause_s = min(2 * pause_s, 5.0)
    raise TimeoutError(f"event {event['id']!r} has no receipt after {patience_s} s")
