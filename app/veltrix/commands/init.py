"""`veltrix init`: a small project that runs, to be changed into one's own."""

import json
import os
import re
import shlex
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import unquote, urlsplit

import typer

from veltrix.commands.mistakes import CommandRefused

_TEMPLATES = Path(__file__).with_name("project")
_SUFFIX = ".tmpl"
_OF_WORKFLOWS = {"workflows.py", "tests/test_workflows.py", "events.ndjson"}
_NO_NAME = re.compile(r"[^a-z0-9]+")
_SEND = "veltrix send events.ndjson      # in another terminal: two orders, one of which fails"
_SEND_YOURS = "veltrix send --help             # in another terminal: send an event of yours"


class Installed(NamedTuple):
    """How a project asks for the Veltrix that this is: a requirement, and its wheel if it is one.

    Of the package index only what was installed from it: there the name may be somebody else's.
    """

    requirement: str
    note: str
    wheel: Path | None


def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")] = Path(),
) -> None:
    """Write a small project: a workflow, its test, events, a Dockerfile.

    What is there already is kept, and said. The project's name is that of the folder.

    Example: veltrix init shop
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise CommandRefused(f"{folder} is a file; name a folder")
    is_package = (folder / "workflows").is_dir()
    has_workflows = is_package or (folder / "workflows.py").exists()
    this = installed()
    facts = {
        "name": name_of(folder),
        "requirement": this.requirement,
        "embedded": _with_extra(this.requirement, "embedded"),
        "note": this.note,
        "wheels": " *.whl" if this.requirement.startswith("./") else "",
        "modules": "workflows/" if is_package else "workflows.py",
        "into": "workflows/" if is_package else "./",
        "send": _SEND_YOURS if has_workflows else _SEND,
    }
    kept: list[str] = []
    for template in sorted(_TEMPLATES.rglob(f"*{_SUFFIX}")):
        path = str(template.relative_to(_TEMPLATES)).removesuffix(_SUFFIX)
        if path in _OF_WORKFLOWS and has_workflows:
            continue
        is_new = _write(folder / path, _filled(template.read_text(encoding="utf-8"), facts))
        if not is_new:
            kept.append(path)
        typer.echo(f"{'wrote' if is_new else 'kept':<6}{path}")
    if this.wheel is not None and not (folder / this.wheel.name).exists():
        shutil.copyfile(this.wheel, folder / this.wheel.name)
        typer.echo(f"wrote {this.wheel.name}")
    _say_next(folder, kept, this.requirement, has_workflows=has_workflows)


def _say_next(folder: Path, kept: list[str], requirement: str, *, has_workflows: bool) -> None:
    if kept:
        typer.echo("What was there is as it was.")
    if "requirements.txt" in kept and not _asks_for_veltrix(folder / "requirements.txt"):
        typer.echo(f"requirements.txt does not ask for Veltrix: add the line  {requirement}")
    where = "" if folder == Path.cwd() else f"cd {shlex.quote(os.path.relpath(folder))} && "
    if has_workflows:
        typer.echo(
            f"\nThere are workflows here, so no sample was written.  Next:  {where}veltrix dev"
        )
        return
    typer.echo(
        f"\nNext:  {where}veltrix dev\n"
        "then, in another terminal there:  veltrix send events.ndjson\n"
        "and what became of it:  veltrix runs"
    )


def name_of(folder: Path) -> str:
    """A name for an image, made of the folder's."""
    return _NO_NAME.sub("-", folder.name.lower()).strip("-") or "shop"


def installed() -> Installed:
    """What the project has to ask for, as pip wrote down how this was installed (PEP 610)."""
    this = distribution("veltrix")
    origin = json.loads(this.read_text("direct_url.json") or "{}")
    if not origin:
        return Installed(f"veltrix=={this.version}", "", None)
    parts = urlsplit(origin.get("url", ""))
    wheel = Path(unquote(parts.path))
    if parts.scheme == "file" and wheel.suffix == ".whl" and wheel.is_file():
        return Installed(f"./{wheel.name}", "", wheel)
    name = f"veltrix-{this.version}-py3-none-any.whl"
    note = f"# Put {name} here, as `make wheel` in the repository of Veltrix makes it.\n"
    return Installed(f"./{name}", note, None)


def _with_extra(requirement: str, extra: str) -> str:
    name, equals, version = requirement.partition("==")
    return f"{name}[{extra}]{equals}{version}"


def _asks_for_veltrix(file: Path) -> bool:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return any("veltrix" in line.partition("#")[0].lower() for line in lines)


def _filled(text: str, facts: dict[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _write(path: Path, text: str) -> bool:
    """Whether it was written: what is there already is left, a link that leads nowhere too."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if not path.parent.is_dir():
            raise CommandRefused(f"{path.parent} is a file; nothing more was written") from None
        return False
    except OSError as error:
        raise CommandRefused(f"{path}: {error.strerror}; nothing more was written") from None
    return True
