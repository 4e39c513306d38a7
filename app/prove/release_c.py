"""The third release: the first one's code, with the renamed queue."""

from typing import Any

from app.domain.workflows import workflow
from app.prove import release_a
from app.prove.release_b import MOVED_QUEUE
from app.prove.workflows import PREFIX

moving: Any = workflow(name="prove_moving", on=f"{PREFIX}moving", queue=MOVED_QUEUE)(
    release_a.moving.function
)
turning = release_a.turning
