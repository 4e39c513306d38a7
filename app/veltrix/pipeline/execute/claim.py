"""Claim: take the runs that messages name, under a token, with their events and their past."""

from collections.abc import Callable, Mapping, Sequence

from veltrix.authoring.workflows import Workflow
from veltrix.domain.events import CANARY_WORKFLOW
from veltrix.domain.states import Reason
from veltrix.pipeline.execute import canary, journal_rows, lease_rows
from veltrix.pipeline.execute.coroutines import endings, moves
from veltrix.pipeline.execute.coroutines.execution import Execution, ExecutionLimits
from veltrix.pipeline.execute.journal_rows import Past
from veltrix.pipeline.execute.lease_rows import Claim
from veltrix.store.transactions import Link

PAST_BYTES_MAX = 16 * 2**20  # of recorded outputs in a list, if it is of more than one run


def claim(
    link: Link,
    token: str,
    worker_id: str,
    deliveries: Sequence[tuple[str, str]],
    hold_s: float,
    told: Sequence[str] = (),
    on_claimed: Callable[[list[str]], object] = lambda _run_ids: None,
    *,
    is_again: bool = False,
) -> tuple[list[Claim], dict[str, Past]]:
    """The runs of `deliveries` that are ours now, and what earlier attempts left of them.

    A run that is not in the answer is settled, waiting, in another hand, or must travel alone:
    acknowledging its message is safe. So is one that was given back, because what the others had
    done fills PAST_BYTES_MAX already. Waits for the database as long as it takes. `told` are the
    tokens that their messages name; `is_again`: who has runs by those is us. `on_claimed` is told
    the leases as soon as they are ours, before what was done is read.
    """
    claims = link.call(
        lambda tx: lease_rows.claim(
            tx, token, worker_id, deliveries, hold_s, told, is_again=is_again
        )
    )
    on_claimed([c.run_id for c in claims])
    old = [c for c in claims if c.attempt > 1 or c.generation > 0]
    if not old:
        return claims, {}
    past = link.call(lambda tx: journal_rows.past(tx, old, PAST_BYTES_MAX))
    others = [c.run_id for c in old if c.run_id not in past]
    if others:
        link.call(lambda tx: lease_rows.hand_back(tx, token, others))
        claims = [c for c in claims if c.run_id not in others]
    return claims, past


def executions(
    claims: Sequence[Claim],
    past: Mapping[str, Past],
    workflows: Mapping[str, tuple[Workflow, str]],
    limits: ExecutionLimits,
) -> list[Execution]:
    """One execution per claim, with the workflow (and code version) of its name.

    A run whose workflow is not here waits for a worker that knows it (mechanics 21).
    """
    found: list[Execution] = []
    for one in claims:
        workflow, code_version = workflows.get(one.workflow) or _built_in(one.workflow)
        execution = Execution(
            one,
            workflow or _UNKNOWN,
            code_version or one.code_version,
            past.get(one.run_id),
            limits,
        )
        if workflow is None:
            detail = f"no workflow {one.workflow!r} in this worker"
            execution.end(endings.deploy_awaited(execution, Reason.UNKNOWN_WORKFLOW, detail))
        found.append(execution)
    return found


def _built_in(name: str) -> tuple[Workflow | None, str | None]:
    return (canary.CANARY, canary.VERSION) if name == CANARY_WORKFLOW else (None, None)


def anew(
    link: Link,
    old: Sequence[Execution],
    workflows: Mapping[str, tuple[Workflow, str]],
    limits: ExecutionLimits,
) -> list[Execution]:
    """The same claims as new executions, as the journal knows them now; the old ones are over.

    Not of runs that have their outcome: it may have been committed with an answer that was lost.
    """
    for execution in old:
        execution.close()
    open_ids = link.call(lambda tx: lease_rows.open_ones(tx, [e.claim.run_id for e in old]))
    claims = [e.claim for e in old if e.claim.run_id in open_ids]
    past = link.call(lambda tx: journal_rows.past(tx, claims))
    fresh = executions(claims, past, workflows, limits)
    for execution in fresh:
        execution.has_begun = True  # in this very claim: it is not to be handed back untouched
    return fresh


def rewind(
    link: Link,
    old: Sequence[Execution],
    workflows: Mapping[str, tuple[Workflow, str]],
    limits: ExecutionLimits,
) -> list[Execution]:
    """As `anew`, and they have begun."""
    fresh = anew(link, old, workflows, limits)
    for execution in fresh:
        moves.begin(execution)
    return fresh


async def _unknown(_event: object) -> None:
    raise AssertionError("a run without a workflow is settled before it begins")


_UNKNOWN = Workflow(
    name="",
    function=_unknown,
    types=(),
    queue="",
    policy=endings.NO_RETRIES,
    when=None,
    key=None,
    timeout_s=None,
    codec=endings.PLAIN,
)
