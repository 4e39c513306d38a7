"""Runs in somebody else's Python: says as JSON what a Celery application is set to.

Only the standard library and their Celery: `python celery_probe.py FOLDER SPEC OUTPUT`. Their
folder is first on the path, and ours is not on it. What they print is theirs; the answer goes to a
file. Values that JSON has no form for are told by their type, and URLs lose their passwords.
"""

from __future__ import annotations  # their Python may be older than ours

import importlib
import inspect
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LONG = 2000
TASK_OPTIONS = (
    "acks_late", "acks_on_failure_or_timeout", "acks_on_failure", "acks_on_timeout",
    "reject_on_worker_lost", "retry_on_worker_lost", "ignore_result", "time_limit",
    "soft_time_limit", "rate_limit", "expires", "serializer", "compression", "max_retries",
    "default_retry_delay", "track_started", "priority", "queue", "delivery_mode", "mandatory",
)  # fmt: skip
QUEUE_OPTIONS = (
    "durable", "auto_delete", "exclusive", "expires", "message_ttl", "max_length",
    "max_length_bytes", "max_priority", "no_declare",
)  # fmt: skip
PACKAGES = [
    "celery",
    "kombu",
    "amqp",
    "billiard",
    "vine",
    "flower",
    "redis",
    "sqlalchemy",
    "django",
]
# As far as the last @ of the word: a password may have any other sign in it, unquoted.
PASSWORD = re.compile(r"(?<=://)\S*@")
# As `'password': 'x'` of a dictionary, `api_key: x`, `Authorization: Bearer x`.
SAID = re.compile(
    r"(\w*(?:passw|secret|token|api_?key|credential|pwd)\w*[\"']?\s*:\s*)"
    r"(?:[\"'][^\"']*[\"']|\S+)",
    re.IGNORECASE,
)
BEARER = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)
PARAMETER = re.compile(
    r"((?:^|[?&;,\s])\w*(?:passw|secret|token|key|credential|pwd)\w*=)[^&\s]+", re.IGNORECASE
)


def main() -> None:
    """What is found, or why nothing is, goes to the file that the caller named."""
    folder, spec, output, kind = sys.argv[1:5]
    # This file's own folder would be first: a module of theirs may have the name of one of ours.
    sys.path[0] = folder
    os.chdir(folder)
    try:
        told = look(find(spec) if kind == "app" else bare(spec), spec)
    except BaseException as error:  # noqa: BLE001 - a SystemExit of theirs, too
        told = {"error": said(error)}
    Path(output).write_text(json.dumps(told), encoding="utf-8")


def look(app: Any, spec: str) -> dict[str, Any]:
    """All that is asked of an application, after its own modules are imported."""
    app.finalize(auto=True)
    trouble = None
    try:
        app.loader.import_default_modules()
    except BaseException as error:  # noqa: BLE001
        trouble = said(error)
    config, given, unknown = settings(app)
    return {
        "name": app.main or spec,
        "config": config,
        "given": given,
        "unknown": unknown,
        "tasks": tasks(app),
        "queues": queues(app),
        "versions": versions(),
        "python": sys.version.split()[0],
        "files": files(),
        "trouble": trouble,
    }


def find(spec: str) -> Any:
    """`module:name`, `module.name`, or a module that has an application."""
    from celery import Celery

    module: Any
    module_name, _, name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        parent, _, last = module_name.rpartition(".")
        if name or not parent or getattr(error, "name", None) != module_name:
            raise
        module, name = importlib.import_module(parent), last
    if name:
        found = module
        for part in name.split("."):
            found = getattr(found, part)
        return found if isinstance(found, Celery) else _only(vars(found), spec)
    for usual in ("app", "celery", "application", "celery_app"):
        found = getattr(module, usual, None)
        if isinstance(found, Celery):
            return found
    if hasattr(module, "__path__") and not any(
        isinstance(x, Celery) for x in vars(module).values()
    ):
        module = importlib.import_module(module_name + ".celery")
    return _only(vars(module), spec)


def bare(file: str) -> Any:
    """An application that has nothing but the settings of a file."""
    from importlib.util import module_from_spec, spec_from_file_location

    from celery import Celery
    from celery.app import defaults

    spec = spec_from_file_location("their_settings", file)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = module_from_spec(spec)
    sys.modules["their_settings"] = module
    spec.loader.exec_module(module)
    known = {key for key, _ in defaults.flatten(defaults.NAMESPACES)}
    old = set(getattr(defaults, "_TO_NEW_KEY", ()))
    is_named = any(  # as Django has them: CELERY_TASK_ACKS_LATE, which was never a name of its own
        name.startswith("CELERY_") and name not in old and name[7:].lower() in known
        for name in vars(module)
    )
    app = Celery("settings")
    app.config_from_object(module, namespace="CELERY" if is_named else None)
    return app


def _only(names: dict[str, Any], spec: str) -> Any:
    from celery import Celery

    found = [value for value in names.values() if isinstance(value, Celery)]
    if len({id(one) for one in found}) != 1:
        raise LookupError(f"{spec} has {len(found)} Celery applications; name one as MODULE:NAME")
    return found[0]


def settings(app: Any) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """(every known key and its value, the keys that somebody gave, those that Celery ignores)."""
    from celery.app import defaults

    known = [key for key, _ in defaults.flatten(defaults.NAMESPACES)]
    conf = app.conf
    conf.get("task_acks_late")  # which loads it
    config = {
        key: "***" if _is_secret(key) and conf.get(key) else value_of(conf.get(key))
        for key in known
    }
    for key in ("broker_url", "result_backend"):  # which may come from the environment
        with suppress(AttributeError):
            config[key] = value_of(getattr(conf, key))
    given: dict[str, str] = {}
    unknown: list[str] = []
    namespace = (getattr(conf, "prefix", None) or "").rstrip("_")
    old = set(getattr(defaults, "_TO_NEW_KEY", ())) or set(getattr(defaults, "_OLD_DEFAULTS", ()))
    for layer in conf.maps[:-1]:
        for raw in _keys(layer):
            key = raw
            if namespace:
                if not raw.startswith(namespace + "_"):
                    continue
                key = raw[len(namespace) + 1 :]
            lower = key.lower()
            if lower in config:
                given.setdefault(lower, raw)
            elif raw in old or key in old:
                continue
            elif namespace or looks_set(raw, layer):
                unknown.append(raw)
    return config, given, sorted(set(unknown) - {"deprecated_settings"})  # Celery's own note


def _keys(layer: Any) -> list[str]:
    try:
        return [key for key in list(layer) if isinstance(key, str) and not key.startswith("_")]
    except Exception:  # noqa: BLE001 - any object of theirs
        return []


def looks_set(name: str, layer: Any) -> bool:
    """It is meant as a setting, and is no import or function that a module of settings also has."""
    try:
        value = layer[name]
    except Exception:  # noqa: BLE001 - any object of theirs
        return False
    return not (inspect.ismodule(value) or inspect.isclass(value) or callable(value))


def tasks(app: Any) -> list[dict[str, Any]]:
    """Its tasks with the options in effect, and where their code begins; not those of Celery."""
    found = []
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        run = inspect.unwrap(getattr(task, "run", task))
        file, line = None, None
        with suppress(TypeError, OSError):
            file, line = inspect.getsourcefile(run), inspect.getsourcelines(run)[1]
        options = {option: value_of(getattr(task, option, None)) for option in TASK_OPTIONS}
        retried = getattr(task, "autoretry_for", None)
        options["autoretry_for"] = [getattr(x, "__name__", str(x)) for x in retried or ()]
        found.append({"name": name, "file": file, "line": line, "options": options})
    return found


def queues(app: Any) -> list[dict[str, Any]]:
    """Its queues as it would declare them; nothing is declared."""
    found = []
    for name, queue in sorted(dict(app.amqp.queues).items()):
        exchange = queue.exchange
        one = {option: value_of(getattr(queue, option, None)) for option in QUEUE_OPTIONS}
        one.update(
            name=name,
            routing_key=value_of(queue.routing_key),
            arguments=value_of(queue.queue_arguments or {}),
            exchange=value_of(exchange.name if exchange is not None else ""),
            exchange_type=value_of(exchange.type if exchange is not None else "direct"),
            exchange_durable=value_of(exchange.durable if exchange is not None else True),
            delivery_mode=value_of(getattr(exchange, "delivery_mode", None)),
        )
        found.append(one)
    return found


def versions() -> dict[str, str]:
    """What is installed of the packages that matter."""
    from importlib import metadata

    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def files() -> list[str]:
    """Source files of theirs that were loaded: those under their folder, without environments."""
    here = str(Path.cwd().resolve()) + os.sep
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py"):
            real = str(Path(file).resolve())
            if real.startswith(here) and "site-packages" not in real:
                found.add(real)
    return sorted(found)


def value_of(value: Any) -> Any:
    """A value as JSON has it, without secrets."""
    if isinstance(value, float) and value - value != 0:  # JSON has no form for what is not finite
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return plain(value)[:LONG]
    if isinstance(value, dict):
        return {str(k): "***" if _is_secret(str(k)) else value_of(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [value_of(one) for one in value]
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return f"<{type(value).__name__}>"


def _is_secret(name: str) -> bool:
    words = "passw|pwd|secret|token|credential|private|access_key|api_?key|security_key|sas"
    return re.search(words, name, re.IGNORECASE) is not None


def said(error: BaseException) -> str:
    """An error in one line, without secrets."""
    return f"{type(error).__name__}: {plain(str(error))[:LONG]}"


def plain(text: str) -> str:
    """Without the passwords of URLs in it, and what follows a word for a secret."""
    text = PARAMETER.sub(r"\1***", PASSWORD.sub("***@", text))
    return SAID.sub(r"\1***", BEARER.sub(r"\1 ***", text))


if __name__ == "__main__":
    main()
