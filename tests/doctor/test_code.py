"""Rules of code: what each sees in a few lines, and what it takes for nothing."""

from pathlib import Path

import msgspec
import pytest

from tests.doctor.examined import facts_of, held_against, write

_HEAD = """
from celery import shared_task, chain, chord, group
import itertools


@shared_task(bind=True)
def work(self):
    pass


"""
FAULTS = {
    "atomic": ("P16", "def f():\n    with transaction.atomic():\n        work.delay()"),
    "decorated": ("P16", "@transaction.atomic\ndef f():\n    work.delay()"),
    "nested": (
        "P16",
        "def f():\n    with db.begin():\n        if 1:\n            work.apply_async()",
    ),
    "before the commit": (
        "P16",
        "def f():\n    with Session(engine) as s:\n        work.delay()\n        s.commit()",
    ),
    "a name": ("P16", "def f(app):\n    with s.begin():\n        app.send_task('x.y')"),
    "a signature": ("P16", "def f():\n    with s.begin():\n        work.s(1).delay()"),
    "get": ("D05", "@shared_task\ndef t():\n    return work.delay().get()"),
    "get later": ("D05", "@shared_task\ndef t():\n    r = work.delay()\n    return r.get()"),
    "by id": ("D05", "@shared_task\ndef t(i):\n    return AsyncResult(i).get()"),
    "joined": ("D01", "def f():\n    (work.s() | work.s()).delay()"),
    "linked": ("D01", "def f():\n    work.apply_async(link=work.s())"),
    "swallowed": (
        "W07",
        (
            "@shared_task(bind=True)\ndef t(self):\n    try:\n        self.retry()\n"
            "    except Exception:\n        pass"
        ),
    ),
    "quiet": ("W07", "@shared_task(bind=True)\ndef t(self):\n    self.retry(throw=False)"),
    "eta": ("W23", "def f(when):\n    work.apply_async(eta=when)"),
    "sleep": ("W23", "from time import sleep\n@shared_task\ndef t():\n    sleep(1)"),
    "expires": ("P18", "def f():\n    work.apply_async(expires=60)"),
    "narrow": (
        "P05",
        "def f():\n    try:\n        work.delay()\n    except work.OperationalError:\n        pass",
    ),
    "import": ("P15", "work.delay()"),
    "cycle": ("B08", 'X = {"x-message-ttl": 1, "x-dead-letter-exchange": "work"}'),
    "stale": ("D07", "def f():\n    return create_engine('x')"),
}
NO_FAULTS = {
    "after": ("P16", "def f():\n    with transaction.atomic():\n        pass\n    work.delay()"),
    "on commit": (
        "P16",
        (
            "def f():\n    with transaction.atomic():\n"
            "        transaction.on_commit(lambda: work.delay())"
        ),
    ),
    "delayed on commit": (
        "P16",
        "def f():\n    with transaction.atomic():\n        work.delay_on_commit()",
    ),
    "a function for later": (
        "P16",
        (
            "def f():\n    with transaction.atomic():\n        def later():\n"
            "            work.delay()\n        transaction.on_commit(later)"
        ),
    ),
    "after the commit": (
        "P16",
        "def f():\n    with Session(engine) as s:\n        s.commit()\n        work.delay()",
    ),
    "no task's delay": ("P16", "def f(x):\n    with x.begin():\n        x.signal.delay(5)"),
    "get of a dictionary": ("D05", "@shared_task\ndef t(d):\n    return d.get('a')"),
    "get outside": ("D05", "def f():\n    return work.delay().get()"),
    "itertools": ("D01", "def f():\n    return itertools.chain([1], [2])"),
    "bits": ("D01", "def f(a, b):\n    return a | b"),
    "raised": (
        "W07",
        (
            "@shared_task(bind=True)\ndef t(self):\n    try:\n        pass\n"
            "    except Exception as e:\n        raise self.retry(exc=e)"
        ),
    ),
    "sleep outside": ("W23", "from time import sleep\ndef f():\n    sleep(1)"),
    "no expiry": ("P18", "def f():\n    work.apply_async(expires=None)"),
    "wide": (
        "P05",
        (
            "def f():\n    try:\n        work.delay()\n    except (OperationalError, OSError):\n"
            "        pass"
        ),
    ),
    "main": ("P15", "if __name__ == '__main__':\n    work.delay()"),
    "pinged": ("D07", "def f():\n    return create_engine('x', pool_pre_ping=True)"),
    "unpooled": ("D07", "def f():\n    return create_engine('x', poolclass=NullPool)"),
    "an order": ("D13", "def f(order):\n    return order.status == 'PENDING'"),
}


def found_in(folder: Path, text: str) -> set[tuple[str, str | None, int | None]]:
    write(folder, {"shop/code.py": _HEAD + text})
    app = msgspec.structs.replace(facts_of("acks_late_alone"), folder=str(folder))
    return {
        (one.id, one.file, one.line)
        for one in held_against(app).findings
        if one.title != "a retry that cannot be sent drops the task"  # which is of its queue
    }


@pytest.mark.parametrize(("id_", "text"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_seen_with_its_line(tmp_path: Path, id_: str, text: str) -> None:
    found = found_in(tmp_path, text)

    lines = {line for one, file, line in found if one == id_ and file == "shop/code.py"}
    first = len(_HEAD.splitlines()) + 1
    assert lines
    assert all(line is not None and line >= first for line in lines)


@pytest.mark.parametrize(("id_", "text"), NO_FAULTS.values(), ids=NO_FAULTS)
def test_what_is_right_is_not_taken_for_a_fault(tmp_path: Path, id_: str, text: str) -> None:
    found = found_in(tmp_path, text)

    assert not [one for one in found if one[0] == id_ and one[1] == "shop/code.py"]


def test_tests_and_environments_are_not_read(tmp_path: Path) -> None:
    fault = FAULTS["atomic"][1]
    write(
        tmp_path,
        {
            "tests/test_shop.py": _HEAD + fault,
            ".venv/lib/x.py": _HEAD + fault,
            "env2/pyvenv.cfg": "",
            "env2/x.py": _HEAD + fault,
            "broken.py": "def (" + _HEAD,
        },
    )

    assert "P16" not in {id_ for id_, *_ in found_in(tmp_path, "")}
