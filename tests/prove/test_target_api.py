"""What a target says of itself, as it is read."""

import msgspec
import pytest

from veltrix.prove.target.http_api import ACCOUNTS_MAX, TargetBalance

ACCOUNT = {"source": "/a", "type": "t", "events": {}, "runs": {}, "unaccounted": 0}


@pytest.mark.parametrize(
    ("accounts", "is_whole"),
    [
        ([ACCOUNT], True),
        ([ACCOUNT] * ACCOUNTS_MAX, False),
        ([ACCOUNT, ACCOUNT | {"source": None, "is_overflow": True}], False),
    ],
)
def test_books_that_may_hold_ours_elsewhere_are_not_whole(
    accounts: list[dict[str, object]], is_whole: bool
) -> None:
    told = msgspec.json.encode({"by": accounts, "unaccounted": 0, "accounts": 1})

    assert msgspec.json.decode(told, type=TargetBalance).is_whole is is_whole
