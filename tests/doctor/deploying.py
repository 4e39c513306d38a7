"""For every rule of deployment files a file that trips it, and the same one made safe."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.deployment import readers_of_files
from veltrix.doctor.examine import Examination, examine


class Case(NamedTuple):
    """A file, what trips the rule in it, and what does not."""

    id: str
    subject: str
    file: str
    bad: str
    safe: str


SERVERS, PROCESSES = "deployed servers", "deployed processes"
QUEUES, CONF = "definitions of RabbitMQ", "configuration of RabbitMQ"
SECRET = "canary-3f9c"
RULES = [one for one in all_rules() if one.subject in {SERVERS, PROCESSES, QUEUES, CONF}]


def look(*paths: Path, is_production: bool = False) -> Examination:
    """The rules of files, held against these and what is in these folders."""
    return examine(RULES, readers_of_files(paths), is_production=is_production)


def ids(found: Examination) -> list[str]:
    """Of what nobody accepts."""
    return sorted({one.id for one in found.findings if one.accepted is None})


def compose(*services: str) -> str:
    """A compose file of services, one a line."""
    return "services:\n" + "".join(f"  {one}\n" for one in services)


def queue(arguments: dict[str, Any], **more: Any) -> str:
    """Definitions with a queue, and an exchange `dead` with a queue."""
    made = {"name": "q", "vhost": "/", "durable": True, "auto_delete": False}
    own = {"x-queue-type": "quorum", "x-dead-letter-exchange": "dead"}
    own |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    given = {key: value for key, value in (own | arguments).items() if value is not None}
    net = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
    return json.dumps(
        {
            "exchanges": [{"name": "dead", "vhost": "/", "type": "fanout", "durable": True}],
            "queues": [
                made | {"arguments": given} | more,
                made | {"name": "dead", "arguments": net},
            ],
            "bindings": [{"source": "dead", "vhost": "/", "destination": "dead"}],
        },
        indent=1,
    )


def rabbitmq(name: str, more: str = "") -> str:
    """A node of RabbitMQ that keeps what it has."""
    kept = f"hostname: {name}, volumes: ['{name}:/var/lib/rabbitmq']"
    return f"{name}: {{image: rabbitmq:4.3.5, {kept}{more}}}"


def postgres(command: str = "", volume: str = "db:/var/lib/postgresql", tag: str = "18") -> str:
    """A server that keeps what it has."""
    return (
        f"db: {{image: 'postgres:{tag}', command: {command or 'postgres'}, volumes: ['{volume}']}}"
    )


def redis(command: str) -> str:
    """A Redis that is a broker, and its worker."""
    return compose(
        f"redis: {{image: redis:7, command: '{command}', volumes: ['redis:/data']}}",
        "app: {image: shop, environment: ['BROKER_URL=redis://redis/0']}",
    )


def worker(grace: str, name: str = "VELTRIX_GRACE_S") -> str:
    """A worker of ours."""
    return compose(
        f"w: {{image: shop, command: [worker], stop_grace_period: {grace}, restart: always,"
        f" environment: {{{name}: '45'}}}}"
    )


def flower(options: str = "", port: str = "5555:5555") -> str:
    """A Flower that others reach."""
    return compose(
        f"f: {{image: mher/flower, command: 'celery flower {options}', ports: ['{port}']}}"
    )


def pinged(probe: str) -> str:
    """A worker of Celery in Kubernetes, with a probe."""
    return (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: w}\nspec:\n  containers:\n"
        "    - image: shop\n      command: [celery, -A, shop, worker]\n"
        f"      {probe}: {{exec: {{command: [sh, -c, celery -A shop inspect ping]}}}}\n"
    )


def deployed(kind: str, volume: str) -> str:
    """A node of RabbitMQ in Kubernetes."""
    return f"""
apiVersion: apps/v1
kind: {kind}
metadata: {{name: rabbitmq}}
spec:
  template:
    spec:
      containers:
        - {{name: r, image: rabbitmq, volumeMounts: [{{name: v, mountPath: /var/lib/rabbitmq}}]}}
      volumes: [{{name: v, {volume}: {{claimName: v}}}}]
"""


def cluster(replicas: int) -> str:
    """Of RabbitMQ's operator."""
    return (
        "apiVersion: rabbitmq.com/v1beta1\nkind: RabbitmqCluster\nmetadata: {name: r}\n"
        f"spec: {{replicas: {replicas}}}\n"
    )


THREE = compose(*(rabbitmq(name) for name in ("r1", "r2", "r3")))
OLD = "rabbitmq: {image: 'rabbitmq:4.2-management'}"
NEW = "rabbitmq: {image: 'rabbitmq:${TAG:-4.3.5-management}'}"
NAMELESS = "rabbitmq: {image: rabbitmq, hostname: r, volumes: [/var/lib/rabbitmq]}"
CHANGING = "rabbitmq: {image: rabbitmq, volumes: ['r:/var/lib/rabbitmq']}"
AOF = "redis-server --appendonly yes"
PORTS = ", ports: [{target: 15672, published: 80}]"
PGDATA = "db:/var/lib/postgresql/data"

CASES = [
    Case("B09", SERVERS, "compose.yaml", compose(rabbitmq("r1"), rabbitmq("r2")), THREE),
    Case("B10", SERVERS, "compose.yaml", compose(rabbitmq("r1")), THREE),
    Case("B09", SERVERS, "cluster.yaml", cluster(1), cluster(3)),
    Case("B18", SERVERS, "compose.yaml", compose(OLD), compose(NEW)),
    Case("B22", SERVERS, "compose.yaml", compose(NAMELESS), compose(rabbitmq("r1"))),
    Case("B22", SERVERS, "compose.yaml", compose(CHANGING), compose(rabbitmq("r1"))),
    Case(
        *("B22", SERVERS, "rabbitmq.yaml"),
        deployed("StatefulSet", "emptyDir"),
        deployed("StatefulSet", "persistentVolumeClaim"),
    ),
    Case(
        *("B22", SERVERS, "rabbitmq.yaml"),
        deployed("Deployment", "persistentVolumeClaim"),
        deployed("StatefulSet", "persistentVolumeClaim"),
    ),
    Case(
        *("B22", SERVERS, "values.yaml"),
        "rabbitmq: {persistence: {enabled: false}}",
        "rabbitmq: {replicaCount: 3, persistence: {enabled: true}}",
    ),
    Case(
        *("B20", SERVERS, "compose.yaml"),
        compose(rabbitmq("r1", ", ports: ['5671-5672:5671-5672/tcp']")),
        compose(rabbitmq("r1", ", ports: ['127.0.0.1:5672:5672', '15692:15692']")),
    ),
    Case(
        *("B20", SERVERS, "compose.yaml"),
        compose(rabbitmq("r1", f"{PORTS}, environment: [RABBITMQ_DEFAULT_USER=guest]")),
        compose(rabbitmq("r1", f"{PORTS}, environment: [RABBITMQ_DEFAULT_PASS=canary-3f9c]")),
    ),
    Case(
        *("D31", SERVERS, "compose.yaml"),
        compose("db: {image: postgres:18, tmpfs: [/var/lib/postgresql]}"),
        compose(postgres()),
    ),
    Case(
        *("D31", SERVERS, "compose.yaml"),
        compose(postgres(tag="17-alpine")),
        compose(postgres(tag="17-alpine", volume=PGDATA)),
    ),
    Case(
        *("D31", SERVERS, "values.yaml"),
        "postgresql: {primary: {persistence: {enabled: false}}}",
        "postgresql: {primary: {persistence: {size: 8Gi}}}",
    ),
    Case(
        *("D08", SERVERS, "compose.yaml"),
        compose(postgres("[postgres, -c, synchronous_commit=off]")),
        compose(postgres("[postgres, -c, synchronous_commit=on]")),
    ),
    Case(
        *("D08", SERVERS, "compose.yaml"),
        compose(postgres("postgres --full-page-writes=off")),
        compose(postgres("postgres -cfsync=on")),
    ),
    Case("P24", SERVERS, "compose.yaml", redis("redis-server"), redis(AOF)),
    Case(
        *("P24", SERVERS, "compose.yaml"),
        redis(f"{AOF} --maxmemory-policy allkeys-lru"),
        redis(f"{AOF} --maxmemory-policy noeviction"),
    ),
    Case("W34", PROCESSES, "compose.yaml", worker("30s"), worker("1m")),
    Case(
        *("W34", PROCESSES, "compose.yaml"),
        compose("w: {image: a, command: celery -A shop worker, stop_grace_period: 2s}"),
        compose("w: {image: a, command: celery -A shop worker, stop_grace_period: 2m}"),
    ),
    Case(
        *("W37", PROCESSES, "compose.yaml"),
        compose("w: {image: veltrix, command: relay}"),
        compose("w: {image: veltrix, command: relay, restart: on-failure}"),
    ),
    Case(
        *("W37", PROCESSES, "compose.yaml"),
        compose("w: {image: a, command: celery -A shop worker, restart: 'no'}"),
        compose("w: {image: a, command: celery -A shop worker, deploy: {replicas: 2}}"),
    ),
    Case("O08", PROCESSES, "worker.yaml", pinged("livenessProbe"), pinged("readinessProbe")),
    Case("P22", PROCESSES, "compose.yaml", worker("60s", "VELTRIX_GRACE"), worker("60s")),
    Case("O06", PROCESSES, "compose.yaml", flower(), flower("--basic_auth=canary-3f9c:x")),
    Case("O06", PROCESSES, "compose.yaml", flower(), flower(port="127.0.0.1:5555:5555")),
    Case("O06", PROCESSES, "compose.yaml", flower("--read-only=false"), flower("--read_only")),
    Case("P20", QUEUES, "definitions.json", queue({}, durable=False), queue({})),
    Case("P20", QUEUES, "definitions.json", queue({}, auto_delete=True), queue({})),
    Case("B09", QUEUES, "definitions.json", queue({"x-queue-type": "classic"}), queue({})),
    Case("B01", QUEUES, "definitions.json", queue({"x-dead-letter-exchange": None}), queue({})),
    Case("B03", QUEUES, "definitions.json", queue({"x-dead-letter-strategy": None}), queue({})),
    Case("B04", QUEUES, "definitions.json", queue({"x-dead-letter-exchange": "no"}), queue({})),
    Case("B05", QUEUES, "definitions.json", queue({"x-overflow": "drop-head"}), queue({})),
    Case(
        *("B06", QUEUES, "definitions.json"),
        queue({"x-max-length": 10, "x-overflow": None, "x-dead-letter-strategy": None}),
        queue({"x-max-length": 10}),
    ),
    Case("B07", QUEUES, "definitions.json", queue({"x-expires": 1000}), queue({})),
    Case(
        *("B07", QUEUES, "definitions.json"),
        queue({"x-message-ttl": 1000, "x-dead-letter-exchange": None}),
        queue({"x-message-ttl": 1000}),
    ),
    Case("B11", CONF, "rabbitmq.conf", "disk_free_limit.absolute = 50MB", "log.console = true"),
    Case("W15", CONF, "rabbitmq.conf", "consumer_timeout = 60000", "consumer_timeout = 1800000"),
    Case("P11", CONF, "rabbitmq.conf", "heartbeat = 0", "heartbeat = 60  # 0: none"),
]
