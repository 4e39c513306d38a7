"""What each role may do to our tables: the platform what its statements do, readers read.

The tables belong to an owner, who migrates and whom no process of the platform logs in as. So SQL
in the platform's name, whoever wrote it, can add to the audit, and not change it, number it, date
it, or take its triggers away.
"""

from collections.abc import Collection, Iterator, Mapping

import msgspec
from sqlalchemy import Connection

from veltrix.store.access_tables import api_keys
from veltrix.store.arrays import TextArray
from veltrix.store.connections import execute_plain
from veltrix.store.tables import ADVISORY_LOCK

_READ, _ADD, _CHANGE, _REMOVE = "select", "insert", "update", "delete"
# What is said of a row; its id, time and hash are the trigger's.
_AUDITED = (
    "insert (author, action, target, target_id, reason, request, run_ids, runs, runs_digest,"
    " result, is_refused)"
)
APP: Mapping[str, tuple[str, ...]] = {
    "accounts": (_READ, _ADD, _CHANGE),
    "actions": (_READ, _ADD),
    "alembic_version": (_READ,),
    "answers": (_READ, _ADD, _CHANGE, _REMOVE),
    "api_keys": (_READ, _ADD, _CHANGE),
    "audit": (_READ, _AUDITED),
    "audit_numbers": (_READ,),
    "canaries": (_READ, _ADD, _CHANGE, _REMOVE),
    "counter_days": (_READ, _ADD, _CHANGE),
    "counter_deltas": (_READ, _ADD, _REMOVE),
    "counter_totals": (_READ, _ADD, _CHANGE),
    "counters": (_READ, _ADD, _CHANGE, _REMOVE),
    "dead_letters": (_READ, _ADD, _CHANGE, _REMOVE),
    "doctor_findings": (_READ, _ADD, _CHANGE, _REMOVE),
    "doctor_looks": (_READ, _ADD, _CHANGE),
    "dropped": (_READ, _ADD, _REMOVE),
    "edits": (_READ, _ADD),
    "events": (_READ, _ADD, _CHANGE),
    "failed_attempts": (_READ, _ADD, _CHANGE),
    "failure_deltas": (_READ, _ADD, _REMOVE),
    "failure_groups": (_READ, _ADD, _CHANGE, _REMOVE),
    "failure_hours": (_READ, _ADD, _CHANGE, _REMOVE),
    "failure_notes": (_READ, _ADD),
    "identities": (_READ, _ADD),
    "journal": (_READ, _ADD),
    "ledger": (_READ,),
    "ledger_lines": (_READ,),
    "prove_effects": (_READ, _ADD),
    "releases": (_READ, _ADD, _CHANGE, _REMOVE),
    "replay_runs": (_READ, _ADD, _CHANGE, _REMOVE),
    "replays": (_READ, _ADD, _CHANGE, _REMOVE),
    "retention_policies": (_READ, _ADD, _CHANGE),
    "retention_touched": (_READ,),
    "retention_drops": (_READ,),
    "runs": (_READ, _ADD, _CHANGE),
    "secrets": (_READ,),
    "sessions": (_READ, _ADD, _REMOVE),
    "subscriptions": (_READ, _ADD, _CHANGE, _REMOVE),
    "workers": (_READ, _ADD, _CHANGE, _REMOVE),
}
# Who reads sees payloads, and nothing that opens a door.
_NOT_READ = {"secrets", "sessions"}
READ: Mapping[str, tuple[str, ...]] = {
    **{table: (_READ,) for table in APP if table not in _NOT_READ},
    "api_keys": (f"select ({', '.join(c.name for c in api_keys.columns if c.name != 'hash')})",),
}

_FORGET = "forget_canaries(interval, int)"  # what the platform alone may do
_MAKE_DAY = "make_day(date, bigint)"  # of the ledger's tables, which are the owner's
_IDS = "failed_attempts_ids"
_NUMBER = "audit_number()"  # as a trigger of another table it would take numbers of the audit
_THERE = """
select current_schema(), to_regprocedure(%(number)s) is not null,
    to_regprocedure(%(forget)s) is not null, to_regprocedure(%(make_day)s) is not null, array(
    select c.relname::text from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relkind in ('r', 'p')
        and c.relname = any(%(tables)s)
), array(
    select t.relid::regclass::text
    from unnest(%(tables)s) as k(name) cross join lateral pg_partition_tree(to_regclass(k.name)) t
    where t.level > 0 order by 1
)
"""
_OTHERS = """
select r.rolname::text, session_user::text from pg_class c join pg_roles r on r.oid = c.relowner
where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = any(%(tables)s)
    and not pg_has_role(session_user, c.relowner, 'usage') limit 1
"""
_ROLES = "select rolname::text from pg_roles where rolname = any(%(roles)s)"
# Who owns the schema or the database may drop what is in it; who owns a function may replace it.
# Who starts programs or writes files on the server does so as PostgreSQL itself. A role can be what
# it is a member of by `set role`, also where it inherits nothing.
_POWERS = """
with ours as (
    select c.oid, c.relname, c.relowner, c.relnamespace from pg_class c
    where c.oid in (to_regclass('audit'), to_regclass('audit_numbers'))
), owners as (
    select relowner as oid from ours
    union select n.nspowner from pg_namespace n join ours on n.oid = ours.relnamespace
    union select p.proowner from pg_trigger t join pg_proc p on p.oid = t.tgfoid
        join ours on ours.oid = t.tgrelid
    union select datdba from pg_database where datname = current_database()
), asked as (
    select r.oid, r.rolname, r.rolsuper from pg_roles r
    where r.rolname = coalesce(%(role)s, session_user) and exists (select from ours)
), can_be as (
    select o.*, o.oid in (select oid from owners) as is_owner,
        o.rolname in ('pg_execute_server_program', 'pg_write_server_files') as is_server
    from pg_roles o where pg_has_role((select oid from asked), o.oid, 'member')
)
select asked.rolname::text, asked.rolsuper, array(
    select rolname::text from can_be where is_owner order by starts_with(rolname, 'pg_'), 1
), array(
    select rolname::text from can_be where rolsuper or is_server order by 1
), (select bool_or(rolcreaterole) from can_be), array(
    select distinct p || ' on ' || ours.relname
    from ours, can_be, unnest(array['update', 'delete', 'truncate', 'trigger']) p
    where has_table_privilege(can_be.oid, ours.oid, p)
        or p = 'update' and has_any_column_privilege(can_be.oid, ours.oid, p)
    union select 'execute on audit_number'
    from can_be where has_function_privilege(can_be.oid, to_regprocedure(%(number)s), 'execute')
    order by 1
)
from asked
"""


class RolesRefused(Exception):
    """These roles cannot be what was asked; the message says why and what to do."""


class Powers(msgspec.Struct, frozen=True):
    """What a role can do to the audit besides adding to it, in words."""

    role: str
    said: str


def grants(tx: Connection, app: str | None, read: str | None) -> list[str]:
    """The statements that give these roles what they need of the tables there are, and no more.

    They can be run again: after each upgrade, for the tables that came with it.
    """
    if app is None and read is None:
        raise RolesRefused("name a role: --app for the platform, --read for who only reads")
    if app == read:
        raise RolesRefused(
            f"{app!r} cannot be both; make one role that reads and another that writes"
        )
    known = {
        "tables": TextArray(list(APP)),
        "number": _NUMBER,
        "forget": _FORGET,
        "make_day": _MAKE_DAY,
    }
    found = tx.exec_driver_sql(_THERE, known).one()
    schema, is_numbered, has_canaries, has_days, there, parts = found
    if schema is None or "audit" not in there:
        raise RolesRefused("the database has none of our tables; run `veltrix db upgrade` first")
    statements = list(_statements(schema, there, parts, app, read))
    if is_numbered:  # a restore without privileges gives it to all
        roles = ", ".join(quoted(role) for role in (app, read) if role is not None)
        statements.append(
            f"revoke execute on function {quoted(schema)}.{_NUMBER} from public, {roles}"
        )
    for function, is_there in ((_FORGET, has_canaries), (_MAKE_DAY, has_days)):
        if is_there:
            statements += _for_app_alone(
                "execute", f"function {quoted(schema)}.{function}", app, read
            )
    if has_days:
        statements += _for_app_alone("usage", f"sequence {quoted(schema)}.{_IDS}", app, read)
    return statements


def _for_app_alone(right: str, what: str, app: str | None, read: str | None) -> Iterator[str]:
    yield f"revoke {right} on {what} from public"
    if read is not None:
        yield f"revoke {right} on {what} from {quoted(read)}"
    if app is not None:
        yield f"grant {right} on {what} to {quoted(app)}"


def give(tx: Connection, app: str | None, read: str | None) -> list[str]:
    """Run those statements, as the tables' owner; they count when the transaction is committed.

    Raises RolesRefused for a role that is not there, or that can change the audit all the same.
    """
    tx.exec_driver_sql("select pg_advisory_xact_lock(%(key)s)", {"key": ADVISORY_LOCK})
    statements = grants(tx, app, read)
    other = tx.exec_driver_sql(_OTHERS, {"tables": TextArray(list(APP))}).one_or_none()
    if other is not None:  # PostgreSQL would only warn
        raise RolesRefused(
            f"{other[1]!r} cannot grant: {other[0]!r} owns our tables; set"
            " VELTRIX_DATABASE_OWNER_URL to a URL of that role"
        )
    roles = [role for role in (app, read) if role is not None]
    known = tx.exec_driver_sql(_ROLES, {"roles": TextArray(roles)})
    if unknown := sorted(set(roles) - set(known.scalars())):
        raise RolesRefused(
            f"there is no role {unknown[0]!r}; make it first: create role {quoted(unknown[0])}"
            " login password '...'"
        )
    execute_plain(tx, "; ".join(statements))
    for role in roles:
        if (found := powers(tx, role)) is not None:
            raise RolesRefused(
                f"role {role!r} {found.said} whatever it is granted; name a role that is no"
                " superuser, makes no roles and owns neither our tables nor their database"
            )
    return statements


def powers(tx: Connection, role: str | None = None) -> Powers | None:
    """What this role (None: the one of this session) can do to the audit; None: only add to it."""
    found = tx.exec_driver_sql(_POWERS, {"role": role, "number": _NUMBER}).one_or_none()
    if found is None:  # before the first migration
        return None
    name, is_super, owners, mighty, makes_roles, rights = found
    if is_super:
        return Powers(name, "is a superuser, so it can change the audit")
    if owners:
        return Powers(name, f"can act as the owner {owners[0]!r}, so it can change the audit")
    if mighty:
        return Powers(name, f"can act as {mighty[0]!r}, so it can change the audit")
    if makes_roles:
        return Powers(name, "can make roles and join them, so it can change the audit")
    if rights:
        return Powers(name, f"can change the audit (it has {', '.join(rights)})")
    return None


def quoted(name: str) -> str:
    """The name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _statements(
    schema: str,
    there: Collection[str],
    parts: Collection[str],
    app: str | None,
    read: str | None,
) -> Iterator[str]:
    given = [(app, APP), (read, READ)]
    roles = ", ".join(quoted(role) for role, _ in given if role is not None)
    of_schema = quoted(schema)
    tables = ", ".join(f"{of_schema}.{quoted(table)}" for table in sorted(there))
    yield f"revoke all on table {tables} from public, {roles}"
    if parts:  # each is used through its table; by the last it is seen that a day is missing
        yield f"revoke all on table {', '.join(sorted(parts))} from public, {roles}"
        if rest := [part for part in sorted(parts) if part.endswith("_default")]:
            yield f"grant select on table {', '.join(rest)} to {roles}"
    yield f"revoke create on schema {of_schema} from {roles}"
    yield f"grant usage on schema {of_schema} to {roles}"
    for role, rights in given:
        for table in sorted(there) if role is not None else ():
            if table in rights:
                what = ", ".join(rights[table])
                yield f"grant {what} on table {of_schema}.{quoted(table)} to {quoted(role or '')}"
