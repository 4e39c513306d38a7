"""The code of a Celery application: its modules, read and not run, and where it publishes."""

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec

from veltrix.doctor.facts.celery_commands import files_of

PUBLISHES = {"delay", "apply_async", "send_task"}
_WORTH = re.compile(
    r"delay|apply_async|celery|shared_task|send_task|\.retry\(|create_(async_)?engine|"
    r"x-dead-letter|outbox"
)
_TASK = re.compile(r"(^|\.)(task|shared_task|periodic_task)$")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class SourceModule(msgspec.Struct, frozen=True):
    """A module of theirs. `file` is seen from the folder of the application."""

    file: str
    tree: ast.Module


class CodePlace(msgspec.Struct, frozen=True):
    """A node with what it is in, the outermost first."""

    file: str
    node: ast.AST
    parents: tuple[ast.AST, ...]

    @property
    def line(self) -> int:
        """Where it begins."""
        return int(getattr(self.node, "lineno", 1))

    @property
    def function(self) -> ast.AST | None:
        """The innermost function that it is in."""
        return next((one for one in reversed(self.parents) if isinstance(one, _FUNCTIONS)), None)

    @property
    def task(self) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The task that it is in."""
        for one in self.parents:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and is_task(one):
                return one
        return None


class CallPlace(CodePlace, frozen=True):
    """A call: `name` is what is called, `on` what it is called on, as it is written."""

    call: ast.Call
    name: str
    on: str

    def keyword(self, name: str) -> ast.expr | None:
        """The value that is given by this name."""
        return next((one.value for one in self.call.keywords if one.arg == name), None)


class WrittenKeys(CodePlace, frozen=True):
    """A dictionary that is written down, with its keys."""

    keys: frozenset[str]


class CeleryCode:
    """What the modules of an application do. Tests of theirs are not among them."""

    def __init__(self, modules: list[SourceModule]) -> None:
        self.modules = modules

    @cached_property
    def places(self) -> list[CodePlace]:
        """Every node of every module."""
        return [place for module in self.modules for place in _walk(module.file, module.tree, ())]

    @cached_property
    def calls(self) -> list[CallPlace]:
        """Every call of something that has a name."""
        return list(self._calls())

    @cached_property
    def tasks(self) -> set[str]:
        """Names of functions that are tasks."""
        return {
            one.node.name
            for one in self.places
            if isinstance(one.node, ast.FunctionDef | ast.AsyncFunctionDef) and is_task(one.node)
        }

    @cached_property
    def publishes(self) -> list[CallPlace]:
        """Calls that send a task: of one that is known, of a signature, or by a name."""
        return [one for one in self.calls if self._is_publish(one)]

    def named(self, *names: str) -> Iterator[CallPlace]:
        """Calls of these names."""
        return (one for one in self.calls if one.name in names)

    @cached_property
    def delays(self) -> list[CallPlace]:
        """Calls that ask for a task later: a countdown, an eta, or a retry."""
        return [
            one
            for one in [*self.publishes, *self.retries]
            if one.name == "retry" or one.keyword("countdown") or one.keyword("eta")
        ]

    @cached_property
    def retries(self) -> list[CallPlace]:
        """`self.retry(...)` in tasks."""
        return [one for one in self.named("retry") if one.task and one.on in _selves(one.task)]

    def canvas(self, *names: str) -> Iterator[CallPlace]:
        """Calls of these names that are Celery's: `chain` is one of itertools, too."""
        for call in self.named(*names):
            is_imported = (call.file, call.name) in self._from_celery and not call.on
            if is_imported or call.on in {"celery", "canvas", "celery.canvas"}:
                yield call

    @cached_property
    def _from_celery(self) -> set[tuple[str, str]]:
        """(file, name) of what modules import from Celery."""
        return {
            (one.file, name.asname or name.name)
            for one in self.places
            if isinstance(one.node, ast.ImportFrom)
            and (one.node.module or "").partition(".")[0] == "celery"
            for name in one.node.names
        }

    def has_name(self, name: str) -> bool:
        """A name, an attribute or something imported is called this somewhere."""
        return any(
            getattr(one.node, "id", None) == name
            or getattr(one.node, "attr", None) == name
            or (isinstance(one.node, ast.alias) and one.node.name == name)
            for one in self.places
        )

    @cached_property
    def dictionaries(self) -> list[WrittenKeys]:
        """Dictionaries with keys that are text."""
        found = []
        for one in self.places:
            if isinstance(one.node, ast.Dict):
                keys = {str(key.value) for key in one.node.keys if isinstance(key, ast.Constant)}
                found.append(WrittenKeys(one.file, one.node, one.parents, frozenset(keys)))
        return found

    def _calls(self) -> Iterator[CallPlace]:
        for one in self.places:
            if not isinstance(one.node, ast.Call):
                continue
            called = one.node.func
            if isinstance(called, ast.Attribute):
                name, on = called.attr, ast.unparse(called.value)
            elif isinstance(called, ast.Name):
                name, on = called.id, ""
            else:
                continue
            yield CallPlace(one.file, one.node, one.parents, one.node, name, on)

    def _is_publish(self, one: CallPlace) -> bool:
        last = one.on.rpartition(".")[2]
        if one.name not in PUBLISHES or "pool" in last.lower() or "executor" in last.lower():
            return False
        if one.name == "delay":
            return (
                last in self.tasks
                or re.search(r"\.(s|si|signature)\(|^chain\(", one.on) is not None
            )
        return True


def read_code(folder: Path) -> CeleryCode:
    """The modules below a folder that have to do with Celery; those that are no Python are not."""
    modules = []
    for path in files_of(folder, _is_code):
        text = path.read_text(encoding="utf-8", errors="replace")
        if _WORTH.search(text) is None:
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        modules.append(SourceModule(str(path.relative_to(folder)), tree))
    return CeleryCode([one for one in modules if not _is_test(Path(one.file))])


def is_task(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """It is decorated as a task of Celery."""
    return any(
        _TASK.search(ast.unparse(one.func if isinstance(one, ast.Call) else one))
        for one in function.decorator_list
    )


def number_of(value: ast.expr | None) -> float | None:
    """What is written as a number; None for what is worked out."""
    try:
        found = ast.literal_eval(value) if value is not None else None
    except (ValueError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) else None


def _is_code(name: str) -> bool:
    return name.endswith(".py")


def _is_test(path: Path) -> bool:
    return path.name.startswith(("test_", "conftest")) or "tests" in path.parts[:-1]


def _selves(task: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """What a task may be called in itself."""
    first = [one.arg for one in task.args.args[:1]]
    return {*first, task.name, "self", "current_task"}


def _walk(file: str, node: ast.AST, parents: tuple[ast.AST, ...]) -> Iterator[CodePlace]:
    for child in ast.iter_child_nodes(node):
        yield CodePlace(file, child, parents)
        yield from _walk(file, child, (*parents, child))
