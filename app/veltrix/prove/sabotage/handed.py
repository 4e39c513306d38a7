"""Sabotages of runs that are handed over as claimed, and of what is kept with a run."""

from functools import wraps
from typing import Any

from veltrix.prove.sabotage.swaps import Saboteur, replace


def redelivered_begun() -> None:
    """A message that somebody had before is begun as if he had never had it."""

    def first(read: Any) -> Any:
        @wraps(read)
        def read_as_first(message: Any) -> Any:
            message.delivery_info["redelivered"] = False
            return read(message)

        return read_as_first

    replace("veltrix.worker.parent.consumer", "read_message", first)


def token_believed_for_ever() -> None:
    """What was handed over is begun without a claim, however long ago that was."""

    def for_ever(_is_in_time: Any) -> Any:
        return lambda self, _handed: self._clock.is_known

    replace("veltrix.worker.child.handing", "Handing._is_in_time", for_ever)


def last_step_left_out() -> None:
    """Of the steps that are kept with a run the last one is written nowhere."""

    def shorter(inline_of: Any) -> Any:
        @wraps(inline_of)
        def all_but_one(entries: Any, now: float) -> Any:
            return inline_of(entries[:-1], now)

        return all_but_one

    replace("veltrix.pipeline.execute.settle", "inline_of", shorter)


SABOTAGES: dict[str, Saboteur] = {
    one.__name__: one for one in (redelivered_begun, token_believed_for_ever, last_step_left_out)
}
