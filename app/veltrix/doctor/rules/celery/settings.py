"""Settings of a Celery application that nothing reads, or that contradict each other."""

from collections.abc import Iterator
from difflib import get_close_matches

from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("settings of Celery")


@rules.rule(
    "P22",
    Severity.LOSS,
    CeleryApp,
    title="a setting has a name that Celery does not know",
    why="Celery ignores names it does not know, so the default is in effect, without a word.",
    safe="task_acks_late = True  # not task_ack_late",
    source="docs/internals/loss-modes.md, P22: proved against Celery 5.7.0",
)
def unknown_name(app: CeleryApp) -> Iterator[Evidence]:
    for raw in app.unknown:
        near = get_close_matches(raw.lower().removeprefix("celery_"), app.config, 1, 0.9)
        if not near:
            continue  # a setting of their own, for their own code
        place = app.places.get(raw)
        file, line = place or (None, None)
        origin = f"{file}:{line}" if place else "the application"
        yield Evidence(
            found=f"{raw} is ignored",
            origin=origin,
            cure=f"call it {near[0]}",
            file=file,
            line=line,
        )
