"""Workflow code of Veltrix, read and not run: its workflows and steps, and what is in them."""

import ast
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path

import msgspec

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.code import CallPlace, CeleryCode, SourceModule

Function = ast.FunctionDef | ast.AsyncFunctionDef


class WorkflowCode(msgspec.Struct, dict=True):
    """The modules of `VELTRIX_WORKFLOWS`."""

    modules: list[SourceModule]

    @cached_property
    def code(self) -> CeleryCode:
        """Every call in them."""
        return CeleryCode(self.modules)

    @property
    def steps(self) -> set[str]:
        """Names of functions that are steps."""
        return {one.name for one in self._functions() if _has(one, {"step", "transaction"})}

    def in_workflows(self) -> Iterator[CallPlace]:
        """Calls in the bodies of workflows, not those in decorators or in steps."""
        return (one for one in self.code.calls if self.workflow_of(one.parents) is not None)

    def workflow_of(self, parents: Sequence[ast.AST]) -> Function | None:
        """The workflow in whose body something with these parents is."""
        for index, one in enumerate(parents):
            if isinstance(one, Function) and _has(one, {"workflow"}):
                following = parents[index + 1] if index + 1 < len(parents) else None
                return None if following in one.decorator_list else one
        return None

    def _functions(self) -> Iterator[Function]:
        for module in self.modules:
            for node in ast.walk(module.tree):
                if isinstance(node, Function):
                    yield node


def read_workflows(names: Sequence[str], folder: Path) -> WorkflowCode:
    """The modules of these names below a folder. Raises Unread where one is not there."""
    modules = []
    for name in names:
        place = _place(name, folder)
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        below = sorted(place.rglob("*.py")) if place.is_dir() else [path]
        try:
            for one in below:
                tree = ast.parse(one.read_text(encoding="utf-8"))
                shown = one.relative_to(folder) if one.is_relative_to(folder) else one
                modules.append(SourceModule(str(shown), tree))
        except (OSError, SyntaxError, ValueError) as error:
            raise Unread(f"{name} cannot be read from {folder}: {type(error).__name__}") from None
    return WorkflowCode(modules)


def _place(name: str, folder: Path) -> Path:
    """Where a module is: below the folder, or where Python has its package. Nothing is imported."""
    parts = name.split(".")
    place = folder.joinpath(*parts)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return place
    found = PathFinder.find_spec(parts[0])
    if found is None or found.origin is None:
        return place
    top = Path(found.origin)
    return (top.parent if top.name == "__init__.py" else top.with_suffix("")).joinpath(*parts[1:])


def _has(function: Function, names: set[str]) -> bool:
    for one in function.decorator_list:
        called = one.func if isinstance(one, ast.Call) else one
        if ast.unparse(called).removeprefix("veltrix.") in names:
            return True
    return False
