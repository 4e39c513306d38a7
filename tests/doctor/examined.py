"""Applications of these tests, examined through the real probe, each once."""

from functools import cache
from pathlib import Path

from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.examine import Examination, examine
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.facts.celery_read import import_or_read
from veltrix.doctor.rule import Rule

APPS = Path(__file__).with_name("apps")
SPECS = {
    "default_rabbitmq": "shop",
    "django_style": "project:app",
    "acks_late_alone": "tasks",
    "chords": "pipeline",
    "redis_visibility": "worker",
    "clean": "store.application",
    "named_app": "app.celery:queue",
    "not_importable": "billing",
}


def celery_rules() -> list[Rule]:
    """Those over Celery applications."""
    return [rule for rule in all_rules() if rule.reads is CeleryApp]


@cache
def facts_of(name: str) -> CeleryApp:
    """What the probe tells of an application in `apps`."""
    return import_or_read(SPECS[name], APPS / name)


def held_against(app: CeleryApp) -> Examination:
    """All rules, held against facts."""
    return examine(celery_rules(), {CeleryApp: lambda: app})


def write(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
