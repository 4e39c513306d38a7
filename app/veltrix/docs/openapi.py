"""`docs/openapi.json`: `python -m veltrix.docs.openapi` writes it, `--check` compares it."""

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from veltrix.processes.api import add_routes

PATH = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"


def document() -> dict[str, Any]:
    """The document of all routes."""
    app = FastAPI()
    add_routes(app)
    return app.openapi()


def render() -> str:
    """The document as the file holds it."""
    return json.dumps(document(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the file, or with `--check` says whether it is current: 0 yes, 1 no."""
    text = render()
    if "--check" not in arguments:
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(text, encoding="utf-8")
        return 0
    if PATH.is_file() and PATH.read_text(encoding="utf-8") == text:
        return 0
    cure = "python -m veltrix.docs.openapi"
    print(f"docs/openapi.json is not what the routes say; run: {cure}")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
