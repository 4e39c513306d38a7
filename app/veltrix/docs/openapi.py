"""docs/openapi.json: every route of the api."""

import json
from typing import Any

from fastapi import FastAPI

from veltrix.processes.api import add_routes


def document() -> dict[str, Any]:
    """The document of all routes."""
    app = FastAPI()
    add_routes(app)
    return app.openapi()


def render() -> str:
    """The document as the file holds it."""
    return json.dumps(document(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
