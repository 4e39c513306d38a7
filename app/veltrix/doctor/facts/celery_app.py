"""A Celery application, somebody else's or ours: its settings, tasks, queues and versions."""

import ast
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from veltrix.doctor.examine import Unread

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


class CeleryApp(msgspec.Struct, dict=True):
    """What is known of an application. `is_read` is True when its code was read and not run.

    `config` has every key that its Celery knows, with the value in effect; `given` the keys that
    somebody set, as they wrote them; `unknown` what Celery ignores.
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

    @property
    def is_on_amqp(self) -> bool:
        """Its broker is RabbitMQ, or another that speaks AMQP."""
        return str(self.config.get("broker_url") or "amqp://").startswith(("amqp", "pyamqp"))

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


def import_app(spec: str, folder: Path, python: str = sys.executable) -> CeleryApp:
    """The application, imported in a process of its own by that Python.

    Raises Unread where it cannot be imported.
    """
    with tempfile.TemporaryDirectory(prefix="veltrix-doctor-") as place:
        output = Path(place) / "told.json"
        command = [python, "-B", str(PROBE), str(folder.resolve()), spec, str(output)]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=PROBE_S, check=False)
        except subprocess.TimeoutExpired:
            raise Unread(
                f"{spec} was not imported within {PROBE_S:g} s; does it connect to something?"
            ) from None
        except OSError as error:
            raise Unread(
                f"{python} cannot be run: {error.strerror}; name another --python"
            ) from None
        if not output.is_file():
            last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
            raise Unread(f"{spec} ended the Python that imported it: {last[0][:300]}")
        told = msgspec.json.decode(output.read_bytes())
    if "error" in told:
        raise Unread(f"{spec} cannot be imported from {folder}: {told['error']}")
    return msgspec.convert(told | {"folder": str(folder.resolve())}, CeleryApp)


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
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.arg, node.value.lineno
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, key.lineno


def transport_options(app: CeleryApp) -> Mapping[str, Any]:
    """`broker_transport_options`, empty where there are none."""
    options = app.config.get("broker_transport_options")
    return options if isinstance(options, dict) else {}
