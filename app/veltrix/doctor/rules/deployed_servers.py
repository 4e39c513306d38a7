"""RabbitMQ, PostgreSQL and Redis as compose files and manifests ask for them."""

import re
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import urlsplit

from veltrix.doctor.deployment_evidence import of_container, of_files, unread_elsewhere
from veltrix.doctor.facts.deployment.container import DeployedContainer, is_above
from veltrix.doctor.facts.deployment.files import DeployedContainers
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.doctor.rules.platform_settings import UNSAFE_COMMITS
from veltrix.doctor.rules.rabbitmq_node import VERSION_MIN
from veltrix.doctor.rules.rabbitmq_topology import COPIES_MIN, SINGLE_NODE

rules = Rules("deployed servers")

POSTGRES_DATA = "/var/lib/postgresql/data"
# Before it the image keeps a volume of its own below the folder that is mounted (docker-library).
POSTGRES_ABOVE_DATA = 18
_POSTGRES_FOLDERS = ("/var/lib/postgresql", "/bitnami/postgresql")
_RABBITMQ_FOLDERS = ("/var/lib/rabbitmq", "/bitnami/rabbitmq")
_RABBITMQ_PORTS = {"*", "5671", "5672", "15671", "15672"}
_OPTION = re.compile(r"(?:^|\s)(?:-c\s*|--)([A-Za-z_.-]+)=(\S+)")
_OFF = {"off", "false", "no", "0"}
_VOLUMES = "https://docs.docker.com/engine/storage/volumes/"


def _nodes(files: DeployedContainers) -> Iterator[tuple[DeployedContainer, int]]:
    """(the first service, how many nodes) of RabbitMQ in each file that says how many."""
    by_file: dict[str, list[DeployedContainer]] = {}
    for one in files.containers:
        if one.is_rabbitmq:
            by_file.setdefault(one.file, []).append(one)
    for services in by_file.values():
        nodes = [one.nodes for one in services]
        if None not in nodes:
            yield services[0], sum(filter(None, nodes))


def _few_nodes(files: DeployedContainers) -> Iterator[Evidence]:
    for service, nodes in _nodes(files):
        if 0 < nodes < COPIES_MIN:
            yield of_container(
                service,
                f"RabbitMQ of {nodes} node{'s' * (nodes > 1)}",
                f"{COPIES_MIN} nodes in one cluster, on machines that fail apart",
                implied_by=SINGLE_NODE if nodes == 1 else None,
            )


@rules.rule(
    "B09",
    Severity.LOSS,
    DeployedContainers,
    title="RabbitMQ keeps few copies",
    why="A queue has at most one copy on each node: what is confirmed is gone with its disk.",
    safe="three nodes of RabbitMQ, and quorum queues",
    source="https://www.rabbitmq.com/docs/quorum-queues",
)
@of_files
def few_copies(files: DeployedContainers) -> Iterator[Evidence]:
    yield from _few_nodes(files)


@rules.rule(
    "B10",
    Severity.STALL,
    DeployedContainers,
    title="one node less, and RabbitMQ takes and gives nothing",
    why="Quorum queues work while more than half of their members are online, and of one or two"
    " nodes none may go.",
    safe="three nodes of RabbitMQ",
    source="https://www.rabbitmq.com/docs/quorum-queues#quorum-requirements",
)
@of_files
def quorum_critical(files: DeployedContainers) -> Iterator[Evidence]:
    yield from _few_nodes(files)


@rules.rule(
    "B18",
    Severity.LOSS,
    DeployedContainers,
    title="an image of RabbitMQ with bugs that lose messages",
    why="Before 4.3.5 a member may take part of a snapshot for all, dead letters may go to the"
    " wrong member, and a leader may count what its followers do not have.",
    safe="image: rabbitmq:4.3.5-management",
    source="https://github.com/rabbitmq/rabbitmq-server/releases/tag/v4.3.5",
)
@of_files
def old_rabbitmq(files: DeployedContainers) -> Iterator[Evidence]:
    for one in files.containers:
        # Of `4` or `4.3` the newest is pulled: only the numbers that are given are compared.
        if one.is_rabbitmq and one.version and one.version < VERSION_MIN[: len(one.version)]:
            yield of_container(
                one,
                f"RabbitMQ {'.'.join(map(str, one.version))}",
                "image: rabbitmq:4.3.5-management, or later",
                one.image.line,
                implied_by="old broker",
            )


@rules.rule(
    "B22",
    Severity.LOSS,
    DeployedContainers,
    title="what RabbitMQ keeps goes with its container",
    why="A container that is made anew has an empty disk, or another node name, under which"
    " RabbitMQ looks for data that are not there: queues and messages are gone.",
    safe="hostname: rabbitmq\nvolumes: [rabbitmq:/var/lib/rabbitmq]",
    source="https://hub.docker.com/_/rabbitmq",
)
@of_files
def rabbitmq_forgets(files: DeployedContainers) -> Iterator[Evidence]:
    unknown = []
    for one in files.containers:
        if not one.is_rabbitmq or one.nodes == 0 or not one.is_storage_known:
            continue
        if not one.keeps(*_RABBITMQ_FOLDERS):
            yield of_container(one, "no volume for its data", _volume(one, "rabbitmq"))
        elif not one.has_steady_name and one.elsewhere:
            unknown.append(one)
        elif not one.has_steady_name:
            cure = "hostname: rabbitmq" if one.kind == "compose" else "kind: StatefulSet"
            yield of_container(one, "each container has another node name", cure)
    unread_elsewhere(unknown, "RABBITMQ_NODENAME")


@rules.rule(
    "B20",
    Severity.LOSS,
    DeployedContainers,
    title="RabbitMQ is open to whoever reaches the machine",
    why="The image has a user guest, whose password is guest and who may purge and delete every"
    " queue from anywhere.",
    safe='ports: ["127.0.0.1:15672:15672"]',
    source="https://www.rabbitmq.com/docs/access-control#default-state",
)
@of_files
def guest_from_anywhere(files: DeployedContainers) -> Iterator[Evidence]:
    unknown = []
    for one in files.containers:
        ports = sorted(_RABBITMQ_PORTS & set(one.published))
        # What is mounted may have users, and with definitions the image makes no guest.
        is_mounted = any(is_above("/etc/rabbitmq", mount.target) for mount in one.mounts)
        if not one.is_rabbitmq or not ports or is_mounted or "bitnami" in (one.image.partly or ""):
            continue
        given = [one.environment.get(f"RABBITMQ_DEFAULT_{key}") for key in ("USER", "PASS")]
        if any(said is not None and said.text != "guest" for said in given):
            continue
        if one.elsewhere:
            unknown.append(one)
            continue
        told = "its ports" if ports == ["*"] else f"port {', '.join(ports)}"
        cure = 'RABBITMQ_DEFAULT_USER and _PASS of your own, or "127.0.0.1:" before the port'
        yield of_container(one, f"{told} published, and user guest", cure)
    unread_elsewhere(unknown, "whether there is a user guest")


@rules.rule(
    "D31",
    Severity.LOSS,
    DeployedContainers,
    title="what PostgreSQL keeps goes with its container",
    why="A container that is made anew has an empty disk: all that was committed is gone.",
    safe="volumes: [postgres:/var/lib/postgresql]  # of postgres:18; before: .../data",
    source="https://hub.docker.com/_/postgres",
)
@of_files
def postgres_forgets(files: DeployedContainers) -> Iterator[Evidence]:
    unknown = []
    for one in files.containers:
        if not one.is_postgres or one.nodes == 0 or not one.is_storage_known:
            continue
        given = one.environment.get("PGDATA")
        data = (given.text if given else None) or POSTGRES_DATA
        above = [mount for mount in one.mounts if is_above(mount.target, POSTGRES_DATA)]
        if not one.keeps(data, *_POSTGRES_FOLDERS):
            if given is None and one.elsewhere and one.keeps("/"):
                unknown.append(one)
            else:
                yield of_container(one, "no volume for its data", _volume(one, "postgresql"))
        elif (
            one.image_name == "postgres"
            and (0,) < one.version < (POSTGRES_ABOVE_DATA,)
            and is_above(POSTGRES_DATA, data)
            and above
            and all(mount.target.rstrip("/") != POSTGRES_DATA for mount in above)
            and not any(is_above(POSTGRES_DATA, mount.target) for mount in one.mounts)
        ):
            yield of_container(
                one,
                f"a volume on {above[0].target}, and the image has its data in a nameless one"
                f" on {POSTGRES_DATA}",
                f"mount the volume on {POSTGRES_DATA}",
            )
    unread_elsewhere(unknown, "PGDATA")


def _volume(one: DeployedContainer, name: str) -> str:
    if one.kind == "compose":
        is_old = name == "postgresql" and (0,) < one.version < (POSTGRES_ABOVE_DATA,)
        return f"volumes: [{name}:/var/lib/{name}{'/data' * is_old}]"
    if one.kind == "values":
        return "persistence: {enabled: true}"
    return f"volumeClaimTemplates of a StatefulSet, mounted on /var/lib/{name}"


@rules.rule(
    "D08",
    Severity.LOSS,
    DeployedContainers,
    title="PostgreSQL is told to answer before it has written, or to write carelessly",
    why="Without fsync, full_page_writes or synchronous_commit a crash takes commits that were"
    " answered, or leaves a database that cannot be read.",
    safe="command: postgres -c synchronous_commit=on",
    source="https://www.postgresql.org/docs/current/wal-async-commit.html",
)
@of_files
def postgres_is_careless(files: DeployedContainers) -> Iterator[Evidence]:
    for one in files.containers:
        if not one.is_postgres:
            continue
        given = one.environment.get("POSTGRES_INITDB_ARGS")
        texts = [(" ".join(one.words), one.words_line)]
        texts += [(given.partly or "", given.line)] if given else []
        for text, line in texts:
            for key, value in _OPTION.findall(text):
                if _is_careless(key, value):
                    cure = f"take {key}={value} out of it"
                    yield of_container(one, f"{key}={value}", cure, line)
        for conf in one.confs:
            for key, said in conf.values.items():
                if _is_careless(key, said.text or ""):
                    yield of_container(
                        one, f"{key} = {said.text}", f"{key} = on", said.line, file=conf.file
                    )


def _is_careless(key: str, value: str) -> bool:
    name, said = key.lower().replace("-", "_"), value.lower().strip("'\"")
    if name == "synchronous_commit":
        return said in UNSAFE_COMMITS
    return name in {"fsync", "full_page_writes"} and said in _OFF


@rules.rule(
    "P24",
    Severity.LOSS,
    DeployedContainers,
    title="Redis holds the messages, and forgets them",
    why="Without an append-only file on a volume a restart takes what came since the last"
    " snapshot, or everything; an eviction policy takes queues when memory is short.",
    safe="command: redis-server --appendonly yes --maxmemory-policy noeviction\n"
    "volumes: [redis:/data]",
    source="https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/",
)
@of_files
def redis_forgets(files: DeployedContainers) -> Iterator[Evidence]:
    for one in files.containers:
        if not one.is_redis or not _holds_messages(one, files):
            continue
        if (_redis_option(one, "appendonly") or "no").lower() != "yes":
            yield of_container(one, "no --appendonly yes", "--appendonly yes", one.words_line)
        elif one.is_storage_known and not one.keeps("/data", "/bitnami/redis"):
            yield of_container(one, "no volume for its data", "volumes: [redis:/data]")
        policy = _redis_option(one, "maxmemory-policy") or "noeviction"
        if policy.startswith("allkeys-"):
            cure = "--maxmemory-policy noeviction"
            yield of_container(one, f"--maxmemory-policy {policy}", cure, one.words_line)


def _redis_option(one: DeployedContainer, name: str) -> str | None:
    words = [word.lower() for word in one.words]
    if f"--{name}" in words[:-1]:
        return words[words.index(f"--{name}") + 1]
    variable = {"appendonly": "REDIS_AOF_ENABLED"}.get(name)  # of Bitnami's image
    if variable in one.environment:
        return one.environment[variable].text
    return next((conf.values[name].text for conf in one.confs if name in conf.values), None)


def _holds_messages(redis: DeployedContainer, files: DeployedContainers) -> bool:
    """A service of the same file is told that this one is its broker."""
    for one in files.containers:
        if one.file != redis.file:
            continue
        urls = [value for name, value in one.environment.items() if "BROKER" in name.upper()]
        told = [value.partly or "" for value in urls]
        told += [after for word, after in pairwise(one.words) if word in {"-b", "--broker"}]
        told += [word.partition("=")[2] for word in one.words if word.startswith("--broker=")]
        if any(_leads_to(url, redis.name) for url in told):
            return True
    return False


def _leads_to(url: str, name: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"redis", "rediss"} and (parts.hostname or "").split(".")[0] == name
    except ValueError:
        return False
