"""What the environment tells the command line, and no process: `load` does not know it."""

import os


def api_key() -> str | None:
    """The key with which commands call an api; None: there is none, or it is empty."""
    return os.environ.get("VELTRIX_API_KEY") or None


def is_debugging() -> bool:
    """Whether tracebacks are wanted, as by `--debug`."""
    return os.environ.get("VELTRIX_DEBUG", "") not in {"", "0"}


def is_plain() -> bool:
    """Whether a terminal wants no colours (https://no-color.org), or can show none."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
