"""What keeps a workflow from being registered, said before anything is tried."""

from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import Connection

from veltrix.authoring.code import code_of
from veltrix.authoring.flow import type_and_message
from veltrix.authoring.workflows import Workflow
from veltrix.broker.topology import check_queue_name
from veltrix.domain.events import CANARY_WORKFLOW
from veltrix.domain.ids import workflow_suffix
from veltrix.releases.register import subscription_of

Workflows = Mapping[str, tuple[Workflow, str]]


def registered_names(tx: Connection) -> set[str]:
    """The names of all workflows that were ever registered, retired ones too: they have runs."""
    rows = tx.exec_driver_sql("select distinct workflow from subscriptions")
    return {name for (name,) in rows}


def mistakes_of(workflows: Workflows, registered: Iterable[str] = ()) -> dict[str, str]:
    """A sentence with its cure for each of these that cannot be registered, by name.

    `registered` are names that others have registered: two names whose runs would have the same ids
    cannot be there together.
    """
    owners = {workflow_suffix(name): name for name in sorted(registered)}
    found: dict[str, str] = {}
    for name, (workflow, version) in workflows.items():
        why = _unregistrable(workflow, version)
        other = owners.setdefault(workflow_suffix(name), name)
        if other != name:
            why = f"its run ids would be those of {other!r}; rename one of the two"
        if why is not None:
            where = code_of(workflow.function)[0]
            found[name] = f"workflow {name!r} ({where}) cannot be registered: {why}."
    return found


def _unregistrable(workflow: Workflow, version: str) -> str | None:
    if workflow.name == CANARY_WORKFLOW:
        return "that is the canary's name, which the platform has; give it another"
    if mistakes := workflow.mistakes():
        return "; ".join(mistakes)
    try:
        check_queue_name(workflow.queue)
        msgspec.json.encode(subscription_of(workflow, version))
    except Exception as error:  # noqa: BLE001 - schemas are made by code of authors and libraries
        type_, message = type_and_message(error)
        return f"{type_}: {message}".removeprefix("ValueError: ")
    return None
