"""Which links leave this machine unprotected: what is refused at the start, and what is warned of.

Another host is spoken to over TLS, or it is named in VELTRIX_PLAIN_HOSTS. A link over loopback or a
unix socket leaves nothing to read for others.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from veltrix.domain.local_names import is_loopback
from veltrix.settings.fields import PREFIX, Settings

ENCRYPTED = frozenset({"require", "verify-ca", "verify-full"})  # what libpq calls them
_DEFAULT_MODE = "prefer"
_ALLOW = f"name the host in {PREFIX}PLAIN_HOSTS if nobody else is on the network between"
_CA = f"{PREFIX}BROKER_CA_FILE names a CA of your own"
_DATABASE_CURE = "add ?sslmode=verify-full, and &sslrootcert=FILE for a CA of your own"


def is_plain(host: str, plain_hosts: str) -> bool:
    """Whether this host may be spoken to without TLS; `plain_hosts` is the setting."""
    named = {_bare(name) for name in plain_hosts.split(",")}
    return is_loopback(host) or _bare(host) in named


def api_mistake(url: str, plain_hosts: str) -> str | None:
    """Why this URL of an api is not spoken to; None: it may be."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL at all, as who connects will say
        return None
    host = parts.hostname or ""
    if parts.scheme != "http" or not host or is_plain(host, plain_hosts):
        return None
    return (
        f"{host!r} would be spoken to without TLS, and a key could be read on the way: write"
        f" https:// (--ca-file names a CA of your own), or {_ALLOW}"
    )


def link_mistakes(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """A sentence with its cure for each link that is refused; `environ` has libpq's variables."""
    return [
        *_of_broker(settings),
        *_of_management(settings),
        *_of_database(settings, environ),
        *_of_files(settings),
    ]


def link_warnings(settings: Settings, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """A sentence for each link that is encrypted, or may be, to nobody knows whom.

    `environ` is by default this process's.
    """
    for name, url in _databases(settings):
        hosts, modes, is_said = _database(url, os.environ if environ is None else environ)
        if not hosts or not is_said or modes <= {"verify-full", "disable"}:
            continue
        mode = ", ".join(sorted(modes - {"verify-full"}))
        yield (
            f"sslmode of {name} is {mode}, so the name of the database's server is not checked, and"
            f" whoever is on the way can take its place; {_DATABASE_CURE}"
        )


def open_warnings(setting: str, host: str, *, is_tls: bool) -> Iterator[str]:
    """A sentence if what listens there can be reached by others, without TLS."""
    if not is_tls and not is_loopback(host):
        yield (
            f"{PREFIX}{setting} is {host!r} and no TLS is spoken there: all that is said can be"
            " read on the way, unless a proxy before it speaks TLS and the network between is yours"
            " alone"
        )


def _of_broker(settings: Settings) -> Iterator[str]:
    url = _text(settings.broker_url)
    if not url:
        return
    if more := [mark for mark in "?;#" if mark in url]:
        yield (
            f"{PREFIX}BROKER_URL has more in it than one address (a {more[0]}): name one, leave all"
            " else to the settings, and write such characters of a password as %3F, %3B and %23."
        )
    parts = urlsplit(url)
    host = unquote(parts.hostname or "localhost")
    if parts.scheme == "amqp" and not is_plain(host, settings.plain_hosts):
        yield (
            f"{PREFIX}BROKER_URL leads to {host!r} without TLS, so its password can be read on the"
            f" way; write amqps:// ({_CA}), or {_ALLOW}."
        )


def _of_management(settings: Settings) -> Iterator[str]:
    parts = urlsplit(_text(settings.management_url))
    host = unquote(parts.hostname or "localhost")
    if parts.scheme == "http" and not is_plain(host, settings.plain_hosts):
        yield (
            f"{PREFIX}MANAGEMENT_URL leads to {host!r} without TLS, so its password can be read on"
            f" the way; write https:// ({_CA}), or {_ALLOW}."
        )


def _of_database(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    for name, url in _databases(settings):
        hosts, modes, _ = _database(url, environ)
        exposed = [host for host in hosts if not is_plain(host, settings.plain_hosts)]
        if exposed and not modes <= ENCRYPTED:
            yield (
                f"{name} leads to {', '.join(map(repr, exposed))} and does not insist on"
                f" TLS, so payloads and its password could be read on the way; {_DATABASE_CURE}, or"
                f" {_ALLOW}."
            )


def _databases(settings: Settings) -> list[tuple[str, str]]:
    """Each URL of the database that is set, by the name of its setting."""
    urls = {
        "DATABASE_URL": settings.database_url,
        "DATABASE_OWNER_URL": settings.database_owner_url,
    }
    return [(f"{PREFIX}{name}", _text(url)) for name, url in urls.items() if url]


def _of_files(settings: Settings) -> Iterator[str]:
    for kind in ("api", "flower"):
        cert, key = getattr(settings, f"{kind}_tls_cert"), getattr(settings, f"{kind}_tls_key")
        if (cert is None) != (key is None):
            there, missing = ("CERT", "KEY") if key is None else ("KEY", "CERT")
            both = f"{PREFIX}{kind.upper()}_TLS_"
            yield f"{both}{there} is set and {both}{missing} is not; set both."
    file = settings.broker_ca_file
    if file is None:
        return
    if why := _unreadable(file):
        yield (
            f"{PREFIX}BROKER_CA_FILE names {str(file)!r}, of which no CA can be read ({why}); name"
            " a PEM file with the certificate of RabbitMQ's CA."
        )
    schemes = {
        urlsplit(_text(url)).scheme for url in (settings.broker_url, settings.management_url) if url
    }
    if schemes and not schemes & {"amqps", "https"}:
        yield (
            f"{PREFIX}BROKER_CA_FILE is set and RabbitMQ is spoken to without TLS, so it says"
            f" nothing; write amqps:// in {PREFIX}BROKER_URL, or remove it."
        )


def _unreadable(file: Path) -> str | None:
    import ssl  # only where TLS is spoken

    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # an SSLError is one
        return error.strerror or str(error)
    return None


def _database(url: str, environ: Mapping[str, str]) -> tuple[list[str], frozenset[str], bool]:
    """The other hosts that a database's URL leads to, its sslmodes, and whether it says one.

    What the URL leaves open libpq takes from the environment.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    named = [unquote(parts.hostname or ""), *query.get("host", ())]
    if not any(named):
        named = [environ.get("PGHOST", "")]
    # Where a service leads only libpq knows: it may name an address, and a mode, beside a host.
    services = query.get("service") or [environ.get("PGSERVICE", "")]
    others = [f"service {service}" for service in services if service]
    is_of_service = bool(others)
    addresses = query.get("hostaddr") or [environ.get("PGHOSTADDR", "")]
    hosts = [_bare(host) for text in (*named, *addresses) for host in text.split(",")]
    others += [
        host for host in hosts if host and not host.startswith(("/", "@")) and not is_loopback(host)
    ]
    modes = query.get("sslmode") or ([] if is_of_service else [environ.get("PGSSLMODE", "")])
    said = frozenset(mode for mode in modes if mode)
    return others, said or frozenset({_DEFAULT_MODE}), bool(said)


def _bare(host: str) -> str:
    """A name or address as it is compared: without a port, brackets or the last dot."""
    text = host.strip().lower()
    if found := re.fullmatch(r"\[(.*)\](?::\d*)?|([^:]*):\d*", text):
        text = found[1] or found[2] or ""
    return text.rstrip(".")


def _text(url: SecretStr | None) -> str:
    return "" if url is None else url.get_secret_value()
