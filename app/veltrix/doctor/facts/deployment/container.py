"""A container as a file of compose or Kubernetes asks for it, in the words of both."""

import re
import shlex

import msgspec

from veltrix.doctor.facts.celery_commands import KINDS
from veltrix.doctor.facts.deployment.conf import ConfFile
from veltrix.doctor.facts.deployment.lined import Lined

POSTGRES_IMAGES = {"postgres", "postgresql", "postgis", "pgvector", "timescaledb"}
REDIS_IMAGES = {"redis", "valkey", "redis-stack", "redis-stack-server"}
CELERY_NAMED = {"-A", "--app", "-b", "--broker", "--workdir", "--loader", "--config"}
VELTRIX_COMMANDS = {"veltrix", "veltrix.cli"}
VELTRIX_PROCESSES = ("api", "relay", "worker")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|h|m|s)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_NONE = Lined(None, 0)


class DeployedMount(msgspec.Struct, frozen=True, kw_only=True):
    """Something mounted. `is_kept`: its contents outlive the container. `source`: of a host."""

    target: str
    is_kept: bool
    source: str | None = None


class DeployedContainer(msgspec.Struct, kw_only=True):
    """What runs. Values of `environment`, and `words`, may be secrets and are never printed.

    `grace` is what the file gives it after SIGTERM, `default_grace_s` what it has without. `nodes`:
    how many of it run. `is_restarted`: it is started again when it ends. None where the file does
    not say. `is_storage_known`: `mounts` are all. `elsewhere`: where more of `environment` is, and
    was not read. `published`: ports of it that other machines reach, * for any.
    """

    name: str
    file: str
    line: int
    kind: str
    default_grace_s: float | None
    image: Lined = _NONE
    words: list[str] = []
    words_line: int = 0
    environment: dict[str, Lined] = {}
    elsewhere: list[str] = []
    mounts: list[DeployedMount] = []
    grace: Lined = _NONE
    nodes: int | None = 1
    has_steady_name: bool = True
    is_restarted: bool | None = None
    published: list[str] = []
    liveness: list[str] = []
    liveness_line: int = 0
    is_storage_known: bool = True
    confs: list[ConfFile] = []

    @property
    def image_name(self) -> str:
        """`rabbitmq` of `docker.io/library/rabbitmq:4-management`."""
        return (self.image.partly or "").partition("@")[0].rpartition("/")[2].partition(":")[0]

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of the image's tag, as many as it has; empty: `latest` or not known."""
        tag = (self.image.text or "").partition("@")[0].rpartition("/")[2].partition(":")[2]
        found = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)", tag.rpartition("pg")[2] or tag)
        return tuple(map(int, found[1].split("."))) if found else ()

    @property
    def is_rabbitmq(self) -> bool:
        """A node of RabbitMQ."""
        return self.image_name == "rabbitmq"

    @property
    def is_postgres(self) -> bool:
        """A PostgreSQL server."""
        return self.image_name in POSTGRES_IMAGES

    @property
    def is_redis(self) -> bool:
        """A Redis server."""
        return self.image_name in REDIS_IMAGES

    @property
    def is_veltrix_worker(self) -> bool:
        """It runs `veltrix worker`."""
        return self._is_veltrix("worker")

    @property
    def is_veltrix_process(self) -> bool:
        """It runs one of the processes that events go through."""
        return any(map(self._is_veltrix, VELTRIX_PROCESSES))

    @property
    def is_celery_worker(self) -> bool:
        """It runs `celery worker`."""
        return self._celery == "worker"

    @property
    def is_flower(self) -> bool:
        """It runs Flower by itself: `veltrix flower` is read-only, and asks for a password."""
        return self.image_name == "flower" or self._celery == "flower"

    def has_option(self, *names: str) -> bool:
        """One of these is among its words, as `--name`, `--name=value`, and as spelt with _."""
        given = {one.partition("=")[0].replace("_", "-") for one in self.words if one[:1] == "-"}
        return bool(given & {f"--{name}" for name in names})

    def keeps(self, *folders: str) -> bool:
        """What outlives the container is mounted on one of these folders, or above or below."""
        return any(
            mount.is_kept and (is_above(mount.target, folder) or is_above(folder, mount.target))
            for mount in self.mounts
            for folder in folders
        )

    def _is_veltrix(self, process: str) -> bool:
        if process not in self.words:
            return False
        is_ours = self.image_name == "veltrix" or any(
            name.startswith("VELTRIX_") for name in self.environment
        )
        before = self.words[: self.words.index(process)]
        return (is_ours and not before) or bool(VELTRIX_COMMANDS & {_base(one) for one in before})

    @property
    def _celery(self) -> str | None:
        """What it asks Celery for; `celery -A worker beat` is no worker."""
        programs = [_base(one) for one in self.words]
        if "celery" not in programs:
            return None
        rest = self.words[programs.index("celery") + 1 :]
        before = ["", *rest]
        told = (one for one, last in zip(rest, before, strict=False) if last not in CELERY_NAMED)
        return next((one for one in told if one in KINDS), None)


def is_above(folder: str, path: str) -> bool:
    """The path is this folder or in it."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def seconds_of(given: Lined) -> float | None:
    """A duration of compose (`1m30s`), or a number of seconds; None: none, or not known."""
    text = (given.text or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def words_of(*given: Lined) -> tuple[list[str], int]:
    """The words of commands, texts or lists, and the line of the first that says something."""
    words: list[str] = []
    for one in given:
        if one.partly is not None:
            words += _split(one.partly)
        for row in one.rows:
            # One argument may be a script: `sh -c "celery worker ..."`.
            text = row.partly or ""
            words += _split(text) if " " in text else [text]
    return words, next((one.line for one in given if one.value), 0)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed
        return text.split()


def _base(word: str) -> str:
    return word.rpartition("/")[2]
