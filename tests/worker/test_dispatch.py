"""Handing lists to children goes on after a connection that took the plan for it along."""

from itertools import count
from pathlib import Path

from kombu.asynchronous import Hub

from veltrix.settings.fields import Settings
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.parent.consumer import ListConsumer
from veltrix.worker.parent.intake import Intake
from veltrix.worker.parent.parts import Parent
from veltrix.worker.places import Places
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles


class Waiting(ListConsumer):
    """A consumer with a hub and no broker, which counts how often it would hand out."""

    def __init__(self, parent: Parent) -> None:
        self.hub = Hub()
        self._parent = parent
        self._monotonic = parent.monotonic
        self._intake = Intake(parent.queues, 1, 0.25)
        self._is_dispatch_planned = self._is_leaving = False
        self.handed_out = 0

    def listen(self, *_: object) -> None:
        """There is nobody to listen to."""

    def _hand_out(self) -> None:
        self.handed_out += 1


def test_a_plan_lost_with_its_connection_is_made_again_at_the_next(tmp_path: Path) -> None:
    tokens = count()
    parent = Parent(
        Settings(),
        ["q"],
        Stamps(tmp_path / "stamps"),
        Places(tmp_path / "places"),
        Troubles(tmp_path / "troubles"),
        Mailbox(),
        lambda: str(next(tokens)),
        lambda: 0.0,
    )
    consumer = Waiting(parent)
    consumer._plan_dispatch()
    # An error of the connection in the same turn of the loop: what was ready is not called.
    assert consumer.hub._pop_ready()
    assert consumer.handed_out == 0

    consumer.create_task_handler()
    for planned in consumer.hub._pop_ready():
        planned()

    assert consumer.handed_out == 1
