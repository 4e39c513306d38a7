"""What is read of deployment files. Nothing is connected to."""

from collections.abc import Callable, Sequence
from pathlib import Path

from veltrix.doctor.facts.deployment.conf import BrokerConfs
from veltrix.doctor.facts.deployment.definitions import BrokerDefinitions
from veltrix.doctor.facts.deployment.files import DeployedContainers, read_files


def readers_of_files(
    paths: Sequence[Path], *, is_beside_app: bool = False
) -> dict[type, Callable[[], object]]:
    """A reader for each kind of file that is there. Rules of other kinds are not asked.

    The files are read here: what they are is known when they are.
    """
    found = read_files(paths, is_beside_app=is_beside_app)
    return {
        kind: lambda facts=facts: facts  # type: ignore[misc]
        for kind, facts in (
            (DeployedContainers, found.containers),
            (BrokerDefinitions, found.definitions),
            (BrokerConfs, found.confs),
        )
        if facts is not None
    }
