"""docker-compose.yml and what it mounts: valid, without secrets, and what it starts works.

No container engine runs where the tests do: the file is checked against the compose specification,
and the commands of our own services are run as processes here, with the environment it gives them.
"""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from compose_spec import PyOptions, parse_duration
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from tests.support.limited_user import account_of
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.bootstrap import workflows_of
from veltrix.broker.connect import close_connection, open_connection
from veltrix.broker.management import Management
from veltrix.broker.message import MESSAGE_BYTES_MAX
from veltrix.broker.rights import users
from veltrix.broker.topology import definitions
from veltrix.cli import run
from veltrix.dev.children import Child, tail
from veltrix.dev.processes import Spec, Supervisor
from veltrix.dev.servers.ports import LOOPBACK, free_port
from veltrix.dev.servers.postgres import _binaries
from veltrix.dev.servers.rabbitmq import NO_BUSY_WAIT, WAL_BYTES
from veltrix.policies import limits_of
from veltrix.processes import api as server
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.load import load_settings
from workflows.flights import metadata

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
SECRETS = "/run/secrets"
IMAGE = "veltrix:latest"
RUNNING = ("api-1", "api-2", "relay-1", "relay-2", "worker-1", "worker-2", "doctor", "flower")
ONCE = ("migrate", "register")
START_S = 40.0
LEAVE_S = 20.0

Service = dict[str, Any]


def read_compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file as compose sees it: `${NAME:-default}` replaced, merged. Raises if it is invalid."""
    given = variables or {}
    written = re.sub(
        r"\$\{(\w+):-([^}]*)\}",
        lambda found: given.get(found[1], found[2]),
        COMPOSE.read_text(encoding="utf-8"),
    )
    assert "${" not in written
    compose = PyOptions(apply_merge=True).from_yaml(written)
    compose.to_spec()
    spec: dict[str, Any] = compose.to_dict()
    return spec


def make_secrets(folder: Path) -> str:
    """Run the documented command; what it says."""
    command = [sys.executable, str(ROOT / "deploy/make_secrets.py"), str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def all_services() -> dict[str, Service]:
    services: dict[str, Service] = read_compose()["services"]
    return services


def ours() -> dict[str, Service]:
    return {name: one for name, one in all_services().items() if one["image"] == IMAGE}


def test_the_file_is_valid_and_has_every_part_of_the_platform() -> None:
    services = all_services()

    assert set(ours()) == {*ONCE, *RUNNING}
    assert set(services) - set(ours()) == {"postgres", "rabbitmq", "haproxy"}


def test_what_should_run_is_watched_and_started_again() -> None:
    services = all_services()

    for name, service in services.items():
        if name in ONCE:
            assert service["restart"] == "on-failure"
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_nothing_starts_before_what_it_needs() -> None:
    services = all_services()

    for service in services.values():
        for other, need in service.get("depends_on", {}).items():
            is_once = other in ONCE
            assert need["condition"] == (
                "service_completed_successfully" if is_once else "service_healthy"
            )
    assert "rabbitmq" not in services["api-1"]["depends_on"], "accept works without RabbitMQ"
    for name in RUNNING[:-1]:
        assert "register" in services[name]["depends_on"], name


def test_a_stop_reaches_one_process_and_leaves_it_the_time_it_needs() -> None:
    for name, service in ours().items():
        assert service["init"] is True
        assert service["stop_signal"] == "SIGTERM"
        grace_s = float(service["environment"].get(f"{PREFIX}GRACE_S") or Settings().grace_s)
        api_s = server.LEAVE_S + server.GRACE_S + server.END_S
        needed_s = grace_s if name.startswith("worker") else api_s

        assert parse_duration(service["stop_grace_period"]) > needed_s, name


def test_no_secret_is_in_the_file_the_repository_or_the_image() -> None:
    compose = read_compose()
    files = {name: secret["file"] for name, secret in compose["secrets"].items()}
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for service in compose["services"].values()
        for secret in service.get("secrets", [])
    }

    assert used == set(files)
    assert all(file.startswith("./deploy/secrets/") for file in files.values())
    assert "secrets/" in (ROOT / "deploy/.gitignore").read_text().split()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert not [line for line in ignore if line.startswith("!") and "deploy" in line]
    secret = re.compile(r"_(?:URL|PASSWORD|PASS|KEY|AUTH)$")
    public = {"VELTRIX_CONSOLE_URL", "VELTRIX_FLOWER_URL"}  # addresses for browsers
    for service in compose["services"].values():
        names = set(service.get("environment", {})) - public
        assert not [name for name in names if secret.search(name)]
    assert not re.search(r"\w+:\w+@", COMPOSE.read_text())


def test_only_loopback_can_reach_what_is_published() -> None:
    published = {
        name: service["ports"] for name, service in all_services().items() if "ports" in service
    }

    assert set(published) == {"haproxy", "rabbitmq", "flower"}
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    said = make_secrets(folder)

    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(files) >= {Path(one["file"]).name for one in read_compose()["secrets"].values()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not [text for text in files.values() if text in said]
    accounts = {one["name"]: one["tags"] for one in accounts_in(files)}
    assert accounts == {user.name: ",".join(user.tags) for user in users()}
    for name in RUNNING:
        settings = load_settings(environment_of(name, folder))
        role = name.partition("-")[0]
        password = files[f"rabbitmq_password_{role}"]
        assert settings.broker_url is not None
        assert f"veltrix-{role}:{password}@" in settings.broker_url.get_secret_value()
        assert (settings.management_url is not None) == (role in {"relay", "flower", "doctor"})
        if settings.management_url is not None:
            assert f"veltrix-{role}:{password}@" in settings.management_url.get_secret_value()
        if role != "flower":
            assert settings.database_url is not None
            assert files["database_app_password"] in settings.database_url.get_secret_value()
        assert password not in files["rabbitmq_accounts.json"]
        mounted = set(ours()[name]["secrets"])
        assert not [one for one in mounted if "broker" in one and not one.startswith(role)], name
    assert load_settings(environment_of("api-1", folder)).database_owner_url is None
    owner = load_settings(environment_of("migrate", folder))
    assert (owner.database_url, owner.broker_url) == (None, None)
    assert owner.database_owner_url is not None
    assert files["database_owner_password"] in owner.database_owner_url.get_secret_value()
    make_secrets(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


def test_only_the_migration_can_log_in_as_the_owner_and_nobody_as_the_superuser() -> None:
    services = all_services()

    def users_of(secret: str) -> set[str]:
        return {name for name, one in services.items() if secret in one.get("secrets", [])}

    assert users_of("database_owner_url") == {"migrate"}
    assert users_of("postgres_password") == users_of("database_owner_password") == {"postgres"}
    assert users_of("database_url") == set(ours()) - {"migrate", "flower"}
    mounted = [mount.split(":")[:2] for mount in services["postgres"]["volumes"]]
    assert ["./deploy/postgres/roles.sql", "/docker-entrypoint-initdb.d/10-roles.sql"] in mounted


def accounts_in(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The users that RabbitMQ boots with."""
    found: list[dict[str, Any]] = json.loads(files["rabbitmq_accounts.json"])["users"]
    return found


def test_rabbitmq_boots_with_a_user_for_each_process_and_its_rights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    committed = json.loads((ROOT / "deploy/rabbitmq/rights.json").read_text())

    assert run(["topology", "users", "--json"]) == 0
    assert committed == json.loads(capsys.readouterr().out), (
        "write it again: veltrix topology users --json > deploy/rabbitmq/rights.json"
    )
    targets = [mount.split(":")[1] for mount in all_services()["rabbitmq"]["volumes"]]
    assert "/etc/rabbitmq/definitions/15-rights.json" in targets, "after the users, 10-users.json"


def test_rabbitmq_takes_the_files_it_boots_with(tmp_path: Path, broker: Broker) -> None:
    make_secrets(tmp_path)
    admin = Management(broker.management_url, "/")

    for file in (tmp_path / "rabbitmq_accounts.json", ROOT / "deploy/rabbitmq/rights.json"):
        admin._ask("POST", "/api/definitions", json.loads(file.read_text()))

    found = {one["name"]: one["tags"] for one in admin.get("/api/users")}
    for user in users():
        assert tuple(found[user.name]) == user.tags
        (rights,) = admin.get(f"/api/users/{user.name}/permissions")
        wanted = (user.configure, user.write, user.read)
        assert (rights["configure"], rights["write"], rights["read"]) == wanted
        password = (tmp_path / f"rabbitmq_password_{user.role}").read_text()
        port = urlsplit(broker.url).port
        url = f"amqp://{user.name}:{password}@{LOOPBACK}:{port}/%2F"
        close_connection(open_connection(url, name="tests", heartbeat_s=0))


def test_rabbitmq_boots_with_the_topology_of_the_workflows() -> None:
    settings = Settings()
    queues = {workflow.queue for workflow, _ in workflows_of(settings).values()}

    committed = json.loads((ROOT / "deploy/rabbitmq/topology.json").read_text())

    assert committed == definitions(queues, "/", limits_of(settings), "classic"), (
        "write it again: VELTRIX_QUEUE_TYPE=classic veltrix topology definitions"
        " > deploy/rabbitmq/topology.json"
    )
    for name in ("api-1", "relay-1", "worker-1"):
        assert all_services()[name]["environment"]["VELTRIX_QUEUE_TYPE"] == "classic"
    targets = [mount.split(":")[1] for mount in all_services()["rabbitmq"]["volumes"]]
    configured = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()
    folder = re.search(r"^load_definitions = (\S+)$", configured, re.MULTILINE)
    assert folder is not None
    assert f"{folder[1]}/20-topology.json" in targets
    assert all_services()["rabbitmq"]["secrets"][0]["target"] == f"{folder[1]}/10-users.json"


def test_rabbitmq_leaves_the_cores_it_shares_to_the_others_while_it_waits() -> None:
    environment = all_services()["rabbitmq"]["environment"]

    assert environment == {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": NO_BUSY_WAIT}


def test_rabbitmq_keeps_as_little_of_its_log_in_memory_as_the_one_that_is_measured() -> None:
    configured = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()

    assert f"raft.wal_max_size_bytes = {WAL_BYTES}\n" in configured


def test_rabbitmq_takes_no_message_that_is_larger_than_ours() -> None:
    configured = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()

    assert f"max_message_size = {MESSAGE_BYTES_MAX}\n" in configured


def test_haproxy_asks_every_api_whether_it_is_ready_and_waits_as_long_as_one_may() -> None:
    written = (ROOT / "deploy/haproxy.cfg").read_text()
    apis = {name: one for name, one in ours().items() if one["command"] == ["api"]}

    # Where no variable says otherwise, which in compose none does.
    servers = re.findall(r'^\s+server (\S+) "\$\{\w+-(\S+):(\d+)\}"$', written, re.MULTILINE)

    wanted = [(name, name, one["environment"]["VELTRIX_API_PORT"]) for name, one in apis.items()]
    assert sorted(servers) == sorted(wanted)
    assert "option httpchk GET /readyz" in written
    waits = re.search(r"timeout server (\d+)s", written)
    assert waits is not None
    assert int(waits[1]) > Settings().wait_s_max
    assert re.findall(r"retry-on (.*)", written) == ["conn-failure"], "else a start is made twice"
    checks = re.search(r"inter (\d+)s fall (\d+)", written)
    assert checks is not None
    assert int(checks[1]) * int(checks[2]) < server.LEAVE_S, (
        "else it sends to an api that has ended"
    )
    assert "environment" not in all_services()["haproxy"]
    published = all_services()["haproxy"]["ports"][0].rpartition(":")[2]
    assert re.findall(r'bind "\$\{\w+-:(\d+)\}"', written) == [published]


def test_haproxy_takes_its_file_as_it_is_and_with_other_addresses(tmp_path: Path) -> None:
    argv = ["haproxy", "-c", "-f", str(ROOT / "deploy/haproxy.cfg")]
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    moved = {
        "EVENTS_ADDRESS": f"{LOOPBACK}:{free_port()}",
        "API_1_ADDRESS": f"{LOOPBACK}:{free_port()}",
        "API_2_ADDRESS": f"{LOOPBACK}:{free_port()}",
    }

    as_it_is = subprocess.run(argv, env={"PATH": path}, check=False, capture_output=True, text=True)
    elsewhere = subprocess.run(
        argv, env={"PATH": path, **moved}, check=False, capture_output=True, text=True
    )

    assert as_it_is.returncode == 0, as_it_is.stderr
    warnings = [line for line in as_it_is.stderr.splitlines() if "[WARNING]" in line]
    assert [line for line in warnings if "could not resolve address 'api-" not in line] == []
    assert (elsewhere.returncode, "[WARNING]" in elsewhere.stderr) == (0, False)


def test_the_dockerfile_has_no_findings_and_its_process_is_no_shell_and_not_root() -> None:
    linted = subprocess.run(
        [str(BIN / "hadolint"), "--failure-threshold", "style", "Dockerfile"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    written = (ROOT / "Dockerfile").read_text()

    assert linted.returncode == 0, linted.stdout
    assert 'ENTRYPOINT ["veltrix"]' in written
    assert "--require-hashes --requirement requirements-run.txt" in written
    assert re.findall(r"^USER (.*)$", written, re.MULTILINE) == ["10001"]
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (.*) \S+$", written, re.MULTILINE)
              for word in line.split() if not word.startswith(("--", "/"))}  # fmt: skip
    taken = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied == set(taken)


def environment_of(
    name: str, secrets: Path, port: int | None = None, apis: Mapping[str, int] | None = None
) -> dict[str, str]:
    """What compose gives a service, moved to this machine: its secrets, loopback and a free port.

    On loopback an api asks for keys only when it is told to.
    """
    spec = read_compose({"VELTRIX_WORKER_CHILDREN": "2"})["services"][name]
    moved = {}
    for variable, given in spec["environment"].items():
        value = str(given or "").replace(SECRETS, str(secrets))
        if variable.endswith("_HOST"):
            value = LOOPBACK
        if variable.endswith("_DOCTOR_APIS"):
            for api, its in (apis or {}).items():
                value = value.replace(f"//{api}:8080", f"//{LOOPBACK}:{its}")
        if variable.endswith("_PORT") and port is not None:
            value = str(port)
        moved[variable] = value
    if name.startswith("api"):
        moved[f"{PREFIX}REQUIRE_KEYS"] = "true"
    return moved


class Composed:
    """Our services of the file, as processes."""

    def __init__(self, folder: Path, database_url: str, broker: Broker) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        make_secrets(self.secrets)
        make_roles(database_url, self.secrets)
        urls = {
            name: self.as_made(name, database_url)
            for name in ("database_url", "database_owner_url")
        }
        for user in users():
            password = (self.secrets / f"rabbitmq_password_{user.role}").read_text()
            amqp, management = account_of(broker, user, password)
            urls |= {f"{user.role}_broker_url": amqp, f"{user.role}_management_url": management}
        for path in self.secrets.iterdir():
            if path.name in urls:
                path.unlink()
                path.write_text(urls[path.name])
        self.ports = {name: free_port() for name in RUNNING}
        self.children: dict[str, Child] = {}
        self.supervisor = Supervisor(folder / "processes", cwd=folder)
        self._services = ours()

    def as_made(self, name: str, database_url: str) -> str:
        """The URL in this secret, with its role and password, for the database here."""
        made, here = make_url((self.secrets / name).read_text()), make_url(database_url)
        url = made.set(host=here.host, port=here.port, database=here.database)
        return url.render_as_string(hide_password=False)

    def start(self, name: str) -> Child:
        """`veltrix` as the image's entry point, with the service's command and environment."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        own = environment_of(name, self.secrets, self.ports.get(name), self.ports)
        argv = (str(BIN / "veltrix"), *self._services[name]["command"])
        environment = {**inherited, "PYTHONPATH": str(ROOT), **own}
        spec = Spec(name, argv, environment, self.log(name))
        self.children[name] = self.supervisor.start(spec)
        return self.children[name]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def run_once(self, name: str) -> None:
        child = self.start(name)
        until(lambda: not child.is_running, START_S, f"{name} to end")
        assert child.popen.returncode == 0, tail(self.log(name))

    def wait_healthy(self, name: str) -> None:
        """The service's own health check says so."""
        check = self._services[name]["healthcheck"]["test"][1:]
        assert check[0] == "python"
        moved = [re.sub(r"(//127\.0\.0\.1):\d+", rf"\1:{self.ports[name]}", part) for part in check]

        def is_healthy() -> bool:
            assert self.children[name].is_running, tail(self.log(name))
            argv = [sys.executable, *moved[1:]]
            return subprocess.run(argv, check=False, capture_output=True).returncode == 0

        until(is_healthy, START_S, f"{name} to be healthy")

    def ask(self, name: str, path: str, body: Any = None, **headers: str) -> Any:
        """Ask an api or Flower with the credentials that were made for it."""
        if name == "flower":
            login = base64.b64encode((self.secrets / "flower_basic_auth").read_bytes()).decode()
            headers["Authorization"] = f"Basic {login}"
        else:
            headers["Authorization"] = f"Bearer {(self.secrets / 'admin_key').read_text()}"
        return answer(f"http://{LOOPBACK}:{self.ports[name]}{path}", body, headers)


def make_roles(database_url: str, secrets: Path) -> None:
    """What PostgreSQL's container runs at its first start, as the superuser."""
    script = (ROOT / "deploy/postgres/roles.sql").read_text().replace(SECRETS, str(secrets))
    url = make_url(database_url).set(drivername="postgresql")
    subprocess.run(
        [_binaries() / "psql", "-q", url.render_as_string(hide_password=False)],
        input=script,
        check=True,
        text=True,
    )


def answer(url: str, body: Any, headers: dict[str, str]) -> Any:
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, raw, headers)  # noqa: S310 - http on loopback
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return json.loads(response.read())


@pytest.fixture
def composed(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, broker: Broker
) -> Iterator[Composed]:
    made = Composed(tmp_path, database_url, broker)
    made.supervisor.open()
    yield made
    made.supervisor.close(grace_s=0)
    for name in made.children:
        request.node.add_report_section("teardown", name, tail(made.log(name)))


def events_of(api: str) -> list[dict[str, Any]]:
    """Fifty events: flights, late and in time, and orders."""
    flights = {"distance": 700, "arr_delay": 200}
    order = {"id": "1", "sku": "tea", "quantity": 1, "cents": 500}
    return [
        {
            "specversion": "1.0",
            "source": f"/{api}",
            "id": f"{api}-{number}",
            "type": "flights.flight.closed" if number % 2 else "shop.order.placed",
            "data": flights if number % 2 else order | {"id": f"{api}-{number}"},
        }
        for number in range(50)
    ]


def test_what_the_file_starts_takes_events_and_settles_them(
    composed: Composed, engine: Engine
) -> None:
    metadata.create_all(engine)
    with engine.begin() as tx:  # the author's own table
        tx.execute(text("grant insert on flight_compensations to veltrix_app"))
    for name in ONCE:
        composed.run_once(name)
    for name in RUNNING:
        composed.start(name)
    for name in RUNNING:
        composed.wait_healthy(name)

    for api in ("api-1", "api-2"):
        batch = {"Content-Type": "application/cloudevents-batch+json"}
        assert composed.ask(api, "/v1/events", events_of(api), **batch)["accepted"] == 50

    books: dict[str, Any] = {}

    def is_settled() -> bool:
        books.update(composed.ask("api-2", "/v1/balance"))
        return bool(books["runs"]["open"] == 0)

    until(is_settled, START_S, "every run to be settled")
    assert books["events"] == {"accepted": 100, "routed": 100, "unrouted": 0}
    assert books["runs"]["succeeded"] == 100
    assert books["unaccounted"] == 0
    with engine.connect() as tx:
        assert tx.scalar(text("select sum(cents) from flight_compensations")) == 50 * 25_000
        logged_in = tx.execute(
            text(
                "select distinct usename from pg_stat_activity where datname = current_database()"
                " and application_name like 'veltrix%'"
            )
        )
        assert logged_in.scalars().all() == ["veltrix_app"]
    assert not [name for name in RUNNING if "role.powerful" in composed.log(name).read_text()]
    names = {"worker-1@veltrix", "worker-2@veltrix"}
    until(lambda: names <= set(composed.ask("flower", "/api/workers")), what="Flower to see both")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answer(f"http://{LOOPBACK}:{composed.ports['api-1']}/v1/balance", None, {})

    def is_watched_and_well() -> bool:
        report.update(composed.ask("api-1", "/v1/doctor"))
        out = {one["api"] for one in report["canaries"] if one["ending"] == "out"}
        found.clear()  # what the first look met while all of it began is gone soon
        found.update(
            (one["finding"]["id"], one["finding"]["found"])
            for one in report["findings"]
            if not one["finding"]["accepted"]
        )
        return len(out) == 2 and set(found) == {"D08"}  # PostgreSQL waits for no disk here

    report: dict[str, Any] = {}
    found: dict[str, str] = {}
    until(is_watched_and_well, 2 * START_S, "a canary through each api, and no fault")
    implied = {one["finding"]["id"] for one in report["findings"] if one["finding"]["accepted"]}
    assert implied <= {"B09", "B10", "B18"}
    # What RabbitMQ tells administrators only.
    assert {one["id"] for one in report["look"]["not_checked"]} <= {"B14", "B20"}

    for name in RUNNING:
        assert "ACCESS_REFUSED" not in composed.log(name).read_text(), name
    ready = answer(f"http://{LOOPBACK}:{composed.ports['relay-1']}/readyz", None, {})
    assert (ready["policies"], ready["troubles"]) == ("kept", {})

    assert composed.supervisor.close(LEAVE_S) == [], "not all ended by themselves after SIGTERM"
