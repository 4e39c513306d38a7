"""Settings from the environment: read once at start, refused with every mistake and its cure.

Precedence: `VELTRIX_X` or, for secrets, the file that `VELTRIX_X_FILE` names; then the same in
`.env` of the working directory (development); then the default. An empty value is no value.
"""

import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from veltrix.settings.command_line import NOT_SETTINGS
from veltrix.settings.fields import PREFIX, Settings
from veltrix.settings.links import link_mistakes
from veltrix.settings.rules import cross_check, mistake_of

SECRETS = frozenset(
    {"database_url", "database_owner_url", "broker_url", "management_url", "flower_basic_auth"}
)
ENV_FILE = Path(".env")
# Where a running `veltrix dev` is: for commands in the same folder that are not told otherwise.
DEV_FILE = Path(".veltrix/env")

_SCHEMES = {
    "database_url": ("postgresql+psycopg",),
    "database_owner_url": ("postgresql+psycopg",),
    "broker_url": ("amqp", "amqps"),
    "management_url": ("http", "https"),
}
_EXAMPLES = {
    "database_url": "postgresql+psycopg://user:password@host/database?sslmode=verify-full",
    "database_owner_url": "postgresql+psycopg://owner:password@host/database?sslmode=verify-full",
    "broker_url": "amqps://user:password@host/vhost",
    "management_url": "https://user:password@host:15671",
}
_DATABASES = frozenset(
    f"{PREFIX}{name}{file}"
    for name in ("DATABASE_URL", "DATABASE_OWNER_URL")
    for file in ("", "_FILE")
)
_MASK = "***"


class SettingsError(Exception):
    """The settings cannot be used. `mistakes` has a sentence with its cure for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def load_settings(
    environ: Mapping[str, str] | None = None,
    *,
    env_file: Path | None = ENV_FILE,
    dev_file: Path | None = None,
) -> Settings:
    """The settings that `environ` (default: this process's) and `env_file` make.

    `dev_file` is read as well, below both, when they name no database. Raises SettingsError naming
    every mistake; no secret is in its text.
    """
    given = _given(os.environ if environ is None else environ, env_file, dev_file)
    mistakes = _unknown(given)
    values: dict[str, object] = {}
    for name in Settings.model_fields:
        try:
            value = _value(name, given)
        except SettingsError as error:
            mistakes += error.mistakes
            continue
        if value is not None:
            values[name] = value
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistakes += [mistake_of(detail) for detail in error.errors(include_url=False)]
        raise SettingsError(mistakes) from None
    mistakes += cross_check(settings)
    mistakes += link_mistakes(settings, os.environ if environ is None else environ)
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def effective(
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    *,
    env_file: Path | None = ENV_FILE,
    dev_file: Path | None = None,
) -> list[tuple[str, str, str]]:
    """(variable, value, origin) of every setting, for people: passwords are masked.

    Origin is `environment`, `.env`, `veltrix dev` (from `dev_file`), `file` (the secret was read
    from one) or `default`.
    """
    given = _given(os.environ if environ is None else environ, env_file, dev_file)
    rows = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = masked(value.get_secret_value())
        else:
            text = "" if value is None else str(value)
        rows.append((_variable(name), text, _origin(name, given)))
    return rows


def require(settings: Settings, *names: str) -> None:
    """Raises SettingsError with the cure for each of these settings that has no value."""
    missing = [name for name in names if getattr(settings, name) is None]
    if missing:
        raise SettingsError(
            [
                f"{_variable(name)} is not set; set it"
                + (f" to {_EXAMPLES[name]}" if name in _EXAMPLES else "")
                + (f" (or {_variable(name)}_FILE to a file with it)" if name in SECRETS else "")
                + ", or run `veltrix dev`, which brings its own."
                for name in missing
            ]
        )


def as_owner(settings: Settings) -> Settings:
    """The settings with the owner of the tables in place of the platform's role, if it is named."""
    owner = settings.database_owner_url
    return settings if owner is None else settings.model_copy(update={"database_url": owner})


def masked(url: str) -> str:
    """The URL with every password in it replaced; what is no URL is masked whole."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _MASK
    if not parts.scheme or "://" not in url:
        return _MASK
    user, at, host = parts.netloc.rpartition("@")
    login, colon, _ = user.partition(":")
    query = [
        (key, _MASK if "password" in key.lower() else value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(
        parts._replace(
            netloc=f"{login}{colon and ':' + _MASK}{at}{host}",
            query=urlencode(query, safe="*/", quote_via=quote),
        )
    )


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _given(
    environ: Mapping[str, str], env_file: Path | None, dev_file: Path | None
) -> dict[str, tuple[str, str]]:
    """Our variables that have a value: {name: (value, origin)}; the environment covers `.env`.

    Both spellings of a secret are one: a URL in the environment covers a file named in `.env`.
    """
    ours = {name: value for name, value in environ.items() if value and name.startswith(PREFIX)}
    given = _below(_read_env_file(env_file), ".env", ours) | {
        name: (value, "environment") for name, value in ours.items()
    }
    if not given.keys() & _DATABASES:
        given = _below(_read_env_file(dev_file), "veltrix dev", given) | given
    return given


def _below(
    values: Mapping[str, str], origin: str, above: Mapping[str, object]
) -> dict[str, tuple[str, str]]:
    """The values without those secrets that `above` has in either spelling."""
    covered = set[str]()
    for secret in SECRETS:
        spellings = {_variable(secret), f"{_variable(secret)}_FILE"}
        if spellings & above.keys():
            covered |= spellings
    return {name: (value, origin) for name, value in values.items() if name not in covered}


def variables_of_authors(path: Path = ENV_FILE) -> dict[str, str]:
    """What the file has beside our settings: for the steps of who develops.

    Without what libpq reads: that would lead the platform to a database of the author's.
    """
    of_others = (PREFIX, "PG")
    return {n: value for n, value in _all_of_file(path).items() if not n.startswith(of_others)}


def give_to_authors(path: Path = ENV_FILE) -> None:
    """Put those into the environment of this process, below what it has."""
    for name, value in variables_of_authors(path).items():
        os.environ.setdefault(name, value)


def _read_env_file(path: Path | None) -> dict[str, str]:
    """Our variables in a file of NAME=value lines; none when it is not there."""
    return {n: value for n, value in _all_of_file(path).items() if n.startswith(PREFIX)}


def _all_of_file(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    return {n: value for n, value in dotenv_values(path, interpolate=False).items() if value}


def unknown_names(names: Collection[str]) -> dict[str, str]:
    """What to do with each of these variables that no setting has."""
    known = {_variable(name) for name in Settings.model_fields}
    known |= {f"{_variable(name)}_FILE" for name in SECRETS} | NOT_SETTINGS
    cures = {}
    for name in sorted(set(names) - known):
        # Without the prefix, which makes short names alike.
        bare = {one.removeprefix(PREFIX): one for one in sorted(known)}
        close = difflib.get_close_matches(name.removeprefix(PREFIX), list(bare), n=1, cutoff=0.7)
        cures[name] = (
            f"did you mean {bare[close[0]]}?"
            if close
            else "remove it; docs/settings.md has them all."
        )
    return cures


def _unknown(given: Mapping[str, tuple[str, str]]) -> list[str]:
    return [
        f"{name} ({_where(given[name][1])}) is not a setting; {cure}"
        for name, cure in unknown_names(given.keys()).items()
    ]


def _where(origin: str) -> str:
    return {".env": "in .env", "veltrix dev": f"in {DEV_FILE}"}.get(origin, "in the environment")


def _value(name: str, given: Mapping[str, tuple[str, str]]) -> str | None:
    """The text of a setting, from its variable or its file; None: neither is there."""
    variable = _variable(name)
    direct = given.get(variable)
    value = direct[0] if direct else None
    if name not in SECRETS:
        return value
    file = given.get(f"{variable}_FILE")
    if direct and file:
        raise SettingsError([f"{variable} and {variable}_FILE are both set; remove one of them."])
    if file:
        value = _read(f"{variable}_FILE", Path(file[0]))
    return value if value is None or name not in _SCHEMES else _checked_url(name, value)


def _read(variable: str, path: Path) -> str:
    """The file's text without the line's end."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            [f"{variable} names {str(path)!r}, which cannot be read ({why}); name a readable file."]
        ) from None
    if not text:
        raise SettingsError(
            [f"{variable} names {str(path)!r}, which is empty; write the value into it."]
        )
    return text


def _checked_url(name: str, url: str) -> str:
    """The URL, with psycopg named as the driver; SettingsError if it is of another kind."""
    if name.startswith("database_"):
        url = re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", url)
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in _SCHEMES[name] and "://" in url
        _ = parts.port  # raises ValueError for what is no port
        is_good = is_good and (not name.startswith("database_") or _is_read_alike(parts, url))
    except ValueError:
        is_good = False
    if not is_good:
        mistake = (
            f"{_variable(name)} is not a URL of the right kind (its value is not shown); write"
            f" {_EXAMPLES[name]}, with special characters in the password as %XX."
        )
        raise SettingsError([mistake])
    return url


def _is_read_alike(parts: SplitResult, url: str) -> bool:
    """Whether SQLAlchemy, which connects, finds the host where it is judged: where `urlsplit` does.

    SQLAlchemy knows no fragment, and takes what stands before an @ for user and password, wherever.
    """
    login, behind = parts.netloc.rpartition("@")[0], url.partition("://")[2][len(parts.netloc) :]
    has_password = re.fullmatch("[^:]*:[^@]*", login) is not None
    return "#" not in url and (has_password or not (":" in login or "@" in behind))


def _origin(name: str, given: Mapping[str, tuple[str, str]]) -> str:
    if name in SECRETS and f"{_variable(name)}_FILE" in given:
        return "file"
    found = given.get(_variable(name))
    return found[1] if found else "default"
