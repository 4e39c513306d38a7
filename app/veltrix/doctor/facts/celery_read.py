"""A Celery application whose code is read and not run, because it cannot be imported."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from celery.app import defaults

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.celery_app import PROBE_S, CeleryApp, CeleryTask, import_app
from veltrix.doctor.facts.celery_probe import value_of
from veltrix.doctor.facts.code import CeleryCode, is_task, read_code

_KEYWORDS = {"broker": "broker_url", "backend": "result_backend"}


def import_or_read(
    spec: str, folder: Path, python: str = sys.executable, timeout_s: float = PROBE_S
) -> CeleryApp:
    """The application, imported if that can be done, and read if not (`is_read`).

    Raises Unread where neither can be done.
    """
    try:
        return import_app(spec, folder, python, timeout_s)
    except Unread as unread:
        return read_app(spec, folder, str(unread))


def read_app(spec: str, folder: Path, why: str) -> CeleryApp:
    """What the files of a folder say of it. `why` it is read and not imported is kept.

    Raises Unread where no module makes a Celery application.
    """
    module = folder / spec.partition(":")[0].replace(".", "/")
    if not module.is_dir() and not module.with_suffix(".py").is_file():
        raise Unread(why)  # a name that is not there is no application of another name
    code = read_code(folder)
    known = {key: value_of(option.default) for key, option in _defaults()}
    source = _Source(code, folder, known, spec)
    if not source.apps:
        raise Unread(f"{why}; and no file of {folder} makes a Celery application")
    if source.apps > 1:
        raise Unread(why)  # which settings are of which is known when it runs
    reason = f"the code was read and not run, and does not tell ({why})"
    return CeleryApp(
        name=spec,
        config=known | source.values,
        given={key: key for key in (*source.values, *source.hidden)},
        unknown=sorted(source.unknown),
        tasks=[_task(file, node) for file, node in source.tasks],
        queues=[],
        versions={},
        python="",
        files=[str(folder.resolve() / module.file) for module in code.modules],
        folder=str(folder.resolve()),
        trouble=why,
        is_read=True,
        hidden=dict.fromkeys(source.hidden, reason),
        incomplete=reason if source.is_incomplete else None,
    )


class _Source:
    """What is written about the settings, in the order of the files."""

    def __init__(self, code: CeleryCode, folder: Path, known: Mapping[str, Any], spec: str) -> None:
        self.values: dict[str, Any] = {}
        self.hidden: set[str] = set()
        self.unknown: set[str] = set()
        self.tasks: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = []
        self.apps = 0
        self.is_incomplete = False
        self._known = known
        self._folder = folder
        # Another application of the same folder has settings of its own.
        wanted = spec.partition(":")[0].replace(".", "/")
        apps = {call.file for call in code.named("Celery") if call.on in {"", "celery"}}
        mine = {file for file in apps if file in {f"{wanted}.py", f"{wanted}/__init__.py"}}
        mine = mine or {file for file in apps if file == f"{wanted}/celery.py"} or apps
        if len(apps) == 1:  # others may set what is its own
            mine = {module.file for module in code.modules}
        for place in code.places:
            node = place.node
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_task(node):
                self.tasks.append((place.file, node))
            if place.file not in mine:
                continue
            if isinstance(node, ast.Call):
                self._called(node)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assigned(target, node.value)

    def _called(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name in {"Celery", "celery.Celery"}:
            self.apps += 1
            for word in node.keywords:
                if word.arg is None or word.arg == "config_source":
                    self.is_incomplete = True
                elif _KEYWORDS.get(word.arg, word.arg) in self._known:
                    self._set(_KEYWORDS.get(word.arg, word.arg), word.value)
        elif name.endswith("conf.update"):
            for key, value in _pairs(node):
                if key is None:
                    self.is_incomplete = True
                else:
                    self._set(key, value)
        elif name.endswith("config_from_object"):
            self._from_module(node)
        elif re.search(r"config_from_(envvar|cmdline)$|add_defaults$", name):
            self.is_incomplete = True

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Attribute) and ast.unparse(target.value).endswith("conf"):
            self._set(target.attr, value)
        elif isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("conf"):
            if isinstance(target.slice, ast.Constant):
                self._set(str(target.slice.value), value)
            else:
                self.is_incomplete = True

    def _from_module(self, node: ast.Call) -> None:
        prefix = next(
            (ast.literal_eval(one.value) for one in node.keywords
             if one.arg == "namespace" and isinstance(one.value, ast.Constant)), None,
        )  # fmt: skip
        first = node.args[0] if node.args else None
        name = first.value if isinstance(first, ast.Constant) else None
        if not isinstance(name, str):
            self.is_incomplete = True
            return
        path = self._folder / (name.partition(":")[0].replace(".", "/") + ".py")
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):  # django.conf:settings, or none of theirs
            self.is_incomplete = True
            return
        for one in ast.walk(tree):
            if isinstance(one, ast.ImportFrom) and any(a.name == "*" for a in one.names):
                self.is_incomplete = True
            if not isinstance(one, ast.Assign):
                continue
            for target in one.targets:
                if isinstance(target, ast.Name):
                    self._set_in_module(target.id, one.value, prefix)

    def _set_in_module(self, name: str, value: ast.expr, prefix: str | None) -> None:
        if prefix is None:
            if name in self._known:
                self._set(name, value)
        elif name.startswith(f"{prefix}_"):
            self._set(name.removeprefix(f"{prefix}_").lower(), value)

    def _set(self, key: str, value: ast.expr) -> None:
        old = getattr(defaults, "_TO_NEW_KEY", {})
        key = old.get(key, key)
        if key not in self._known:
            self.unknown.add(key)
            return
        try:
            self.values[key] = value_of(ast.literal_eval(value))
            self.hidden.discard(key)
        except (ValueError, TypeError):
            self.hidden.add(key)


def _pairs(node: ast.Call) -> Iterator[tuple[str | None, ast.expr]]:
    """Names and values of `update(...)`; no name for what is worked out."""
    for word in node.keywords:
        yield word.arg, word.value
    for given in node.args:
        if not isinstance(given, ast.Dict):
            yield None, given
            continue
        for key, value in zip(given.keys, given.values, strict=True):
            is_name = isinstance(key, ast.Constant) and isinstance(key.value, str)
            yield (str(key.value) if is_name and isinstance(key, ast.Constant) else None), value


def _task(file: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> CeleryTask:
    options: dict[str, Any] = {"autoretry_for": []}
    name = f"{file.removesuffix('.py').replace('/', '.')}.{node.name}"
    for decorator in node.decorator_list:
        for word in decorator.keywords if isinstance(decorator, ast.Call) else ():
            try:
                value = value_of(ast.literal_eval(word.value))
            except (ValueError, TypeError):
                value = [ast.unparse(word.value)] if word.arg == "autoretry_for" else None
            if word.arg == "name" and isinstance(value, str):
                name = value
            elif word.arg is not None:
                options[word.arg] = value
    for one in ("expires", "queue", "compression", "mandatory", "delivery_mode", "max_retries"):
        options.setdefault(one, None)
    return CeleryTask(name=name, options=options, file=file, line=node.lineno)


def _defaults() -> list[tuple[str, Any]]:
    return list(defaults.flatten(defaults.NAMESPACES))
