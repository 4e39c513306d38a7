"""`veltrix config`, `db`, `keys`, `workflows` and `topology`."""

from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import Engine
from sqlalchemy import text as sql

from tests.commands.conftest import Veltrix
from tests.support.due_runs import subscribe
from tests.support.services import Broker, Services
from veltrix import telemetry
from veltrix.settings.fields import PREFIX
from veltrix.store.schema import head
from veltrix.store.transactions import transaction


def test_config_shows_each_setting_with_its_origin_and_no_password(
    unset_veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VELTRIX_DATABASE_URL", "postgresql://me:secret1@db/veltrix")
    (tmp_path / "broker").write_text("amqp://me:secret2@mq/v")
    monkeypatch.setenv("VELTRIX_BROKER_URL_FILE", str(tmp_path / "broker"))
    (tmp_path / ".env").write_text("VELTRIX_API_PORT=9000\nVELTRIX_PLAIN_HOSTS=db,mq\n")

    ran = unset_veltrix("config", "--json")
    text = unset_veltrix("config")

    rows = {row["name"]: (row["value"], row["origin"]) for row in ran.json}
    assert rows["VELTRIX_DATABASE_URL"] == (
        "postgresql+psycopg://me:***@db/veltrix",
        "environment",
    )
    assert rows["VELTRIX_BROKER_URL"] == ("amqp://me:***@mq/v", "file")
    assert rows["VELTRIX_API_PORT"] == ("9000", ".env")
    assert rows["VELTRIX_RELAY_PORT"] == ("8081", "default")
    assert "secret" not in ran.out + text.out


def test_commands_find_the_dev_of_their_folder_unless_told_otherwise(
    unset_veltrix: Veltrix,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database_url: str,
) -> None:
    (tmp_path / ".veltrix").mkdir()
    (tmp_path / ".veltrix" / "env").write_text(
        f"export VELTRIX_DATABASE_URL='{database_url}'\nexport VELTRIX_API_PORT='9123'\n"
    )

    found = {row["name"]: row for row in unset_veltrix("config", "--json").json}

    assert unset_veltrix("runs", "--json").json["items"] == []
    assert found["VELTRIX_DATABASE_URL"]["origin"] == "veltrix dev"
    assert (found["VELTRIX_API_PORT"]["value"], found["VELTRIX_API_PORT"]["origin"]) == (
        "9123",
        "veltrix dev",
    )

    monkeypatch.setenv("VELTRIX_DATABASE_URL", "postgresql://me@127.0.0.1:1/other")
    told = {row["name"]: row for row in unset_veltrix("config", "--json").json}
    assert told["VELTRIX_DATABASE_URL"]["origin"] == "environment"
    assert told["VELTRIX_API_PORT"]["origin"] == "default", "nothing of dev beside another database"
    assert unset_veltrix("runs").code == 2


def test_db_brings_an_empty_database_to_the_newest_version_and_back(
    unset_veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", services.postgres.ensure_database("commands_empty"))
    empty = unset_veltrix("db", "current", "--json")
    tables = unset_veltrix("runs")
    up = unset_veltrix("db", "upgrade")
    current = unset_veltrix("db", "current", "--json")
    asked = unset_veltrix("db", "downgrade", "base")
    down = unset_veltrix("db", "downgrade", "base", "--yes")
    services.postgres.drop_database("commands_empty")

    assert (empty.code, empty.json["revision"]) == (1, None)
    assert tables.code == 2
    assert "veltrix db upgrade" in tables.err
    assert up.code == 0
    assert (current.code, current.json["revision"]) == (0, head())
    assert asked.code == 1, "nobody said yes"
    assert down.code == 0


def test_db_upgrade_makes_the_table_of_prove_when_it_is_to_be_proved(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    def has_table() -> bool:
        with transaction(engine) as tx:
            found = tx.execute(sql("select to_regclass('prove_effects') is not null"))
            return bool(found.scalar_one())

    plain = veltrix("db", "upgrade")
    assert (plain.code, has_table()) == (0, False)
    monkeypatch.setenv(f"{PREFIX}PROVE", "1")

    assert [veltrix("db", "upgrade").code, veltrix("db", "upgrade").code] == [0, 0]
    assert has_table()


def test_a_key_is_shown_once_and_can_be_revoked(veltrix: Veltrix) -> None:
    made = veltrix("keys", "create", "shop", "--scope", "events:write", "--author", "ann")
    again = veltrix("keys", "create", "shop", "--scope", "admin")
    listed = veltrix("keys", "list", "--json")

    assert made.code == 0
    token = made.out.strip()
    assert token.startswith("vx_")
    assert len(token) == 67
    assert again.code == 2
    assert "taken" in again.err
    assert token not in listed.out
    assert [(k["name"], k["scopes"], k["created_by"]) for k in listed.json] == [
        ("shop", ["events:write"], "ann")
    ]
    assert veltrix("keys", "revoke", "shop").code == 0
    assert veltrix("keys", "revoke", "shop").code == 1
    assert veltrix("keys", "list", "--json").json[0]["revoked_at"] is not None


def test_a_key_is_made_with_limits_which_are_listed_and_in_the_audit(veltrix: Veltrix) -> None:
    bound = ["--source", "/shop/*", "--source", "/till", "--type", "shop.*", "--workflow", "a*"]
    limits = {
        "sources": ["/shop/*", "/till"],
        "types": ["shop.*"],
        "workflows": ["a*"],
        "rate": 2.5,
        "burst": 7,
        "body_bytes_max": 1000,
    }
    sizes = ["--rate", "2.5", "--burst", "7", "--body-bytes-max", "1000"]
    ends = ["--expires", "13d"]
    made = veltrix("keys", "create", "shop", "--scope", "events:write", *bound, *sizes, *ends)
    later = ["--expires", "2099-01-31T12:00:00Z"]
    veltrix("keys", "create", "free", "--scope", "metrics:read", *later)
    listed = veltrix("keys", "list", "--json")
    table = veltrix("keys", "list")
    (row,) = (one for one in veltrix("audit", "--json").json["items"] if one["target_id"] == "shop")

    assert made.code == 0
    free, shop = listed.json
    assert (free["limits"], free["expires_at"]) == (None, "2099-01-31T12:00:00Z")
    assert shop["limits"] == limits
    assert row["request"]["limits"] == limits
    assert row["request"]["expires_at"] == shop["expires_at"].replace("Z", "+00:00")
    assert "sources=/shop/*|/till" in table.out
    assert ["shop" in line for line in table.err.splitlines()] == [True], "it expires soon"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source", ""],
        ["--rate", "0"],
        ["--burst", "5"],
        ["--body-bytes-max", "-1"],
        ["--expires", "soon"],
        ["--expires", "2020-01-01T00:00:00Z"],
        ["--expires", "999999999d"],
    ],
)
def test_a_key_with_impossible_limits_is_not_made(veltrix: Veltrix, arguments: list[str]) -> None:
    assert veltrix("keys", "create", "shop", "--scope", "events:write", *arguments).code == 2
    assert veltrix("keys", "list", "--json").json == []


@pytest.mark.parametrize(
    "arguments", [["shop"], ["shop", "--scope", "all"], ["", "--scope", "admin"]]
)
def test_a_key_needs_a_name_and_scopes_there_are(veltrix: Veltrix, arguments: list[str]) -> None:
    assert veltrix("keys", "create", *arguments).code == 2


def test_workflows_are_registered_listed_and_retired(veltrix: Veltrix) -> None:
    registered = veltrix("workflows", "register", "--json").json
    again = veltrix("workflows", "register", "--json").json
    listed = veltrix("workflows", "list", "--json").json

    assert registered["new"] == registered["registered"] == [row["workflow"] for row in listed]
    assert again["new"] == []
    assert "fulfil_order" in registered["registered"]
    assert "shop.order.placed" in veltrix("workflows", "list").out

    asked = veltrix("workflows", "retire", "fulfil_order")
    retired = veltrix("workflows", "retire", "fulfil_order", "nobody", "--yes", "--json")
    assert asked.code == 1
    assert retired.code == 1
    assert retired.json == {"retired": ["fulfil_order"], "unknown": ["nobody"]}
    assert "fulfil_order" not in veltrix("workflows", "list").out


def test_a_module_without_workflows_is_a_sentence(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELTRIX_WORKFLOWS", "no_such_module")

    ran = veltrix("workflows", "register")

    assert ran.code == 2
    assert "no_such_module" in ran.err


def test_workflows_that_can_never_run_are_all_named_and_nothing_is_registered(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELTRIX_WORKFLOWS", "tests.commands.mistaken_workflows")

    ran = veltrix("workflows", "register")

    assert ran.code == 2
    assert "'of_a_client'" in ran.err
    assert "nothing can make its input type from JSON (dict[str, " in ran.err
    assert "'of_a_parcel'" in ran.err
    assert "names what is not there when the code runs" in ran.err
    assert "'of_an_order'" in ran.err
    assert "it is given an event, not Order: annotate it as Event[Order]" in ran.err
    assert "'good'" not in ran.err
    assert veltrix("workflows", "list", "--json").json == []


def test_an_error_of_the_authors_module_is_a_sentence_with_its_line(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_at_import.py").write_text("x = 1\n\ny = nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("VELTRIX_WORKFLOWS", "broken_at_import")

    ran = veltrix("workflows", "register")

    said = "veltrix: broken_at_import.py:3: NameError: name 'nowhere' is not defined\n"
    assert (ran.code, ran.err) == (2, said)


def test_topology_is_planned_applied_and_shown(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, engine: Engine, broker: Broker
) -> None:
    monkeypatch.setenv(f"{PREFIX}BROKER_URL", broker.url)
    monkeypatch.setenv(f"{PREFIX}MANAGEMENT_URL", broker.management_url)
    subscribe(engine, "fulfil", queue="orders")

    before = veltrix("topology", "plan", "--json")
    applied = veltrix("topology", "apply")
    after = veltrix("topology", "plan", "--json")
    shown = veltrix("topology", "show", "--json").json

    assert before.code == 1
    assert "declare queue orders" in [one["change"] for one in before.json]
    assert applied.code == 0
    assert "declare queue orders" in applied.lines
    assert (after.code, after.json) == (0, [])
    assert {queue["name"]: queue["type"] for queue in shown["queues"]}["orders"] == "quorum"
    assert {policy["name"] for policy in shown["policies"]} == {"veltrix.runs", "veltrix.dead"}


def test_topology_without_management_says_what_it_cannot_see(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, broker: Broker
) -> None:
    monkeypatch.setenv(f"{PREFIX}BROKER_URL", broker.url)

    ran = veltrix("topology", "apply", "--queues", "orders,flights")

    assert ran.code == 0
    assert "VELTRIX_MANAGEMENT_URL" in ran.err
    shown = veltrix("topology", "show", "--queues", "orders", "--json").json
    assert {queue["name"] for queue in shown["queues"]} >= {"orders"}
    assert shown["policies"] is None


def test_definitions_need_neither_database_nor_broker(unset_veltrix: Veltrix) -> None:
    document = unset_veltrix("topology", "definitions", "--queues", "orders", "--vhost", "v").json

    assert {queue["name"] for queue in document["queues"]} >= {"orders", "veltrix.dead"}
    assert {policy["vhost"] for policy in document["policies"]} == {"v"}
    assert unset_veltrix("topology", "definitions").code == 0
    assert unset_veltrix("topology", "definitions", "--queues", "amq.gen").code == 2
    assert unset_veltrix("topology", "plan", "--queues", "orders").code == 2, "no broker is named"


def test_the_operating_page_says_what_to_do_for_every_metric() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operating.md").read_text()
    metrics = {
        next(iter(collector.describe())).name
        for collector in vars(telemetry).values()
        if isinstance(collector, Counter | Gauge | Histogram)
    }

    assert len(metrics) > 20
    assert {name for name in metrics if f"`{name}`" not in page} == set()
