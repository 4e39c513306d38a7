"""Which files are read, as what, and what becomes of those that cannot be."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.celery_commands import files_of
from veltrix.doctor.facts.deployment.compose import is_compose, services_of
from veltrix.doctor.facts.deployment.conf import BrokerConfs, ConfFile, values_of
from veltrix.doctor.facts.deployment.container import DeployedContainer
from veltrix.doctor.facts.deployment.definitions import (
    BrokerDefinitions,
    defined,
    is_definitions,
    parsed,
)
from veltrix.doctor.facts.deployment.kubernetes import (
    containers_of,
    inner_files,
    is_manifest,
    servers_of_values,
)
from veltrix.doctor.facts.deployment.lined import Lined, Unrendered, documents

YAML_BYTES_MAX = 1_000_000
JSON_BYTES_MAX = 20_000_000
CONF_BYTES_MAX = 200_000
COMPOSE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_COMPOSE = re.compile(r"^(docker-)?compose([.-][\w.-]+)?\.ya?ml$")
_OF_TESTS = re.compile(r"[.-](tests?|ci|e2e)[.-]")
_YAML = {".yml", ".yaml"}
_DEFINITIONS = re.compile(r"definitions|rabbit|topology", re.IGNORECASE)
# What a file must speak of to be worth the time that YAML takes.
_SPEAKS = re.compile(r"rabbitmq|postg|redis|valkey|celery|flower|veltrix|timescale", re.IGNORECASE)


class DeployedContainers(msgspec.Struct):
    """All containers that the files ask for. `troubles`: files that cannot be read.

    `is_beside_app`: rules of a Celery application read its command lines, in the same files.
    """

    containers: list[DeployedContainer] = []
    troubles: list[str] = []
    is_beside_app: bool = False


class DeploymentFiles(msgspec.Struct):
    """What was read; None: there is no file of the kind."""

    containers: DeployedContainers | None = None
    definitions: BrokerDefinitions | None = None
    confs: BrokerConfs | None = None


def compose_in(folder: Path, naming: str = "") -> list[Path]:
    """The compose file of a folder, as `docker compose` finds it, if it names this."""
    there = [path for path in (folder / name for name in COMPOSE_NAMES) if path.is_file()]
    return [path for path in there[:1] if _names(path, naming)]


def _names(path: Path, word: str) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return word in file.read(YAML_BYTES_MAX).lower()
    except OSError:
        return True  # it is told when it is examined


def read_files(paths: Sequence[Path], *, is_beside_app: bool = False) -> DeploymentFiles:
    """These files and what is in these folders, and what RabbitMQ gets of them mounted."""
    reading = _Reading()
    for path in paths:
        if not path.is_dir():
            reading.read(path, is_named=True)
            continue
        before = len(reading.seen)
        for file in files_of(path, _may_deploy, JSON_BYTES_MAX):
            reading.read(file, is_named=False)
        if len(reading.seen) == before:
            reading.trouble(
                f"{shown(path)} has no file that deploys something; name one (compose, Kubernetes,"
                " RabbitMQ's definitions or rabbitmq.conf)"
            )
    return reading.found(is_beside_app=is_beside_app)


def shown(path: Path) -> str:
    """As seen from the current folder, where it is below it."""
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else str(path)


def _may_deploy(name: str) -> bool:
    path = Path(name)
    if path.suffix in _YAML:
        return not _OF_TESTS.search(name)
    if path.suffix == ".json":
        return _DEFINITIONS.search(name) is not None
    return path.suffix == ".conf" and "rabbit" in name.lower()


class _Reading:
    """Files one by one; what cannot be read is a sentence of its kind."""

    def __init__(self) -> None:
        self.seen: set[Path] = set()
        self._containers: list[DeployedContainer] = []
        self._definitions: dict[Path, list[tuple[dict[str, object], str, str]]] = {}
        self._confs: list[ConfFile] = []
        self._troubles: dict[str, list[str]] = {}
        self._unrendered: list[str] = []

    def found(self, *, is_beside_app: bool) -> DeploymentFiles:
        found = DeploymentFiles()
        if self._unrendered:  # of a chart there are dozens
            self.trouble(str(Unrendered(*self._unrendered)))
        troubles = self._troubles
        if self._containers or "yaml" in troubles:
            found.containers = DeployedContainers(
                self._containers, troubles.get("yaml", []), is_beside_app
            )
        if self._definitions or "json" in troubles:
            found.definitions = BrokerDefinitions(troubles=troubles.get("json", []))
            for one in map(defined, self._definitions.values()):
                found.definitions.queues += one.queues
                found.definitions.exchanges += one.exchanges
                found.definitions.policies += one.policies
        if self._confs or "conf" in troubles:
            found.confs = BrokerConfs(self._confs, troubles.get("conf", []))
        return found

    def trouble(self, sentence: str, kind: str = "yaml") -> None:
        self._troubles.setdefault(kind, []).append(sentence)

    def read(self, path: Path, *, is_named: bool) -> None:
        """One file. Of a folder that is searched, what is of something else is passed over."""
        whole = path.resolve()
        kind = {".json": "json", ".conf": "conf"}.get(path.suffix, "yaml")
        if whole in self.seen:
            return
        try:
            if kind == "json":
                is_ours = self._json(path, is_named=is_named)
            elif kind == "conf":
                self._confs.append(_conf(path))
                is_ours = True
            else:
                is_ours = self._yaml(path, is_named=is_named)
        except Unrendered as template:
            self._unrendered.append(template.file)
            is_ours = True
        except Unread as unread:
            self.trouble(str(unread), kind)
            is_ours = True
        if is_ours:
            self.seen.add(whole)

    def _json(self, path: Path, *, is_named: bool) -> bool:
        file = shown(path)
        text = _text(path, JSON_BYTES_MAX)
        if self._add(parsed(text, file), text, path):
            return True
        if is_named:
            raise Unread(f"{file} has no definitions of RabbitMQ; name a file that has")
        return False

    def _yaml(self, path: Path, *, is_named: bool) -> bool:
        file = shown(path)
        text = _text(path, YAML_BYTES_MAX if is_named else JSON_BYTES_MAX)
        if not is_named and not _SPEAKS.search(text):
            return False
        is_values = path.name.startswith("values") and path.suffix in _YAML
        if not is_named and not (
            is_values or _COMPOSE.match(path.name) or re.search(r"^kind:", text, re.MULTILINE)
        ):
            return False
        if len(text) > YAML_BYTES_MAX:
            raise Unread(_too_large(file, YAML_BYTES_MAX))
        read = list(documents(text, file))
        manifests = [one for one in read if is_manifest(one)]
        services = containers_of(manifests, file)
        has_more = False
        for one in manifests:
            has_more |= self._inner_files(one, path)
        for document in read:
            if is_compose(document):
                made = services_of(document, file, path.parent)
                self._follow(made, path.parent)
                services += made
            elif is_values:
                services += servers_of_values(document, file)
        if is_named and not services and not has_more:
            raise Unread(
                f"{file} has no services of compose, containers of Kubernetes, or values of charts"
                " that are known; name a file that has"
            )
        self._containers += services
        return bool(services) or has_more

    def _inner_files(self, manifest: Lined, path: Path) -> bool:
        """Those of RabbitMQ. Whether there are any."""
        file, is_ours = shown(path), False
        for name, text in inner_files(manifest):
            if name.endswith(".conf") and "rabbit" in name:
                self._confs.append(ConfFile(file, values_of(text)))
                is_ours = True
            elif name.endswith(".json") and _DEFINITIONS.search(name):
                try:
                    is_ours = self._add(parsed(text, file), text, path) or is_ours
                except Unread as unread:
                    self.trouble(str(unread), "json")
                    is_ours = True
        return is_ours

    def _add(self, document: object, text: str, path: Path) -> bool:
        """Whether these are definitions."""
        if not is_definitions(document):
            return False
        self._definitions.setdefault(path.resolve().parent, []).append(
            (document, text, shown(path))
        )
        return True

    def _follow(self, services: list[DeployedContainer], folder: Path) -> None:
        """What is mounted into servers configures them."""
        for service in services:
            for mount in service.mounts:
                if mount.source is None:
                    continue
                for path in _mounted(folder / mount.source):
                    if service.is_rabbitmq:
                        self.read(path, is_named=False)
                    elif service.is_postgres or service.is_redis:
                        self._conf_of(service, path)

    def _conf_of(self, service: DeployedContainer, path: Path) -> None:
        if path.suffix == ".conf":
            try:
                service.confs.append(_conf(path))
            except Unread as unread:
                self.trouble(str(unread))


def _mounted(path: Path) -> Iterator[Path]:
    """A file, or those of a folder, that configure a server."""
    try:
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        yield from (one for one in found if one.suffix in {".conf", ".json"} and one.is_file())
    except OSError:
        return  # a folder of another machine, or not ours


def _too_large(file: str, bytes_max: int) -> str:
    return f"{file} is larger than {bytes_max:,} bytes; it is not read"


def _conf(path: Path) -> ConfFile:
    return ConfFile(shown(path), values_of(_text(path, CONF_BYTES_MAX)))


def _text(path: Path, bytes_max: int) -> str:
    file = shown(path)
    try:
        if not path.is_file():
            raise Unread(f"{file} is not there, or no file; name one that is")
        if path.stat().st_size > bytes_max:
            raise Unread(_too_large(file, bytes_max))
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Unread(
            f"{file} cannot be read ({type(error).__name__}); it must be text in UTF-8 that you may"
            " read"
        ) from None
