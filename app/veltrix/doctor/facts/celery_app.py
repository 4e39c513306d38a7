"""A Celery application, somebody else's or ours: its settings, tasks, queues and versions."""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.celery_commands import CeleryCommand, read_commands
from veltrix.doctor.facts.celery_probe import plain
from veltrix.doctor.facts.code import CeleryCode, read_code

PROBE = Path(__file__).with_name("celery_probe.py")
PROBE_S = 60.0
_DEFAULT = "Celery's default"


class CeleryTask(msgspec.Struct):
    """A task: its options, and where its code begins."""

    name: str
    options: dict[str, Any]
    file: str | None = None
    line: int | None = None


class CeleryQueue(msgspec.Struct):
    """A queue that the application declares, as its code says."""

    name: str
    arguments: dict[str, Any] = {}
    exchange: str = ""
    exchange_type: str = "direct"
    exchange_durable: bool | None = True
    routing_key: str | None = None
    durable: bool | None = True
    auto_delete: bool | None = False
    exclusive: bool | None = False
    expires: float | None = None
    message_ttl: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    max_priority: int | None = None
    delivery_mode: int | str | None = None
    no_declare: bool | None = None

    @property
    def is_quorum(self) -> bool:
        """It is declared as a quorum queue."""
        return self.arguments.get("x-queue-type") == "quorum"

    @property
    def has_dead_letters(self) -> bool:
        """What it drops goes to another exchange, as far as its declaration says."""
        return bool(self.arguments.get("x-dead-letter-exchange"))


class CeleryApp(msgspec.Struct, dict=True):
    """What is known of an application. `is_read` is True when its code was read and not run.

    `config` has every key that its Celery knows, with the value in effect; `given` the keys that
    somebody set, as they wrote them; `unknown` what Celery ignores. Where it is read, `hidden` says
    of which keys the value is not known, and `incomplete` why others may be set somewhere else.
    """

    name: str
    config: dict[str, Any]
    given: dict[str, str]
    unknown: list[str]
    tasks: list[CeleryTask]
    queues: list[CeleryQueue]
    versions: dict[str, str]
    python: str
    files: list[str]
    trouble: str | None = None
    folder: str = "."
    is_read: bool = False
    hidden: dict[str, str] = {}
    incomplete: str | None = None

    def value(self, key: str) -> Any:
        """The value in effect; None for a key that this Celery does not know.

        Raises Unread where the code was only read and does not tell.
        """
        if key in self.hidden:
            raise Unread(self.hidden[key])
        if self.incomplete is not None and key not in self.given:
            raise Unread(self.incomplete)
        return self.config.get(key)

    def option(self, task: CeleryTask, name: str, key: str | None = None) -> Any:
        """An option of a task, or the setting that it follows."""
        if name in task.options or not self.is_read:
            return task.options.get(name)
        return self.value(key or f"task_{name}")

    @property
    def is_on_amqp(self) -> bool:
        """Its broker is RabbitMQ, or another that speaks AMQP."""
        return any(one.startswith(("amqp", "pyamqp")) for one in self._brokers("amqp://"))

    @property
    def is_on_redis(self) -> bool:
        """Its broker is Redis, or speaks as Redis does."""
        speaking = ("redis", "sentinel", "valkey")
        return any(one.startswith(speaking) for one in self._brokers(""))

    def _brokers(self, default: str) -> list[str]:
        """Their addresses: of one, of a list of which one is used, or to read and to write."""
        both = [self.value("broker_read_url"), self.value("broker_write_url")]
        given = both if all(both) else [self.value("broker_url")]
        lists = [some if isinstance(some, list | tuple) else [some] for some in given]
        return [str(one or default) for some in lists for one in some]

    @property
    def declared_queues(self) -> list[CeleryQueue]:
        """Its queues. Raises Unread where the code was only read."""
        if self.is_read:
            raise Unread(f"which queues it has is known when it runs ({self.trouble})")
        return self.queues

    @property
    def is_delayed_by_broker(self) -> bool:
        """Countdowns wait in RabbitMQ: there are quorum queues, and no direct exchanges."""
        queues = self.declared_queues
        return any(one.is_quorum for one in queues) and not any(
            one.exchange_type == "direct" for one in queues
        )

    def version(self, package: str) -> tuple[int, ...] | None:
        """What is installed, as numbers. None: it is not, or was not asked."""
        numbers = []
        for part in self.versions.get(package, "").split(".")[:3]:
            digits = "".join(one for one in part if one.isdigit())
            if not digits:
                break
            numbers.append(int(digits))
        return tuple(numbers) or None

    @cached_property
    def commands(self) -> list[CeleryCommand]:
        """Command lines of Celery in the files of its folder."""
        return read_commands(Path(self.folder))

    @cached_property
    def code(self) -> CeleryCode:
        """Its modules, and those beside them."""
        return read_code(Path(self.folder))

    def workers(self) -> list[CeleryCommand]:
        """Command lines of workers. Raises Unread where there are none."""
        found = [one for one in self.commands if one.kind in {"worker", "multi"}]
        if not found:
            raise Unread("no file of its folder has the command line of a worker")
        return found

    def shown(self, file: str | None) -> str | None:
        """A file as seen from its folder."""
        return None if file is None else _shown(file, self.folder)

    def origin(self, key: str) -> tuple[str, str | None, int | None]:
        """Where a setting comes from: in words, and the file and line if they can be found."""
        if key not in self.given:
            return _DEFAULT, None, None
        place = self.places.get(key) or self.places.get(self.given[key])
        if place is None:
            return f"set by the application as {self.given[key]}", None, None
        return f"{place[0]}:{place[1]}", place[0], place[1]

    @cached_property
    def places(self) -> dict[str, tuple[str, int]]:
        """Where names of settings are written in the files: (file, line), the last one counts."""
        found: dict[str, tuple[str, int]] = {}
        for file in self.files:
            with contextlib.suppress(OSError, SyntaxError, ValueError):
                tree = ast.parse(Path(file).read_text(encoding="utf-8"))
                shown = _shown(file, self.folder)
                for name, line in _written(tree):
                    found[name] = shown, line
        return found


def import_app(
    spec: str, folder: Path, python: str = sys.executable, timeout_s: float = PROBE_S
) -> CeleryApp:
    """The application, imported in a process of its own by that Python.

    Raises Unread where it cannot be imported.
    """
    return _probed(spec, "app", folder, python, timeout_s)


def import_config(
    file: Path, folder: Path, python: str = sys.executable, timeout_s: float = PROBE_S
) -> CeleryApp:
    """A bare application with a module of settings, which runs in a process of its own.

    Raises Unread where it cannot be run.
    """
    if not file.is_file():
        raise Unread(f"there is no file {file}; name a module of settings")
    app = _probed(str(file.resolve()), "config", folder, python, timeout_s)
    app.trouble = "a file of settings has none"
    return app


def _probed(spec: str, kind: str, folder: Path, python: str, timeout_s: float) -> CeleryApp:
    with tempfile.TemporaryDirectory(prefix="veltrix-doctor-") as place:
        output = Path(place) / "told.json"
        last = _run(
            [python, "-B", str(PROBE), str(folder.resolve()), spec, str(output), kind],
            Path(place) / "errors.txt",
            timeout_s,
        )
        if last is None:
            raise Unread(
                f"{spec} was not imported within {timeout_s:g} s; does it connect to something?"
            )
        if not output.is_file():
            raise Unread(f"{spec} ended the Python that imported it: {last}")
        told = msgspec.json.decode(output.read_bytes())
    if "error" in told:
        raise Unread(f"{spec} cannot be imported from {folder}: {told['error']}")
    return msgspec.convert(told | {"folder": str(folder.resolve())}, CeleryApp)


def _run(command: list[str], errors: Path, timeout_s: float) -> str | None:
    """The last line of what it complained, or None if it did not end in time. Nothing is left."""
    with errors.open("wb") as stderr:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # what it started ends with it
            )
        except OSError as error:
            raise Unread(
                f"{command[0]} cannot be run: {error.strerror}; name another --python"
            ) from None
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return plain(lines[-1])[:300] if lines else "no word"


def _shown(file: str, folder: str) -> str:
    """The file as seen from the application's folder."""
    with contextlib.suppress(ValueError):
        return str(Path(file).relative_to(folder))
    return file


def _written(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that are given a value in it: variables, attributes, keywords, keys of dictionaries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets: Sequence[ast.expr] = (
                node.targets if isinstance(node, ast.Assign) else [node.target]
            )
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.lineno
                elif isinstance(target, ast.Attribute):
                    yield target.attr, node.lineno
                elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    yield str(target.slice.value), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Queue":
            for first in node.args[:1]:
                yield f"Queue {ast.unparse(first).strip(chr(39))}", node.lineno
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.arg, node.value.lineno
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, key.lineno


def transport_options(app: CeleryApp) -> Mapping[str, Any]:
    """`broker_transport_options`, empty where there are none."""
    options = app.value("broker_transport_options")
    return options if isinstance(options, dict) else {}
