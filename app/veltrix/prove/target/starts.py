"""Traffic for a target that does not serve the workflows of prove: named workflows are started.

A start is an event: source `/veltrix/starts/<workflow>`, id the Idempotency-Key. A start's number
and the seed's name make its key and choose its workflow, so that it can be started again.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from veltrix.authoring.input_schema import InputSchema
from veltrix.dev.children import CannotStart
from veltrix.domain.events import STARTS_SOURCE_PREFIX, STARTS_TYPE
from veltrix.prove.load.inputs import smallest_input
from veltrix.prove.load.items import JSON, Item
from veltrix.prove.load.workload import SentParcel
from veltrix.prove.target.http_api import Known


class Starts:
    """Starts these workflows in turn. Raises CannotStart for one whose input cannot be made up."""

    request_events_max = 1

    def __init__(self, workflows: Sequence[str], known: Mapping[str, Known], name: str) -> None:
        if missing := [one for one in workflows if one not in known]:
            there = ", ".join(sorted(known)) or "none"
            raise CannotStart(f"the target has no workflow {missing[0]!r}; it has {there}")
        self._workflows, self._name = list(dict.fromkeys(workflows)), name
        self._inputs = {one: _input_of(known[one]) for one in self._workflows}

    def make(self, number: int, *, is_other: bool = False) -> Item:
        """The start with this number; another input under its key, if that is an object."""
        workflow = self._workflows[number % len(self._workflows)]
        input_ = self._inputs[workflow]
        if input_ == {}:
            input_ = {"number": number}
        if is_other and isinstance(input_, dict):
            input_ = {**input_, "other": number}
        data = json.dumps(input_).encode()
        return Item(f"{self._name}-{number}", workflow, STARTS_TYPE, JSON, data)

    def parcel(self, part: Sequence[Item], request: int) -> SentParcel:  # noqa: ARG002 - one mode
        """One start."""
        (item,) = part
        path = f"/v1/workflows/{quote(item.kind, safe='')}/runs"
        headers = {"content-type": JSON, "idempotency-key": item.id}
        return SentParcel("start", path, headers, b'{"input": ' + item.data + b"}")

    def workflow_of(self, id_: str) -> str:
        """The workflow that was started with this key."""
        return self._workflows[int(id_.rpartition("-")[2]) % len(self._workflows)]

    def source_of(self, id_: str) -> str:
        """The source of the event that this start is."""
        return STARTS_SOURCE_PREFIX + self.workflow_of(id_)


def _input_of(known: Known) -> Any:
    value = smallest_input(known.input_schema)
    schema = known.input_schema if isinstance(known.input_schema, dict) else None
    for violation in InputSchema(schema).violations(value):
        raise CannotStart(
            f"no input for the workflow {known.name!r} can be made up from its schema"
            f" ({violation.message}); name another one with --workflow"
        )
    return value
