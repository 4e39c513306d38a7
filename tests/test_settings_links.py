"""What leaves this machine is encrypted, or named: any other URL stops a process at its start."""

from pathlib import Path

import pytest

from tests.support.tls import Authority
from veltrix.domain.local_names import is_loopback
from veltrix.settings.fields import Settings
from veltrix.settings.links import api_mistake, link_warnings, open_warnings
from veltrix.settings.load import SettingsError, load_settings


def load(**variables: str) -> Settings:
    """Ours without their prefix, and libpq's."""
    environ = {
        name if name.startswith("PG") else f"VELTRIX_{name}": value
        for name, value in variables.items()
    }
    return load_settings(environ, env_file=None)


def is_used(**variables: str) -> bool:
    load(**variables)
    return True


def mistakes(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", False),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.example", False),
        ("127.0.0.1.nip.io", False),
        ("192.168.0.1", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("127.1", False),
        ("", False),
    ],
)
def test_loopback_is_known_by_any_of_its_names(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here


DATABASES = [
    "u:p@db/x",
    "u:p@10.0.0.1:5432/x",
    "u:p@[2001:db8::1]:5432/x",
    "u:p@127.0.0.1,db/x",
    "u:p@db/x?sslmode=prefer",
    "u:p@db/x?sslmode=disable",
    "u:p@db/x?sslmode=verify-full&sslmode=allow",
    "u:p@/x?host=127.0.0.1:5432&host=db:5433",
    "u:p@/x?host=localhost,db",
    "u:p@localhost/x?hostaddr=10.0.0.1",
    "u:p@/x?service=far",
    "u:p@localhost/x?service=far",
]
NOT_OTHERS = [
    "u:p@localhost/x",
    "u:p@127.0.0.1:1/x",
    "u:p@[::1]:1/x",
    "u@/x",
    "u@/x?host=/var/run/postgresql",
    "u@%2Fvar%2Frun%2Fpostgresql/x",
    "u:p@db/x?sslmode=require",
    "u:p@db/x?sslmode=verify-ca",
    "u:p@one,two/x?sslmode=verify-full&sslrootcert=/ca.pem",
]


@pytest.mark.parametrize("rest", DATABASES)
def test_a_database_elsewhere_needs_tls_or_its_name_said(rest: str) -> None:
    url = f"postgresql+psycopg://{rest}"

    (said,) = mistakes(DATABASE_URL=url)

    assert said.startswith("VELTRIX_DATABASE_URL leads to ")
    assert "?sslmode=verify-full" in said
    assert "VELTRIX_PLAIN_HOSTS" in said
    assert "u:p" not in said
    hosts = "DB, 10.0.0.1,[2001:DB8::1],service far"
    assert is_used(DATABASE_URL=url, PLAIN_HOSTS=hosts)


@pytest.mark.parametrize("rest", NOT_OTHERS)
def test_a_database_here_or_over_tls_is_used(rest: str) -> None:
    assert is_used(DATABASE_URL=f"postgresql+psycopg://{rest}")


@pytest.mark.parametrize(
    "rest",
    [
        "localhost:12#34@db/x",  # SQLAlchemy would go to `db`
        "localhost:12?34@db/x",
        "localhost:12/34@db/x",
        "localhost:5432/x?user=a@db",
        "u@localhost:5432/x?user=a@db",
        "u:p@db,two@localhost/x",
        "u:p@localhost/x?sslmode=disable#&host=db",
    ],
)
def test_a_database_is_looked_for_where_it_will_be_connected_to(rest: str) -> None:
    (said,) = mistakes(DATABASE_URL=f"postgresql+psycopg://{rest}")

    assert "special characters in the password as %XX" in said
    assert is_used(DATABASE_URL="postgresql+psycopg://u@corp:p%23@localhost/x?user=a@b")


def test_what_the_url_leaves_open_is_what_libpq_takes_from_the_environment() -> None:
    url = "postgresql+psycopg://u:p@/x"

    assert "'far'" in mistakes(PGHOST="far", DATABASE_URL=url)[0]
    assert "'10.0.0.1'" in mistakes(PGHOSTADDR="10.0.0.1", DATABASE_URL=url)[0]
    assert "'service far'" in mistakes(PGSERVICE="far", PGHOST="localhost", DATABASE_URL=url)[0]
    assert mistakes(PGSERVICE="far", PGSSLMODE="verify-full", DATABASE_URL=url)
    assert is_used(PGSERVICE="far", DATABASE_URL=f"{url}?sslmode=verify-full")
    assert is_used(PGHOST="far", PGSSLMODE="verify-full", DATABASE_URL=url)
    assert is_used(PGHOST="far", DATABASE_URL="postgresql+psycopg://u:p@localhost/x")


@pytest.mark.parametrize(
    ("name", "url", "tls"),
    [
        ("BROKER_URL", "amqp://u:p@mq/v", "amqps://u:p@mq/v"),
        ("BROKER_URL", "AMQP://u:p@10.0.0.1:5672/v", "AMQPS://u:p@10.0.0.1:5671/v"),
        ("BROKER_URL", "amqp://u:p@[2001:db8::1]/v", "amqps://u:p@[2001:db8::1]/v"),
        ("MANAGEMENT_URL", "http://u:p@mq:15672", "https://u:p@mq:15671"),
    ],
)
def test_rabbitmq_elsewhere_needs_tls_or_its_name_said(name: str, url: str, tls: str) -> None:
    (said,) = mistakes(**{name: url})

    assert said.startswith(f"VELTRIX_{name} leads to ")
    assert ("amqps://" in said) or ("https://" in said)
    assert is_used(**{name: tls})
    assert is_used(**{name: url, "PLAIN_HOSTS": "mq,10.0.0.1,2001:db8::1"})
    here = url.replace("@mq", "@localhost").replace("10.0.0.1", "127.0.0.1")
    assert is_used(**{name: here.replace("2001:db8::1", "::1")})
    assert mistakes(**{name: url, "PLAIN_HOSTS": "*,other"})


@pytest.mark.parametrize(
    "url", ["amqps://u:p@mq/v?ssl_options={}", "amqp://localhost;amqp://mq", "amqps://mq/v#"]
)
def test_a_brokers_url_is_an_address_and_nothing_else(url: str) -> None:
    assert "more in it than one address" in mistakes(BROKER_URL=url)[0]


def test_an_api_elsewhere_is_sent_a_key_over_tls_only() -> None:
    assert api_mistake("http://127.0.0.1:8080", "") is None
    assert api_mistake("https://api.example", "") is None
    assert api_mistake("http://api.example", "other,API.example") is None
    assert "https://" in (api_mistake("http://api.example", "") or "")


def test_a_ca_that_says_nothing_or_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "text").write_text("no PEM")
    tls = "amqps://u:p@mq/v"

    assert is_used(BROKER_URL=tls, BROKER_CA_FILE=str(authority.file))
    plain = mistakes(BROKER_URL="amqp://localhost/v", BROKER_CA_FILE=str(authority.file))
    absent = mistakes(BROKER_URL=tls, BROKER_CA_FILE=str(tmp_path / "none"))
    text = mistakes(BROKER_URL=tls, BROKER_CA_FILE=str(tmp_path / "text"))
    half = mistakes(API_TLS_CERT="a.pem", FLOWER_TLS_KEY="b.key")

    assert "says nothing" in plain[0]
    assert "No such file" in absent[0]
    assert "no CA can be read" in text[0]
    assert half == [
        "VELTRIX_API_TLS_CERT is set and VELTRIX_API_TLS_KEY is not; set both.",
        "VELTRIX_FLOWER_TLS_KEY is set and VELTRIX_FLOWER_TLS_CERT is not; set both.",
    ]


@pytest.mark.parametrize(
    ("rest", "is_warned"),
    [
        ("db/x?sslmode=require", True),
        ("db/x?sslmode=verify-ca", True),
        ("db/x?sslmode=prefer", True),
        ("db/x?sslmode=verify-full", False),
        ("db/x", False),  # named in PLAIN_HOSTS: it was meant so
        ("localhost/x?sslmode=require", False),
    ],
)
def test_a_database_of_which_the_name_is_not_checked_is_warned_of(
    rest: str, is_warned: bool
) -> None:
    settings = load(DATABASE_URL=f"postgresql+psycopg://u:p@{rest}", PLAIN_HOSTS="db")

    assert bool([*link_warnings(settings, {})]) is is_warned


def test_what_others_can_reach_without_tls_is_warned_of() -> None:
    assert not [*open_warnings("API_HOST", "127.0.0.1", is_tls=False)]
    assert not [*open_warnings("API_HOST", "::", is_tls=True)]
    (said,) = open_warnings("API_HOST", "::", is_tls=False)
    assert said.startswith("VELTRIX_API_HOST is '::' and no TLS is spoken there")
