"""The configuration files that docker-compose.yml mounts, for servers that run without it."""

from pathlib import Path

from veltrix.dev.children import CannotStart

_DEPLOY = Path(__file__).resolve().parents[4] / "deploy"


def deployed(name: str) -> Path:
    """The file of that name in `deploy/`; `CannotStart` where there is no source checkout."""
    path = _DEPLOY / name
    if not path.is_file():
        raise CannotStart(
            f"{path} is not here: it comes with the source and not with the installed package, so"
            " run this in a checkout (pip install -e .)"
        )
    return path
