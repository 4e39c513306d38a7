"""Which workflows there are: those in the modules that the settings name."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType

from veltrix.authoring.definitions import DefinitionError
from veltrix.authoring.workflows import Workflow


def load_workflows(modules: str) -> Mapping[str, Workflow]:
    """Workflows by name, from modules or packages (with all they contain), separated by commas.

    Raises DefinitionError if two have one name or a module cannot be found.
    """
    found: dict[str, Workflow] = {}
    origins: dict[str, str] = {}
    for module in _modules(modules):
        for value in vars(module).values():
            if not isinstance(value, Workflow) or found.get(value.name) is value:
                continue
            if value.name in found:
                raise DefinitionError(
                    f"two workflows are named {value.name!r}: in {origins[value.name]} and in"
                    f" {module.__name__}; give one another name with @workflow(name=...)"
                )
            found[value.name], origins[value.name] = value, module.__name__
    return found


def _modules(names: str) -> Iterator[ModuleType]:
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise DefinitionError(
                f"there is no module {name!r}; VELTRIX_WORKFLOWS names modules on the Python path"
            ) from error
        yield module
        for inner in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
            yield importlib.import_module(inner.name)
