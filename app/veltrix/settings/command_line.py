"""What the environment tells the command line, and no process: `load` does not know it."""

import os
from pathlib import Path

# Ours, and not settings of a process: commands that call an api are told them.
NOT_SETTINGS = frozenset(
    f"VELTRIX_{name}"
    for name in ("URL", "API_URL", "API_KEY", "API_KEY_FILE", "API_CA_FILE", "DEBUG")
)


def take_from_env_file(path: Path = Path(".env")) -> None:
    """What commands are told may stand in `.env` as settings may; the environment covers it."""
    if path.is_file():
        from dotenv import dotenv_values

        for name, value in dotenv_values(path, interpolate=False).items():
            if name in NOT_SETTINGS and value:
                os.environ.setdefault(name, value)


def api_key() -> str | None:
    """The key with which commands call an api; None: there is none, or it is empty."""
    return os.environ.get("VELTRIX_API_KEY") or None


def is_debugging() -> bool:
    """Whether tracebacks are wanted, as by `--debug`."""
    return os.environ.get("VELTRIX_DEBUG", "") not in {"", "0"}


def is_plain() -> bool:
    """Whether a terminal wants no colours (https://no-color.org), or can show none."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
