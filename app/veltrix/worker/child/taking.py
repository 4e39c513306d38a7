"""How a child takes up a list: what is begun unasked, and what is claimed before."""

from collections.abc import Callable

import msgspec

from veltrix.pipeline.execute.journal_rows import Past
from veltrix.pipeline.execute.lease_rows import Claim
from veltrix.worker.child.handing import Handing, Sorted
from veltrix.worker.jobs import ListJob

Claimed = tuple[list[Claim], dict[str, Past]]


def take(
    job: ListJob, handing: Handing, claim: Callable[[ListJob, Sorted], Claimed]
) -> tuple[list[Claim], dict[str, Past], Sorted]:
    """What is claimed of the list, what was done of that before, and what is begun unasked.

    A claim may take any time. So what was to be begun is sorted again after it: each turn has fewer
    messages whose runs may be.
    """
    claimed: list[Claim] = []
    past: dict[str, Past] = {}
    while True:
        found = handing.sort(job)
        if not found.rest:
            return claimed, past, found
        more, more_past = claim(job, found)
        claimed, past = claimed + more, past | more_past
        begun = {one.run_id for one in found.begun}
        if not begun:
            return claimed, past, found
        left = [pair for pair in job.deliveries if pair[0] in begun]
        job = msgspec.structs.replace(job, deliveries=left)
