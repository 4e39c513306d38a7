"""Applications as somebody else writes them: what they are is seen, and no secret of theirs is."""

import sys
from pathlib import Path

import pytest

from tests.doctor.examined import held_against, write
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.facts.celery_probe import plain
from veltrix.doctor.facts.celery_read import import_or_read

TOP = "from celery import Celery\napp = Celery('x'{})\n"


def app_of(folder: Path, text: str) -> CeleryApp:
    return import_or_read("odd:app", write(folder, {"odd.py": text}), sys.executable)


def ids(app: CeleryApp) -> set[str]:
    return {one.id for one in held_against(app).findings}


@pytest.mark.parametrize(
    "brokers", ["['amqp://a//', 'amqp://b//']", "('amqp://a//',)", "'amqp://a//;amqp://b//'"]
)
def test_one_of_several_brokers_is_a_broker(tmp_path: Path, brokers: str) -> None:
    app = app_of(tmp_path, TOP.format(f", broker={brokers}"))

    assert app.is_on_amqp
    assert not app.is_on_redis
    assert {"P01", "P02"} <= ids(app)


def test_where_it_reads_and_writes_counts_before_the_broker(tmp_path: Path) -> None:
    text = "app.conf.broker_{}_url = 'redis://a'\n"
    app = app_of(tmp_path, TOP.format("") + text.format("read") + text.format("write"))

    assert app.is_on_redis
    assert not app.is_on_amqp
    assert not {"P01", "P02", "B09"} & ids(app)


@pytest.mark.parametrize(("name", "is_meant"), [("DB_PASSWORD", False), ("BROKER_HOST_NAME", False),
    ("DEFAULT_QUEUE", False), ("redis_max_conn", False), ("task_ack_late", True)])  # fmt: skip
def test_a_name_of_their_own_is_no_misspelt_setting(
    tmp_path: Path, name: str, is_meant: bool
) -> None:
    write(tmp_path, {"their_settings.py": f"{name} = 'x'\nbroker_url = 'amqp://a//'\n"})
    app = app_of(tmp_path, TOP.format("") + "app.config_from_object('their_settings')\n")

    assert ("P22" in ids(app)) is is_meant


@pytest.mark.parametrize(
    "text",
    [
        "{'user': 'x', 'password': 'hush'}",
        '{"api_key": "hush hush", "port": 1}',
        "api_key: hush",
        "Authorization: Bearer hush",
        "authorization=Basic hush",
        "amqp://user:hush@host//",
        "PGPASSWORD=hush psql",
    ],
)
def test_what_follows_a_word_for_a_secret_is_not_shown(text: str) -> None:
    assert "hush" not in plain(text)


def test_what_is_no_secret_is_shown() -> None:
    said = "KeyError: 'tokenizer' in shop/settings.py, line 3: no module named secretary"
    assert plain(said) == said
