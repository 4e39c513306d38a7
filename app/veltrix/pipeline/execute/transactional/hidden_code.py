"""Whether this database has code of its own that may leave something in a session.

A trigger or a function that a view calls does what no statement shows: `set_config`, a temporary
table, a lock of the session. Functions are looked at whenever one of them has changed, before the
next step; what calls PostgreSQL's own without one (a default, a view, a policy) within a second.
Functions in C are believed: only a superuser makes them.
"""

from sqlalchemy import Connection

from veltrix.store.transactions import fetch

_KNOWN = "veltrix.hidden_code"  # in the connection's info: (print of the functions, until, kind)
_FRESH_S = 1.0
_PRINT = """
select coalesce(sum(hashtext(concat(oid, xmin, ctid))), 0)::text
from pg_catalog.pg_proc where oid >= 16384
"""
# In a function: words of what may leave something or tell what was left, and of what may say any of
# it (`execute`). Rows that are changed by `update ... set` are none of that.
_WORDS = r"""regexp_replace(
    p.prosrc, '\mupdate\s+(only\s+)?([\w."]+\s+(as\s+)?)?([\w."]+\s+)?set\M', '', 'gi'
) ~* '\m(set|set_config|reset|discard|execute|\w*advisory\w*|temp|temporary|pg_temp\w*'
    '|listen|unlisten|prepare|deallocate|cursor|refcursor|currval|lastval|dblink\w*|load)\M'"""
# set_config, currval, lastval and locks of the session. 16384 is the first oid that is not
# PostgreSQL's own.
_CALLS = "':funcid (2078|1575|2559|288[0-9]|289[0-2]) '"
# Makes days of the ledger, in the owner's name; its lock and its setting end with it.
_OWN = "pg_catalog.to_regprocedure('make_day(date, bigint)')"
_LOOK = (
    """
select exists (
    select from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
    where p.oid >= 16384 and (p.oid is distinct from {own} or not p.prosecdef) and case l.lanname
        when 'c' then false
        when 'internal' then p.prosrc ~* 'config|lock|val|temp'
        when 'sql' then p.prosqlbody is not null or {words}
        when 'plpgsql' then {words}
        else true end
    union all select from pg_catalog.pg_attrdef where oid >= 16384 and adbin::text ~ {calls}
    union all select from pg_catalog.pg_rewrite where oid >= 16384 and ev_action::text ~ {calls}
    union all select from pg_catalog.pg_constraint where oid >= 16384 and conbin::text ~ {calls}
    union all select from pg_catalog.pg_trigger where oid >= 16384 and tgqual::text ~ {calls}
    union all select from pg_catalog.pg_policy
        where polqual::text ~ {calls} or polwithcheck::text ~ {calls}
)
""".replace("{words}", _WORDS)
    .replace("{calls}", _CALLS)
    .replace("{own}", _OWN)
)


def has_hidden_code(tx: Connection, now: float) -> bool:
    """Something may be left in the session that the statements do not show. `now`: monotonic."""
    ((print_,),) = fetch(tx, _PRINT, {})
    known = tx.info.get(_KNOWN)
    if known is None or known[0] != print_ or known[1] < now:
        ((found,),) = fetch(tx, _LOOK, {})
        known = tx.info[_KNOWN] = print_, now + _FRESH_S, found
    return bool(known[2])
