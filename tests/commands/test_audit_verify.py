"""`veltrix audit verify`, as an operator uses it."""

from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from veltrix.store.transactions import transaction


def test_a_whole_audit_is_0_a_changed_one_1_and_says_where(
    veltrix: Veltrix, engine: Engine
) -> None:
    for name in ("one", "two", "three"):
        assert veltrix("keys", "create", name, "--scope", "runs:read").code == 0

    whole = veltrix("audit", "verify", "--json")
    kept = f"{whole.json['last_id']}:{whole.json['last_hash']}"
    shown = veltrix("audit", "verify", "--since-id", "2", "--expect", kept)
    listed = veltrix("audit", "3", "--json"), veltrix("audit", "--done", "--json")
    with transaction(engine) as tx:
        tx.exec_driver_sql("alter table audit disable trigger all")
        tx.exec_driver_sql("update audit set author = 'nobody' where id = 2")
        tx.exec_driver_sql("delete from audit where id = 3")
        tx.exec_driver_sql("update audit_numbers set last = 2, hash = (select hash from audit"
                           " where id = 2)")  # fmt: skip
    broken = veltrix("audit", "verify"), veltrix("audit", "verify", "--json", "--expect", kept)
    wrong = veltrix("audit", "verify", "--expect", "3")

    assert (whole.code, whole.json["rows"], whole.json["is_whole"]) == (0, 3, True)
    assert (shown.code, shown.lines) == (0, [f"2 rows, whole; last row {kept}"])
    assert listed[0].json["hash"] == whole.json["last_hash"]
    assert [row["id"] for row in listed[1].json["items"]] == [3, 2, 1]
    assert broken[0].code == broken[1].code == 1
    assert broken[0].lines[0] == "row 2 was changed afterwards"
    assert broken[0].lines[1].startswith("2 rows, broken from row 2 on; last row 2:")
    assert [(one["kind"], one["id"]) for one in broken[1].json["breaks"]] == [
        ("changed", 2),
        ("cut_off", 3),
    ]
    assert wrong.code == 2
