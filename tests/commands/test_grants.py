"""`veltrix db grants`, and what is left to do as the role that only reads."""

import pytest

from tests.commands.conftest import Veltrix
from tests.support.roles import make_roles
from veltrix.settings.fields import PREFIX
from veltrix.store.schema import head


def test_grants_are_printed_as_sql_or_given_by_the_owner_alone(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    roles = make_roles(database_url)
    names = ("--app", roles.name("app"), "--read", roles.name("read"))
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", roles.app)
    refused = veltrix("db", "grants", *names, "--apply"), veltrix("db", "downgrade", "0001", "-y")
    monkeypatch.setenv(f"{PREFIX}DATABASE_OWNER_URL", roles.owner)
    printed = veltrix("db", "grants", *names)
    given = veltrix("db", "grants", *names, "--apply")
    upgraded = veltrix("db", "upgrade", *names)
    nobody = veltrix("db", "grants")

    assert [ran.code for ran in refused] == [2, 2]
    assert "VELTRIX_DATABASE_OWNER_URL" in refused[0].err
    assert "this role may not change the schema" in refused[1].err
    assert printed.code == 0
    assert all(line.endswith(";") for line in printed.lines)
    assert f'grant select on table "public"."audit" to "{roles.name("read")}";' in printed.lines
    assert not [line for line in printed.lines if "sessions" in line and roles.name("read") in line
                and line.startswith("grant")]  # fmt: skip
    assert (given.code, upgraded.code, nobody.code) == (0, 0, 2)
    assert "no other rights" in given.out
    assert f"schema {head()}" in upgraded.out
    assert "name a role" in nobody.err


def test_who_only_reads_can_look_and_not_act(
    veltrix: Veltrix, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    assert veltrix("keys", "create", "one", "--scope", "runs:read").code == 0
    roles = make_roles(database_url)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", roles.read)

    looked = [
        veltrix(*arguments).code
        for arguments in (
            ("audit", "verify"),
            ("audit",),
            ("runs",),
            ("balance",),
            ("failures", "list"),
            ("events", "list"),
            ("events", "dead-letters"),
            ("workflows", "list"),
            ("replay", "list"),
            ("keys", "list"),
            ("db", "current"),
        )
    ]
    acted = veltrix("keys", "create", "two", "--scope", "runs:read")

    assert set(looked) == {0}
    assert acted.code == 2
    assert "may not do this (permission denied for table api_keys)" in acted.err
