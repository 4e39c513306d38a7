"""The three roles of a test's database: its owner, the platform's, and who only reads."""

from typing import NamedTuple

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from veltrix.store.grants import give
from veltrix.store.transactions import make_engine, transaction

_OWNED = """
select format('alter table %s owner to {owner}', oid::regclass) from pg_class
where relnamespace = 'public'::regnamespace and relowner = current_user::regrole
    and (relkind in ('r', 'p') or relname = 'failed_attempts_ids')
union all
select format('alter function %s owner to {owner}', oid::regprocedure) from pg_proc
where pronamespace = 'public'::regnamespace and proowner = current_user::regrole
"""


class Roles(NamedTuple):
    """The URL of each."""

    owner: str
    app: str
    read: str

    def name(self, role: str) -> str:
        """The name of the role `owner`, `app` or `read`."""
        return str(make_url(getattr(self, role)).username)


def make_roles(database_url: str) -> Roles:
    """Make them for this database, which is the superuser's, and give each its rights."""
    url = make_url(database_url)
    names = {role: f"{url.database}_{role}" for role in Roles._fields}
    with create_engine(url, poolclass=NullPool).connect() as tx, tx.begin():
        for name in names.values():
            tx.execute(text(f"create role {name} login password '{name}'"))
        tx.execute(text(f"alter database {url.database} owner to {names['owner']}"))
        for statement in tx.scalars(text(_OWNED.format(owner=names["owner"]))).all():
            tx.execute(text(statement))
    roles = Roles(
        *(
            url.set(username=name, password=name).render_as_string(hide_password=False)
            for name in names.values()
        )
    )
    with transaction(make_engine(roles.owner, application="tests")) as tx:
        give(tx, names["app"], names["read"])
    return roles
