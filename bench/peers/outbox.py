"""`python -m bench.peers.outbox MODULE`: hands what was accepted to the broker, and loses nothing.

Between the commit of an event and its confirmed publish a process can die, so what is to be
published is committed with the event and forgotten after the confirm: the transactional outbox.
`MODULE.publish(event_ids)` returns when the broker has confirmed all, and raises otherwise.
"""

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from threading import Thread

from sqlalchemy import text

from bench.peers.ledger import engine, setting

_IDLE_S = 0.01
_SWEEP_S = 60.0
_TAKE = text("""
delete from outbox where number in (
    select number from outbox order by number limit :most for update skip locked)
returning event_id
""")
# A message that its worker gave up, or that the broker lost: its event is still open.
_SWEEP = text("""
insert into outbox (event_id) select id from events
where settled_at is null and accepted_at < clock_timestamp() - interval '5 minutes'
""")


def relay_once(publish: Callable[[Sequence[str]], None], most: int) -> int:
    """How many were published and confirmed; none of them is forgotten if `publish` raises."""
    with engine().begin() as tx:
        event_ids = tx.execute(_TAKE, {"most": most}).scalars().all()
        if event_ids:
            publish(event_ids)
    return len(event_ids)


def _relay(publish: Callable[[Sequence[str]], None]) -> None:
    while True:
        if relay_once(publish, setting("outbox_batch")) == 0:
            time.sleep(_IDLE_S)


def main(module: str) -> None:
    """Relays in as many threads as the peer is best with, and a sweep every minute."""
    publish = importlib.import_module(f"bench.peers.{module}").publish
    threads = [
        Thread(target=_relay, args=(publish,), daemon=True) for _ in range(setting("publishers"))
    ]
    for thread in threads:
        thread.start()
    while all(thread.is_alive() for thread in threads):
        threads[0].join(_SWEEP_S)
        with engine().begin() as tx:
            tx.execute(_SWEEP)
    sys.exit("a relay died; see above")


if __name__ == "__main__":
    main(sys.argv[1])
