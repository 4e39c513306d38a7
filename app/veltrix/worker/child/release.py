"""Release: free the runs of a child that died, and keep what is known of its death with its run."""

from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from veltrix import telemetry
from veltrix.pipeline.execute import lease_rows
from veltrix.store import crashes
from veltrix.store.errors import told
from veltrix.store.transactions import Link
from veltrix.worker.jobs import ReleaseJob


def release(
    link: Link, job: ReleaseJob, monotonic: Callable[[], float], tries_max: int | None
) -> None:
    """Waits for the database; a crash is kept only of a run that still has the token."""
    tokens = [job.token, *job.tokens]
    if (crash := job.crash) is not None:
        try:
            link.call(lambda tx: crashes.note(tx, tokens, crash, monotonic()), tries_max=tries_max)
        except DBAPIError as error:  # not even its words can be kept: the runs go on
            telemetry.logger("worker").warning("crash.not_noted", error=told(error))
    released = link.call(
        lambda tx: lease_rows.release(tx, tokens, job.run_ids, job.due_in_s, is_death=job.is_death),
        tries_max=tries_max,
    )
    if released:
        telemetry.logger("worker").warning("runs.released", run_ids=sorted(released)[:20])
