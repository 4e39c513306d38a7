"""`veltrix init`: a small project that runs, to be changed into one's own."""

import re
from pathlib import Path
from typing import Annotated

import typer

from veltrix.commands.mistakes import CommandRefused

_TEMPLATES = Path(__file__).with_name("project")
_SUFFIX = ".tmpl"
_OF_WORKFLOWS = {"workflows.py", "tests/test_workflows.py", "events.ndjson"}
_NO_NAME = re.compile(r"[^a-z0-9]+")


def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")] = Path(),
) -> None:
    """Write a small project: a workflow, its test, events, a Dockerfile.

    What is there already is kept, and said. The project's name is that of the folder.

    Example: veltrix init shop
    """
    from importlib.metadata import version

    folder = folder.resolve()
    facts = {"name": name_of(folder), "version": version("veltrix")}
    has_workflows = (folder / "workflows.py").exists() or (folder / "workflows").exists()
    kept = False
    for template in sorted(_TEMPLATES.rglob(f"*{_SUFFIX}")):
        path = str(template.relative_to(_TEMPLATES)).removesuffix(_SUFFIX)
        if path in _OF_WORKFLOWS and has_workflows:
            continue
        is_new = _write(folder / path, _filled(template.read_text(), facts))
        kept = kept or not is_new
        typer.echo(f"{'wrote' if is_new else 'kept':<6}{path}")
    if kept:
        typer.echo("What was there is as it was.")
    if has_workflows:
        typer.echo("\nThere are workflows here, so no sample was written.  Next:  veltrix dev")
        return
    where = "" if folder == Path.cwd() else f"cd {folder.name} && "
    typer.echo(
        f"\nNext:  {where}veltrix dev\n"
        "then, in another terminal there:  veltrix send events.ndjson\n"
        "and what became of it:  veltrix runs"
    )


def name_of(folder: Path) -> str:
    """A name for an image and a user of a system, made of the folder's."""
    return _NO_NAME.sub("-", folder.name.lower()).strip("-") or "shop"


def _filled(text: str, facts: dict[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _write(path: Path, text: str) -> bool:
    """Whether it was written: what is there already is left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return False
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandRefused(f"{path}: {error.strerror}; nothing more was written") from None
    return True
