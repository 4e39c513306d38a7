"""Rules of deployment files, on files as people have them."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.commands.conftest import Veltrix, unset_veltrix  # noqa: F401 - a fixture
from tests.doctor.deploying import CASES, RULES, SECRET, Case, compose, ids, look, rabbitmq
from tests.doctor.examined import write
from veltrix.doctor.deployment import readers_of_files
from veltrix.doctor.examine import Examination
from veltrix.doctor.report.sarif import sarif

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = Path(__file__).with_name("deployments")


def broken(found: Examination) -> set[tuple[str, str, str]]:
    return {(one.id, one.subject, one.title) for one in found.findings}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {case.file}")
def test_a_rule_sees_the_fault_and_is_silent_on_the_safe_file(case: Case, tmp_path: Path) -> None:
    seen = {}
    for name, text in (("bad", case.bad), ("safe", case.safe)):
        found = look(write(tmp_path / name, {case.file: text}))
        assert found.not_checked == []
        assert SECRET not in msgspec.json.encode(found).decode()
        seen[name] = [(one.id, one.subject) for one in found.findings]

    assert (case.id, case.subject) in seen["bad"]
    assert (case.id, case.subject) not in seen["safe"]


def test_no_rule_is_without_a_case(tmp_path: Path) -> None:
    seen: set[tuple[str, str, str]] = set()
    for number, case in enumerate(CASES):
        seen |= broken(look(write(tmp_path / str(number), {case.file: case.bad})))

    assert seen == {(rule.id, rule.subject, rule.title) for rule in RULES}


def test_a_strangers_compose_file() -> None:
    found = look(DEPLOYMENTS / "stranger")

    places = {one.id: one.line for one in found.findings}
    assert ids(found) == ["D08", "D31", "O06", "P24", "W34", "W37"]
    assert (places["D08"], places["W34"], places["O06"]) == (30, 17, 20)
    assert all(one.file and one.file.endswith("docker-compose.yml") for one in found.findings)


def test_manifests_of_kubernetes() -> None:
    found = look(DEPLOYMENTS / "kubernetes")

    assert ids(found) == ["B22", "O06", "O08", "P22", "W34"]
    cures = {one.id: one.cure for one in found.findings}
    assert cures["P22"] == "did you mean VELTRIX_WORKER_CHILDREN?"
    assert cures["W34"] == "terminationGracePeriodSeconds: 40"
    accepted = {one.id: one.accepted for one in found.findings if one.accepted}
    assert accepted == {"B09": "single node", "B10": "single node", "B18": "old broker"}


def test_what_rabbitmq_exports() -> None:
    found = look(DEPLOYMENTS / "broker")

    told = {(one.id, one.found) for one in found.findings}
    assert ids(found) == [
        *("B01", "B03", "B04", "B05", "B06", "B07", "B09", "B11", "P11", "P20", "W15"),
    ]
    assert ("B07", "message-ttl of queue 'hints' is 60000") in told
    assert ("B06", "max-length of queues of policy 'bounded' with no overflow") in told
    assert not [one for one in found.findings if "celeryev" in one.found]
    places = {one.found: one.line for one in found.findings}
    assert places["queue 'hints' is not durable"] == 29
    assert places["message-ttl of queue 'hints' is 60000"] == 43


def test_the_shipped_files_have_no_fault_but_what_one_node_implies() -> None:
    readers = readers_of_files([ROOT / "docker-compose.yml"])
    found = look(ROOT / "docker-compose.yml")

    assert len(readers) == 3  # what it mounts into RabbitMQ was read, too
    assert found.not_checked == []
    assert {one.id for one in found.findings} <= {"B09", "B10", "B18"}
    assert {one.accepted for one in found.findings} <= {"single node", "old broker"}
    assert ids(found) == []
    assert set(ids(look(ROOT / "docker-compose.yml", is_production=True))) >= {"B09", "B10"}


def test_what_is_mounted_into_servers_is_read_with_them(tmp_path: Path) -> None:
    files = {
        "compose.yaml": compose(
            "rabbitmq: {image: rabbitmq, hostname: r, volumes: ['r:/var/lib/rabbitmq',"
            " './rabbit:/etc/rabbitmq']}",
            "db: {image: postgres, volumes: ['db:/var/lib/postgresql', './pg.conf:/pg.conf']}",
            "redis: {image: redis, volumes: ['d:/data', './redis.conf:/redis.conf']}",
            "app: {image: shop, env_file: app.env, configs: [flags]}",
        ),
        "rabbit/definitions.json": json.dumps({"queues": [{"name": "q", "durable": False}]}),
        "rabbit/20.conf": "heartbeat = 0",
        "pg.conf": "# fast\nfsync = off  # really\n",
        "redis.conf": "maxmemory-policy allkeys-lru\nappendonly yes\n",
        "app.env": f"BROKER_URL=redis://:{SECRET}@redis/0\nexport VELTRIX_GRACE='9'\n",
    }
    found = look(write(tmp_path, files) / "compose.yaml")

    places = {one.id: (Path(one.file or "").name, one.line) for one in found.findings}
    assert places["D08"] == ("pg.conf", 2)
    assert places["P11"] == ("20.conf", 1)
    assert places["P20"] == ("definitions.json", 1)
    assert ids(found) == ["B09", "D08", "P11", "P20", "P22", "P24"]
    assert SECRET not in msgspec.json.encode(found).decode()


SILENT = [
    compose("w: {image: a, command: celery -A worker beat, stop_grace_period: 1s}"),
    compose("db: {image: 'postgres:${TAG}', volumes: ['${WHERE}:/var/lib/postgresql']}"),
    compose("r: {image: redis, command: redis-server}", "a: {image: shop, command: web}"),
    compose("rabbitmq-exporter: {image: kbudde/rabbitmq-exporter}"),
    compose("f: {image: mher/flower, ports: ['5555:5555'], environment: [FLOWER_BASIC_AUTH=a:b]}"),
    compose("w: {image: veltrix, command: worker, restart: '${R}', stop_grace_period: '${G}'}"),
    compose("w: {image: a, command: celery worker, extends: {file: base.yaml, service: w}}"),
    compose(rabbitmq("r1", ", ports: ['5672:5672'], environment: {RABBITMQ_DEFAULT_USER: '${U}'}"))
    + rabbitmq("  r2")
    + "\n"
    + rabbitmq("  r3"),
    compose("b: &b {image: 'rabbitmq:${V:-4}', deploy: {replicas: 0}}"),
    "rabbitmq: {image: {tag: '{{ .Values.x }}'}, enabled: true}",
]


@pytest.mark.parametrize("text", SILENT)
def test_what_is_no_fault_or_not_known_is_not_told(text: str, tmp_path: Path) -> None:
    name = "compose.yaml" if text.startswith("services") else "values.yaml"

    found = look(write(tmp_path, {name: text}), is_production=True)

    assert found.findings == []
    assert found.not_checked == []


def test_streams_and_beaten_policies_are_no_fault(tmp_path: Path) -> None:
    queue = {"vhost": "/", "durable": True, "arguments": {"x-queue-type": "quorum"}}
    policy = {"vhost": "/", "pattern": "^q$", "apply-to": "queues"}
    safe = {"dead-letter-exchange": "", "dead-letter-strategy": "at-least-once"}
    safe["overflow"] = "reject-publish"
    definitions = {
        "queues": [
            queue | {"name": "q"},
            queue | {"name": "s", "arguments": {"x-queue-type": "stream", "x-max-length": 9}},
        ],
        "policies": [
            policy | {"name": "low", "priority": 1, "definition": {"expires": 1}},
            policy | {"name": "high", "priority": 2, "definition": safe},
            policy | {"name": "cut", "apply-to": "streams", "definition": {"max-length": 5}},
        ],
    }

    found = look(write(tmp_path, {"definitions.json": json.dumps(definitions)}))

    assert found.findings == []


def test_no_secret_is_told() -> None:
    files = [path for path in DEPLOYMENTS.rglob("*") if path.is_file()]
    assert all(SECRET in path.read_text(encoding="utf-8") for path in files)

    found = look(DEPLOYMENTS)

    told = msgspec.json.encode(found).decode() + json.dumps(sarif(found, RULES, "1"))
    assert len(found.findings) > 20
    assert SECRET not in told


def test_variables_that_are_elsewhere_are_not_judged(tmp_path: Path) -> None:
    worker = "w: {image: veltrix, command: worker, restart: always, env_file: [w.env]}"
    flower = "f: {image: mher/flower, ports: ['5555:5555'], env_file: {path: f.env}}"
    three = [rabbitmq(f"r{n}", ", ports: ['5672:5672'], env_file: r.env") for n in (1, 2, 3)]
    three[0] = three[0].replace("hostname: r1, ", "")
    db = "db: {image: postgres, env_file: db.env, volumes: ['db:/own']}"
    write(tmp_path, {"compose.yaml": compose(worker, flower, *three, db)})

    found = look(tmp_path / "compose.yaml")

    assert ids(found) == []
    told = {one.id: one.reason for one in found.not_checked}
    assert told.keys() == {"W34", "O06", "B20", "B22", "D31"}
    assert told["W34"].startswith("VELTRIX_GRACE_S of w (w.env) is not known")

    write(tmp_path, {f"{name}.env": "A=1\n" for name in ("w", "f", "r", "db")})
    found = look(tmp_path / "compose.yaml")

    assert ids(found) == ["B20", "B22", "D31", "O06", "W34"]
    assert found.not_checked == []


def test_parts_of_a_service_are_not_taken_for_all_of_it(tmp_path: Path) -> None:
    db, worker = "image: postgres", "image: veltrix, command: worker"
    rest = "image: rabbitmq, ports: ['5672:5672']"
    services = [f"db: {{{db}}}", f"w: {{{worker}}}", f"r: {{{rest}}}"]
    whole = compose(*services)
    files = {"docker-compose.override.yml": whole, "compose.part.yaml": compose("w: {ports: [80]}")}

    found = look(write(tmp_path / "parts", files))

    assert ids(found) == []
    assert {one.id for one in found.not_checked} == {"B20"}

    assert ids(look(write(tmp_path / "whole", {"compose.yaml": whole}))) == [
        *("B20", "B22", "D31", "W34", "W37")
    ]


def test_config_maps_of_the_file_are_variables(tmp_path: Path) -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: w}\nspec:\n"
        "  terminationGracePeriodSeconds: 40\n  containers:\n    - image: veltrix\n"
        "      args: [worker]\n      envFrom:\n        - configMapRef: {name: more}\n"
        "        - configMapRef: {name: shop}\n---\n"
    )
    shop = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n"
        "data:\n  VELTRIX_GRACE_S: '50'\n  VELTRIX_GRACE: '50'\n"
    )
    found = look(write(tmp_path, {"w.yaml": pod + shop}))

    assert {one.id: one.line for one in found.findings} == {"W34": 5, "P22": 18}
    assert {one.id for one in look(write(tmp_path, {"w.yaml": pod})).not_checked} == set()


def test_files_of_rabbitmq_within_manifests_are_read(tmp_path: Path) -> None:
    conf = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rabbitmq}\ndata:\n"
    conf += "  rabbitmq.conf: |\n    # mine\n    heartbeat = 0\n"
    conf += '  definitions.json: |\n    {\n      "queues": [\n'
    conf += f'        {{"name": "q", "durable": false}}],\n      "a": "{SECRET}"}}\n'
    cluster = "---\napiVersion: rabbitmq.com/v1beta1\nkind: RabbitmqCluster\nspec:\n"
    cluster += "  replicas: 3\n  rabbitmq: {additionalConfig: 'consumer_timeout = 60000'}\n"
    broken = "---\nkind: Secret\napiVersion: v1\nstringData: {definitions.json: '{'}\n"
    path = write(tmp_path, {"rabbit.yaml": conf + cluster + broken}) / "rabbit.yaml"

    found = look(path)

    places = {(one.id, one.line) for one in found.findings}
    assert places == {("P11", 7), ("W15", 18), ("P20", 11), ("B09", 11)}
    (reason,) = {one.reason for one in found.not_checked}
    assert "rabbit.yaml is not JSON (line 22)" in reason
    assert SECRET not in msgspec.json.encode(found).decode()


@pytest.fixture
def here(unset_veltrix: Veltrix, tmp_path: Path) -> Path:  # noqa: F811 - the fixture
    """The current folder, with a compose file."""
    flower, worker = "{image: mher/flower, ports: ['5555']}", "{image: veltrix, command: api}"
    return write(tmp_path, {"compose.yaml": compose(f"f: {flower}", f"w: {worker}")})


def test_the_compose_file_of_this_folder_is_examined(here: Path, unset_veltrix: Veltrix) -> None:  # noqa: F811
    told = unset_veltrix("doctor", "--json")

    assert told.code == 1
    places = {one["id"]: (one["file"], one["line"]) for one in told.json["findings"]}
    assert places["O06"] == ("compose.yaml", 2)
    assert places["W37"] == ("compose.yaml", 3)

    write(here, {"compose.yaml": compose("f: {image: mher/flower, ports: ['5555']}")})
    files = {one["file"] for one in unset_veltrix("doctor", "--json").json["findings"]}

    assert "compose.yaml" not in files  # it deploys nothing of ours


def test_files_alone_need_no_settings(here: Path, unset_veltrix: Veltrix) -> None:  # noqa: F811
    write(here, {"deploy/compose.yml": compose(rabbitmq("r1"))})

    one = unset_veltrix("doctor", "--files", "deploy", "--json")
    two = unset_veltrix("doctor", "--files", "deploy", "--files", "compose.yaml", "--json")
    none = unset_veltrix("doctor", "--files", "gone.yaml")

    assert (one.code, two.code, none.code) == (0, 1, 2)
    assert {found["accepted"] for found in one.json["findings"]} == {"single node"}
    assert one.json["not_checked"] == []
    assert {found["id"] for found in two.json["findings"]} == {"B09", "B10", "O06", "W37"}
    assert "gone.yaml is not there" in " ".join(none.out.split())


def test_beside_an_application_its_compose_file_is_examined(
    here: Path,
    unset_veltrix: Veltrix,  # noqa: F811
) -> None:
    app = "from celery import Celery\napp = Celery('shop', broker='redis://redis/0')\n"
    text = compose(
        "flower: {image: shop, command: celery -A shop flower, ports: ['5555:5555']}",
        "w: {image: shop, command: celery -A shop worker, stop_grace_period: 1s}",
    )
    write(here, {"shop/shop.py": app, "shop/docker-compose.yml": text})

    told = unset_veltrix("doctor", "--celery-app", "shop", "--folder", "shop", "--json").json

    files = [(one["id"], one["file"]) for one in told["findings"]]
    assert ("W34", "shop/docker-compose.yml") in files
    assert [one for one in files if one[0] == "O06"] == [("O06", "docker-compose.yml")]
