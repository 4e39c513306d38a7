"""Flower's pages with links to the console: its own templates, and two of ours before them."""

import re
from pathlib import Path
from typing import Any

from tornado.template import Loader, Template

from veltrix.settings.fields import Settings

_OURS = Path(__file__).with_name("flower_templates")
_THEIRS = "flower/"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RUNS_MAX = 100
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class LinkedPages(Loader):
    """Loads a template of ours where there is one; `flower/NAME` is always Flower's own."""

    def _create_template(self, name: str) -> Template:
        own = _OURS / name
        if own.is_file():
            return Template(own.read_bytes(), name=name, loader=self)
        theirs = Path(self.root) / name.removeprefix(_THEIRS)
        return Template(theirs.read_bytes(), name=name, loader=self)


def linked(flower_settings: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Flower's settings of its pages, with the console's address and who knows a task's runs."""
    return {
        **flower_settings,
        "template_loader": LinkedPages(flower_settings["template_path"]),
        "console_url": console_url(settings),
        "run_ids_of": run_ids_of,
    }


def console_url(settings: Settings) -> str | None:
    """Where browsers find the console; None: nobody said."""
    if settings.console_url is not None:
        return settings.console_url.rstrip("/")
    if settings.api_port and {settings.api_host, settings.flower_host} <= _LOOPBACK:
        scheme = "http" if settings.api_tls_cert is None else "https"
        return f"{scheme}://{settings.api_host}:{settings.api_port}/console"
    return None


def run_ids_of(task: Any) -> list[str]:
    """The runs that a task names: of its arguments, or, where those are cut off, its first."""
    found = dict.fromkeys(_UUID.findall(str(task.args or "")))
    return list(found)[:_RUNS_MAX] or _UUID.findall(str(task.uuid))
