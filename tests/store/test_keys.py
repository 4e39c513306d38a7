"""API keys: a hash in the table, a name used once, a revoke that holds."""

import pytest
from sqlalchemy import Engine, text

from veltrix.access import keys
from veltrix.access.keys import KeyRefused
from veltrix.store.transactions import transaction

TOKEN = "t" * 43


def test_a_key_is_kept_as_a_hash_only(engine: Engine) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "till", ["events:write"], "anna", TOKEN)
    with transaction(engine) as tx:
        (listed,) = keys.list_keys(tx)
        (active,) = keys.active(tx)
        row = str(tx.execute(text("select api_keys::text from api_keys")).scalar_one())

    assert (listed.name, listed.scopes, listed.created_by) == ("till", ("events:write",), "anna")
    assert active.hash == keys.hash_of(TOKEN)
    assert TOKEN not in row


@pytest.mark.parametrize(
    ("name", "scopes", "token"),
    [
        ("", ["admin"], TOKEN),
        ("x" * 101, ["admin"], TOKEN),
        ("a\x00", ["admin"], TOKEN),
        ("a", ["root"], TOKEN),
        ("a", [], TOKEN),
        ("a", ["admin"], "short"),
        ("a", ["admin"], "é" * 40),
    ],
)
def test_a_key_that_would_be_wrong_is_refused(
    engine: Engine, name: str, scopes: list[str], token: str
) -> None:
    with transaction(engine) as tx, pytest.raises(KeyRefused):
        keys.create(tx, name, scopes, "anna", token)


def test_a_name_is_never_used_twice(engine: Engine) -> None:
    with transaction(engine) as tx:
        keys.create(tx, "till", ["admin"], "anna", TOKEN)
        assert keys.revoke(tx, "till") is True
        assert keys.revoke(tx, "till") is False
        with pytest.raises(KeyRefused, match="taken"):
            keys.create(tx, "till", ["admin"], "anna", "u" * 43)

        assert keys.active(tx) == []
        assert keys.list_keys(tx)[0].revoked_at is not None


def test_the_admin_key_follows_its_file_but_stays_revoked(engine: Engine) -> None:
    with transaction(engine) as tx:
        keys.put_admin(tx, TOKEN)
        keys.put_admin(tx, TOKEN)
        assert [key.hash for key in keys.active(tx)] == [keys.hash_of(TOKEN)]
        keys.revoke(tx, "admin")
        keys.put_admin(tx, TOKEN)
        assert keys.active(tx) == []

        keys.put_admin(tx, "v" * 43)
        assert [key.hash for key in keys.active(tx)] == [keys.hash_of("v" * 43)]
