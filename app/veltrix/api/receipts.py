"""What producers are answered: receipts, and a problem for each event that was not taken."""

from typing import Any
from urllib.parse import urlencode

import msgspec

from veltrix.api.documented import Either
from veltrix.domain.ids import Id
from veltrix.pipeline.accept.event_checks import BadEvent
from veltrix.pipeline.accept.receipts import EventRefused, Receipt, StartedRun
from veltrix.web.event_problems import Unanswered, problem_of_event


class ReceiptItem(msgspec.Struct, kw_only=True):
    """A receipt as an item of a batch's answer."""

    status: int = 202
    id: str
    source: str
    event: Id
    runs: list[StartedRun]
    duplicate: bool


class BatchAnswer(msgspec.Struct):
    """An item for each event in the order sent. accepted + duplicates + refused = all of them."""

    items: list[Any]  # a ReceiptItem, or a problem as a JSON object
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0

    @property
    def status(self) -> int:
        """202 when all were taken, 207 when some, 400 when none."""
        if not self.refused:
            return 202
        return 207 if self.accepted or self.duplicates else 400

    @property
    def may_retry(self) -> bool:
        """Some items were not committed for want of the database: sending them again is right."""
        return any(isinstance(item, dict) and item["status"] == 503 for item in self.items)


ReceiptOrBatch = Either("ReceiptOrBatch", (Receipt, BatchAnswer))


def batch_answer(answers: list[Receipt | Unanswered]) -> BatchAnswer:
    """The answer to a batch, of which some may have been taken."""
    batch = BatchAnswer([])
    for index, answer in enumerate(answers):
        if isinstance(answer, Receipt):
            batch.items.append(
                ReceiptItem(
                    id=answer.id,
                    source=answer.source,
                    event=answer.event,
                    runs=answer.runs,
                    duplicate=answer.duplicate,
                )
            )
            if answer.duplicate:
                batch.duplicates += 1
            else:
                batch.accepted += 1
        else:
            id_, source = _identity_of(answer)
            document = problem_of_event(answer).document()
            batch.items.append(document | {"index": index, "id": id_, "source": source})
            batch.refused += 1
    return batch


def event_location(receipt: Receipt) -> str:
    """Where an accepted event can be read."""
    return "/v1/events?" + urlencode({"source": receipt.source, "id": receipt.id})


def _identity_of(error: Unanswered) -> tuple[str | None, str | None]:
    match error:
        case BadEvent():
            return error.id, error.source
        case EventRefused():
            return error.event_id, error.source
    return None, None
