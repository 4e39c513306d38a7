"""Which workflows there are: those in the modules that the settings name."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from traceback import walk_tb
from types import ModuleType

from veltrix.authoring.definitions import DefinitionError, shown_path
from veltrix.authoring.flow import type_and_message
from veltrix.authoring.workflows import Workflow

# Code that no author would look into: of Python, and what was installed.
_OTHERS = re.compile(r"^<|/site-packages/|/dist-packages/|/lib/python3\.\d+/")


def load_workflows(modules: str) -> Mapping[str, Workflow]:
    """Workflows by name, from modules or packages (with all they contain), separated by commas.

    Raises DefinitionError if two have one name, or a module cannot be found or imported.
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
                    f" {module.__name__}; give one another name with @workflow(name=...)",
                    is_placed=False,
                )
            found[value.name], origins[value.name] = value, module.__name__
    return found


def _modules(names: str) -> Iterator[ModuleType]:
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise _import_failed(name, error) from error
            raise DefinitionError(
                f"there is no module {name!r}; VELTRIX_WORKFLOWS names modules on the Python path",
                is_placed=False,
            ) from error
        except (Exception, SystemExit) as error:
            raise _import_failed(name, error) from error
        yield module
        # A package that cannot be imported is met again below, where its error is told.
        inner_modules = pkgutil.walk_packages(
            getattr(module, "__path__", ()), f"{name}.", onerror=lambda _: None
        )
        for inner in inner_modules:
            try:
                yield importlib.import_module(inner.name)
            except (Exception, SystemExit) as error:
                raise _import_failed(inner.name, error) from error


def _import_failed(module: str, error: BaseException) -> DefinitionError:
    """What the code of an author raised when it was imported, with the line of it that did."""
    if isinstance(error, DefinitionError):
        return error
    type_, message = type_and_message(error)
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename.rpartition("/")[2], error.lineno or 1
        return DefinitionError(f"{file}:{line}: {type_}: {error.msg}", is_placed=False)
    places = [
        (frame.f_globals, frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if not _OTHERS.search(frame.f_code.co_filename)
        and not str(frame.f_globals.get("__name__", "")).startswith("veltrix.")
    ]
    if not places:
        return DefinitionError(f"module {module!r}: {type_}: {message}", is_placed=False)
    names, filename, line = places[-1]
    file = shown_path(filename, str(names.get("__name__", "")))
    return DefinitionError(f"{file}:{line}: {type_}: {message}", is_placed=False)
