"""Evidence against a Celery application: of a setting, a task, a queue, a call, a command line."""

from collections.abc import Callable, Iterator
from typing import Any

from veltrix.doctor.facts.celery_app import CeleryApp, CeleryQueue, CeleryTask
from veltrix.doctor.facts.celery_commands import CeleryCommand
from veltrix.doctor.facts.code import CodePlace
from veltrix.doctor.rule import Evidence


def of_setting(app: CeleryApp, key: str, cure: str, found: str | None = None) -> Evidence:
    """A setting of the application that is not safe, with its value and where it was set."""
    origin, file, line = app.origin(key)
    told = f"{key} = {app.value(key)!r}" if found is None else found
    return Evidence(found=told, origin=origin, cure=cure, file=file, line=line)


def of_task(app: CeleryApp, task: CeleryTask, found: str, cure: str) -> Evidence:
    """A task that is not safe, where its code begins."""
    file = app.shown(task.file)
    origin = f"{file}:{task.line}" if file else "the application"
    return Evidence(
        found=f"task {task.name}: {found}", origin=origin, cure=cure, file=file, line=task.line
    )


def of_queue(app: CeleryApp, queue: CeleryQueue, found: str, cure: str) -> Evidence:
    """A queue that the application declares, where its name is written."""
    place = app.places.get(f"Queue {queue.name}") or app.places.get("task_default_queue")
    file, line = place or (None, None)
    origin = f"{file}:{line}" if place else "Celery makes it from its settings"
    return Evidence(
        found=f"queue {queue.name}: {found}", origin=origin, cure=cure, file=file, line=line
    )


def of_place(place: CodePlace, found: str, cure: str) -> Evidence:
    """A line of code."""
    origin = f"{place.file}:{place.line}"
    return Evidence(found=found, origin=origin, cure=cure, file=place.file, line=place.line)


def of_command(command: CeleryCommand, found: str, cure: str) -> Evidence:
    """A command line. `found` quotes names of options only: a value may be a secret."""
    return Evidence(
        found=f"celery {command.kind}: {found}",
        origin=f"{command.file}:{command.line}",
        cure=cure,
        file=command.file,
        line=command.line,
    )


def of_version(app: CeleryApp, package: str, cure: str) -> Evidence:
    """A package that is too old."""
    found = f"{package} {app.versions[package]}"
    return Evidence(found=found, origin=f"installed for Python {app.python}", cure=cure)


def of_option(
    app: CeleryApp,
    key: str,
    option: str,
    is_bad: Callable[[Any], bool],
    cure: str,
    found: str | None = None,
) -> Iterator[Evidence]:
    """The setting, if any task follows it or there is none; else the tasks that set it badly."""
    bad = [one for one in app.tasks if is_bad(app.option(one, option, key))]
    if is_bad(app.value(key)):
        if bad or not app.tasks:
            yield of_setting(app, key, cure, found)
        return
    for task in bad:
        told = f"{option} = {app.option(task, option, key)!r}"
        yield of_task(app, task, told, f"take {option} out of its decorator, or set it safely")


def tasks_with(app: CeleryApp, option: str, key: str | None = None) -> list[CeleryTask]:
    """Tasks for which an option is true."""
    return [one for one in app.tasks if app.option(one, option, key)]
