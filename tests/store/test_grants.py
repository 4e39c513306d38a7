"""SQL in the platform's name adds to the audit; it changes neither it nor what guards it."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

import veltrix.store.access_tables
import veltrix.store.doctor_tables
import veltrix.store.failure_tables
import veltrix.store.history.dropped_tables
import veltrix.store.history.retention_tables
import veltrix.store.replay_tables  # noqa: F401 - its tables join the metadata
from tests.support.due_runs import add_runs
from tests.support.roles import Roles, make_roles
from veltrix.access.audit import Audited, append
from veltrix.access.audit_check import verify
from veltrix.bootstrap import say_powers
from veltrix.settings.fields import Settings
from veltrix.store.grants import APP, READ, RolesRefused, give, grants, powers
from veltrix.store.tables import metadata
from veltrix.store.transactions import make_engine, transaction

ROW = Audited(author="ops", action="run.cancel", reason="r", target="run")
COLUMNS = "author, action, target, reason, request, run_ids, runs, result, is_refused"
VALUES = "'o', 'a', 't', '', '{}', '{}', 0, '{}', false"
OF_OWNER = {"drop.py", "drop_rows.py", "lines.py"}  # a drop is by the tables' owner alone
FORBIDDEN = [
    "update audit set author = 'nobody'",
    "update audit set hash = null where false",
    "delete from audit",
    "truncate audit",
    "alter table audit disable trigger all",
    "alter table audit disable trigger audit_is_append_only",
    "alter table audit drop column hash",
    "alter table audit owner to current_user",
    "drop trigger audit_is_numbered on audit",
    "drop table audit",
    "drop function audit_number() cascade",
    "create trigger mine before insert on audit for each row execute function audit_refuse()",
    "create rule mine as on insert to audit do instead nothing",
    "create or replace function audit_number() returns trigger language plpgsql as 'begin end'",
    "create or replace function audit_link(bytea, audit) returns bytea return $1",
    "set session_replication_role = replica",
    "update audit_numbers set last = 7",
    "delete from audit_numbers",
    "select from audit_numbers for update",
    f"insert into audit (id, {COLUMNS}) overriding system value values (7, {VALUES})",
    f"insert into audit (at, {COLUMNS}) values ('2020-01-01', {VALUES})",
    f"insert into audit (hash, {COLUMNS}) values ('', {VALUES})",
    "copy audit from stdin",
    "create table mine ()",
    "create schema mine",
    "delete from runs",
    "delete from journal",
    "update actions set author = 'nobody'",
    "update alembic_version set version_num = '1'",
]


@pytest.fixture
def roles(database_url: str) -> Roles:
    return make_roles(database_url)


def refused(url: str, *statements: str) -> dict[str, str]:
    """What the server says to each of these; it must refuse them all."""
    said = {}
    with create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as tx:
        for statement in statements:
            with pytest.raises(DBAPIError) as caught:
                tx.exec_driver_sql(statement)
            said[statement] = str(caught.value.orig)
    return said


def test_the_platforms_role_adds_to_the_audit_and_cannot_change_it(
    roles: Roles, engine: Engine
) -> None:
    as_app = make_engine(roles.app, application="tests")
    with transaction(as_app) as tx:
        append(tx, [ROW, ROW])

    said = refused(roles.app, *FORBIDDEN, f"set role {roles.name('owner')}")

    right = re.compile("permission denied|must be (owner|able)")
    assert [one for one in said.items() if not right.search(one[1])] == []
    with transaction(engine, snapshot=True) as tx:
        found = verify(tx)
    assert (found.rows, found.is_whole) == (2, True)


def test_no_role_makes_a_canary_of_an_event_to_have_it_deleted(
    roles: Roles, engine: Engine
) -> None:
    (run_id,) = add_runs(engine, 1)
    as_app = make_engine(roles.app, application="tests")
    with transaction(as_app) as tx:
        tx.exec_driver_sql(
            "insert into canaries (id, queue, api, sent_at, event_id, ending, ended_at) select"
            " 'x', 'q', 'a', now() - interval '2 hours', event_id, 'out', now() from runs"
        )
    said = refused(
        roles.app,
        "update events set account_id = -2",
        "update runs set account_id = -2",
        "alter table events disable trigger all",
        "drop function canary_keeps() cascade",
    )
    assert "does not become a canary" in said["update events set account_id = -2"]
    forget = "select forget_canaries('-1 day', 1000000)"
    assert "permission denied" in refused(roles.read, forget)[forget]
    with transaction(as_app) as tx:
        tx.exec_driver_sql(forget)
    with transaction(engine) as tx:
        assert tx.exec_driver_sql("select id::text from runs").scalars().all() == [run_id]
        assert tx.exec_driver_sql("select count(*) from events").scalar_one() == 1


def test_what_a_session_has_of_its_own_is_not_what_the_trigger_reads(roles: Roles) -> None:
    as_app = make_engine(roles.app, application="tests")
    with transaction(as_app) as tx:
        append(tx, [ROW])
        tx.exec_driver_sql("create temporary table audit_numbers (last bigint, hash bytea)")
        tx.exec_driver_sql("insert into audit_numbers values (998, '\\x00')")
        tx.exec_driver_sql(
            "create function pg_temp.clock_timestamp() returns timestamptz language sql"
            " as $$select '2020-01-01'::timestamptz$$"
        )
        tx.exec_driver_sql("set search_path = pg_temp, public")
        append(tx, [ROW])

    with transaction(make_engine(roles.owner, application="tests"), snapshot=True) as tx:
        found = verify(tx)
        rows = tx.exec_driver_sql(
            "select id, now() - at < interval '1 hour' from audit order by id"
        ).all()

    assert rows == [(1, True), (2, True)]
    assert found.is_whole


def test_numbers_are_taken_by_no_table_but_the_audit(roles: Roles, engine: Engine) -> None:
    with transaction(engine) as tx:  # as a restore without privileges leaves it
        tx.exec_driver_sql("grant execute on function audit_number() to public")
        said = powers(tx, roles.name("app"))
    assert said is not None
    assert "execute on audit_number" in said.said
    with transaction(make_engine(roles.owner, application="tests")) as tx:
        give(tx, roles.name("app"), roles.name("read"))

    trigger = (
        "create trigger mine before insert on mine for each row execute function audit_number()"
    )
    with create_engine(roles.app, poolclass=NullPool).connect() as tx:
        tx.exec_driver_sql("create temporary table mine (like audit)")
        with pytest.raises(DBAPIError, match="permission denied for function audit_number"):
            tx.exec_driver_sql(trigger)


def test_who_reads_sees_what_opens_no_door_and_writes_nothing(roles: Roles) -> None:
    said = refused(
        roles.read,
        "select hash from api_keys",
        "select * from api_keys",
        "select csrf from sessions",
        *(f"insert into {table} default values" for table in READ.keys() - {"prove_effects"}),
        "update runs set reason = ''",
        "create table mine ()",
    )

    assert [one for one in said.items() if "permission denied" not in one[1]] == []
    with transaction(make_engine(roles.read, application="tests")) as tx:
        for table in READ.keys() - {"prove_effects", "api_keys"}:
            tx.exec_driver_sql(f"select * from {table}")
        tx.exec_driver_sql("select name, scopes, revoked_at from api_keys")


def test_each_statement_of_ours_has_its_right_and_no_table_is_forgotten() -> None:
    written = re.compile(r"\b(insert into|update|delete from|lock table) (\w+)")
    needs = {"insert into": "insert", "update": "update", "delete from": "delete"}
    folders = [
        p for p in Path("app/veltrix").iterdir() if p.is_dir() and p.name not in {"dev", "prove"}
    ]
    found = {
        (table, needs.get(verb, "update"))
        for folder in folders
        for path in folder.rglob("*.py")
        if path.name not in OF_OWNER
        for verb, table in written.findall(path.read_text())
        if table in metadata.tables
    }

    assert metadata.tables.keys() | {"alembic_version", "prove_effects"} == APP.keys()
    assert len(found) > 40
    assert {one for one in found if not any(one[1] in right for right in APP[one[0]])} == set()
    given = {(t, right) for t, rights in APP.items() for right in rights} - {
        ("prove_effects", "insert"),
        ("api_keys", "insert"),
        ("api_keys", "update"),
        *((table, right) for table, right in upserted()),
    }
    assert {one for one in given if one[1] in needs.values()} - found == set()


def upserted() -> set[tuple[str, str]]:
    """What `on conflict do update` needs."""
    tables = (
        *("answers", "counter_days", "counter_totals", "counters", "failure_hours"),
        *("retention_policies", "workers"),
    )
    return {(table, "update") for table in tables}


def test_rights_are_given_again_and_what_was_given_beside_them_goes(
    roles: Roles, engine: Engine
) -> None:
    with transaction(engine) as tx:
        tx.exec_driver_sql(f"grant update, truncate on audit to {roles.name('app')}")
        tx.exec_driver_sql(f"grant update (author) on audit to {roles.name('app')}")
        tx.exec_driver_sql("grant delete on runs to public")
        said = powers(tx, roles.name("app"))
        tx.exec_driver_sql(f"revoke update, truncate on audit from {roles.name('app')}")
        tx.exec_driver_sql(f"grant update (author) on audit to {roles.name('app')}")
        of_column = powers(tx, roles.name("app"))

    with transaction(make_engine(roles.owner, application="tests")) as tx:
        give(tx, roles.name("app"), None)
        assert powers(tx, roles.name("app")) is None

    assert said is not None
    assert of_column is not None
    assert "truncate on audit, update on audit" in said.said
    left = refused(roles.app, "update audit set author = ''", "delete from runs")
    assert all("permission denied" in one for one in left.values())


def test_a_schema_may_have_any_name(engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.exec_driver_sql('create schema "My-schema x"')
        tx.exec_driver_sql('set local search_path = "My-schema x"')
        tx.exec_driver_sql("create table audit ()")
        said = grants(tx, "one", None)
        with pytest.raises(RolesRefused, match="there is no role 'one'"):
            give(tx, "one", None)

    assert 'grant usage on schema "My-schema x" to "one"' in said


def test_a_role_that_no_grant_binds_is_refused_and_nothing_is_given(
    roles: Roles, engine: Engine
) -> None:
    app, read, owner = roles.name("app"), roles.name("read"), roles.name("owner")
    with transaction(engine) as tx:
        tx.exec_driver_sql(f"create role {app}_joined in role {owner}")
        tx.exec_driver_sql(f"create role {app}_maker createrole")
        tx.exec_driver_sql(f"create role {app}_writer in role pg_write_all_data")
        tx.exec_driver_sql(f"create role {app}_shell in role pg_execute_server_program")
        # By `set role` alone: what these are members of they do not inherit.
        for mighty in ("super", "maker", "writer"):
            tx.exec_driver_sql(f"create role {app}_becomes_{mighty} noinherit")
        tx.exec_driver_sql(f"grant postgres to {app}_becomes_super")
        tx.exec_driver_sql(f"grant {app}_maker to {app}_becomes_maker")
        tx.exec_driver_sql(f"grant {app}_writer to {app}_becomes_writer")
    made = [f"{app}_{name}" for name in ("joined", "maker", "writer", "shell")]
    made += [f"{app}_becomes_{name}" for name in ("super", "maker", "writer")]
    told = {}
    for name in ("postgres", owner, *made, 'no "such'):
        with pytest.raises(RolesRefused) as caught, transaction(engine) as tx:
            give(tx, name, read)
        told[name] = str(caught.value)

    assert "is a superuser" in told["postgres"]
    assert f"can act as the owner '{owner}'" in told[owner]
    assert f"can act as the owner '{owner}'" in told[f"{app}_joined"]
    assert "can make roles" in told[f"{app}_maker"]
    assert "update on audit" in told[f"{app}_writer"]
    assert "can act as 'pg_execute_server_program'" in told[f"{app}_shell"]
    assert "can act as 'postgres'" in told[f"{app}_becomes_super"]
    assert "can make roles" in told[f"{app}_becomes_maker"]
    assert "update on audit" in told[f"{app}_becomes_writer"]
    assert 'create role "no ""such" login' in told['no "such']
    with pytest.raises(RolesRefused, match="cannot be both"), transaction(engine) as tx:
        give(tx, read, read)
    as_app = make_engine(roles.app, application="tests")
    with pytest.raises(RolesRefused, match="cannot grant"), transaction(as_app) as tx:
        give(tx, app, read)


def test_a_process_warns_of_a_role_that_can_change_the_audit_unless_it_is_meant(
    roles: Roles, database_url: str
) -> None:
    def said(**urls: str) -> list[str]:
        settings = Settings.model_validate(urls)
        engine = make_engine(urls["database_url"], application="tests")
        with capture_logs() as lines:
            say_powers(settings, engine)
        return [f"{line['event']} {line['role']}" for line in lines]

    assert said(database_url=roles.app) == []
    assert said(database_url=roles.read) == []
    assert said(database_url=roles.owner) == [f"role.powerful {roles.name('owner')}"]
    assert said(database_url=database_url) == ["role.powerful postgres"]
    assert said(database_url=database_url, database_owner_url=roles.owner) != []
    assert said(database_url=database_url, database_owner_url=database_url) == []
    assert said(database_url=database_url.replace("@127.0.0.1:", "@127.0.0.1:1")) == []
