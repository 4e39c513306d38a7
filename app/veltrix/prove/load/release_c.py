"""The third release: the first one's code, with the renamed queue."""

from typing import Any

from veltrix.authoring.workflows import workflow
from veltrix.prove.load import release_a
from veltrix.prove.load.release_b import MOVED_QUEUE
from veltrix.prove.load.workflows import PREFIX

moving: Any = workflow(name="prove_moving", on=f"{PREFIX}moving", queue=MOVED_QUEUE)(
    release_a.moving.function
)
turning = release_a.turning
