"""Rules no linter knows, each with the story of what it cost somebody."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from celery.app.defaults import NAMESPACES, flatten

ROOT = Path(__file__).resolve().parents[1]
CODE = ("app", "workflows", "tests", "bench", "alembic")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".ini", ".yml", ".yaml", ".cfg", ".json", ".mako"}
TEXT_NAMES = {"Makefile", "Dockerfile", "run"}
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400
# Longer than FILE_LINES_MAX because they are lists to look things up in, not code to be read.
LISTS = {"app/veltrix/settings/fields.py"}
# Words that say nothing: what does a manager do that a stage, a table or a queue does not?
EMPTY_WORDS = {"Manager", "Handler", "Helper", "Util", "Utils", "Service", "Base", "Data", "Info"}
EMPTY_FILE_NAMES = {"utils", "util", "helpers", "helper", "common", "services", "managers", "misc"}
# What the routes are given, in one dataclass; the real PostgreSQL and RabbitMQ of a test run.
NAMED_BY_THE_DESIGN = {"app/veltrix/web/services.py", "tests/support/services.py"}
# They wait for other processes, which signal nothing but their own end.
WAITING_ROOMS = {
    "app/veltrix/dev/children.py",
    "app/veltrix/dev/processes.py",
    "tests/support/wait.py",
}
# It starts itself again, with one variable more, before anything is imported.
STARTS_AGAIN = {"app/veltrix/processes/worker.py"}
# These end the session of an author, in a savepoint or in nothing; the journal's transaction,
# which the caller opened, is the commit.
SAVEPOINTS = {
    f"app/veltrix/pipeline/execute/transactional/{name}.py": {on}
    # The guard passes on what is asked of the driver's connection, if its gate lets it.
    for name, on in (("savepoints", "session"), ("together", "session"), ("guard", "super()"))
}
# What TLS believes; the settings only try whether a file has a CA in it.
BELIEVE = {"app/veltrix/tls.py", "app/veltrix/settings/links.py"}
# The probe of somebody else's settings connects to nothing.
HAVE_CELERY = {"app/veltrix/broker/celery_app.py", "app/veltrix/doctor/facts/celery_probe.py"}
# `veltrix dev` passes it on to its processes.
KNOW_THE_BROKER = {"app/veltrix/broker/connect.py", "app/veltrix/dev/run.py"}

Finding = tuple[int, str]


def python_files(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    found = [p for p in ROOT.iterdir() if p.is_file()]
    for folder in (*CODE, "docs", ".ci"):
        found += [p for p in (ROOT / folder).rglob("*") if p.is_file()]
    return sorted(p for p in found if p.suffix in TEXT_SUFFIXES or p.name in TEXT_NAMES)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def calls(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, what it is called on, name) of every call of an attribute."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, ast.unparse(node.func.value), node.func.attr


def broken(files: list[Path], rule: Callable[[Path], Iterator[Finding]]) -> list[str]:
    return [f"{name_of(path)}:{line}: {what}" for path in files for line, what in rule(path)]


def is_celery_task_call(on: str) -> bool:
    """`pool.apply_async` hands a list to a child of the worker and publishes nothing."""
    return on.rpartition(".")[2] not in {"pool", "_pool"}


def test_only_the_relay_publishes() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        is_worker = name_of(path).startswith("app/veltrix/worker/")
        for line, on, name in calls(path):
            if name == "apply_async" and is_worker and not is_celery_task_call(on):
                continue
            if name in {"delay", "apply_async", "send_task", "retry"}:
                yield line, f"{on}.{name}(...)"

    assert not broken(python_files("app", "workflows"), rule), (
        "A task published beside the database is lost by a crash between the two, and a Celery"
        " retry leaves the run without an outcome. Insert a run (accept) or return an outcome"
        " (decide): the relay publishes what is due."
    )


def test_only_one_module_commits() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        for line, on, name in calls(path):
            is_savepoint = on in SAVEPOINTS.get(name_of(path), set())
            is_the_module = name_of(path) == "app/veltrix/store/transactions.py"
            if name == "commit" and not is_the_module and not is_savepoint:
                yield line, f"{on}.commit()"

    assert not broken(python_files("app", "workflows", "alembic"), rule), (
        "A commit in the middle of a stage makes half of it durable. Open the transaction in the"
        " stage (store.transactions.transaction) and pass the Connection down."
    )


def test_files_and_functions_are_small_enough_to_read_at_once() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) >= FILE_LINES_MAX and name_of(path) not in LISTS:
            yield 1, f"{len(lines)} lines"
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = lines[node.lineno - 1 : node.end_lineno]
                length = sum(1 for line in body if line.strip() and line.strip()[0] != "#")
                if length > FUNCTION_LINES_MAX:
                    yield node.lineno, f"{node.name} has {length} lines"

    assert not broken(python_files("app", "workflows"), rule), (
        "The codebases that are hard to live in have files of thousands of lines. Split by noun or"
        " stage, not by size."
    )


def test_names_say_something() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        empty = EMPTY_FILE_NAMES & set(parts)
        if empty and name_of(path) not in NAMED_BY_THE_DESIGN:
            yield 1, f"a file or folder named {empty.pop()}"
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                words = set(re.findall(r"[A-Z][a-z0-9]*", node.name))
                if words & EMPTY_WORDS:
                    yield node.lineno, f"class {node.name}"
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                node.name.strip("_").split("_")[0] in {"process", "handle"}
            ):
                yield node.lineno, f"function {node.name}"

    assert not broken(python_files("app", "workflows", "tests", "bench"), rule), (
        "`utils` is where code goes that nobody finds again, and a Manager manages whatever is"
        " added next. Take the word from the glossary (docs/reference/glossary.md) or add one."
    )


def is_rule_of_doctor(node: ast.AST) -> bool:
    """Its title and its reason stand in its decorator, and are shown to users."""
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(one).startswith("rules.rule(") for one in decorators)


def test_what_is_public_says_what_it_promises() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        tree = tree_of(path)
        if tree.body and ast.get_docstring(tree) is None:
            yield 1, "the module"
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and ast.get_docstring(node) is None
                and "overload" not in {ast.unparse(d) for d in node.decorator_list}
                and not is_rule_of_doctor(node)
            ):
                yield node.lineno, node.name

    assert not broken(python_files("app"), rule), (
        "A docstring is the promise: what a caller can rely on, and what None means. Without it the"
        " next change keeps the code and breaks the promise."
    )


def test_nothing_waits_by_sleeping() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        # A step that takes time is the work under test, not a wait for it.
        is_work = name_of(path).startswith("tests/") and "workflows" in name_of(path)
        if is_work or name_of(path) in WAITING_ROOMS:
            return
        for line, on, name in calls(path):
            if name == "sleep" and on == "time":
                yield line, "time.sleep(...)"

    assert not broken(python_files("app", "workflows", "tests"), rule), (
        "A sleep is too short on a busy machine and too long on every other, and a thread that"
        " sleeps cannot be told to stop. In tests: tests.support.wait.until; in app: wait for an"
        " Event with a timeout."
    )


def test_every_test_runs() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and (
                node.attr in {"skip", "skipif", "xfail", "importorskip"}
                and ast.unparse(node.value) in {"pytest", "pytest.mark"}
            ):
                yield node.lineno, ast.unparse(node)

    assert not broken(python_files("tests"), rule), (
        "A skipped test is a promise nobody checks. A missing service is a failure."
    )


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")

    found = lines_with(later)

    assert not found, "Do it, or file an issue: a note in the code is read by nobody."


def test_no_path_of_somebodys_machine_is_written_down() -> None:
    machine = re.compile(r"(?<![\w.}-])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me)/")

    found = lines_with(machine)

    assert not found, "It works only there, and it tells strangers how the machine is laid out."


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()[:120]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_folder_of_migrations_is_no_package() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists(), (
        "alembic/__init__.py hides the installed alembic from everything that runs in this folder."
    )


def test_inside_app_names_come_from_the_module_that_defines_them() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.level > 0:
                yield node.lineno, ast.unparse(node)
            elif isinstance(node, ast.ImportFrom) and node.module == "veltrix":
                # These need no front door.
                modules = {p.stem for p in (ROOT / "app" / "veltrix").iterdir()}
                if not {alias.name for alias in node.names} <= modules:
                    yield node.lineno, ast.unparse(node)
            if isinstance(node, ast.Import) and any(a.name == "veltrix" for a in node.names):
                yield node.lineno, ast.unparse(node)

    assert not broken(python_files("app"), rule), (
        "The front door imports half of the package: a module that imports the front door is a"
        " cycle, and who imports first decides whether it works."
    )


def test_only_the_settings_read_the_environment() -> None:
    def rule(path: Path) -> Iterator[Finding]:
        name = name_of(path)
        if name in STARTS_AGAIN or name.startswith(("app/veltrix/settings/", "app/veltrix/dev/")):
            return  # dev copies the environment for its child processes
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and (
                ast.unparse(node) in {"os.environ", "os.getenv", "os.environb", "os.putenv"}
            ):
                yield node.lineno, ast.unparse(node)

    assert not broken(python_files("app", "workflows"), rule), (
        "A variable read somewhere in the code is not in docs/settings.md, has no bounds, and a"
        " typing error in its name is the default. Add a setting and pass it in."
    )


def test_one_file_says_how_rabbitmq_is_reached_and_one_whom_we_believe() -> None:
    made = {
        "kombu.Connection", "Connection", "amqp.Connection", "pika.URLParameters", "URLParameters",
        "pika.ConnectionParameters", "ConnectionParameters", "pika.SSLOptions", "SSLOptions",
    }  # fmt: skip
    believed = {
        "SSLContext", "create_default_context", "_create_unverified_context", "wrap_socket",
        "get_server_certificate",
    }  # fmt: skip

    def rule(path: Path) -> Iterator[Finding]:
        name = name_of(path)
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in made and name != "app/veltrix/broker/connect.py":
                    yield node.lineno, called
                if called == "Celery" and name not in HAVE_CELERY:
                    yield node.lineno, called
                if called.rpartition(".")[2] in believed and name not in BELIEVE:
                    yield node.lineno, called
                if called.endswith("broker_url.get_secret_value") and name not in KNOW_THE_BROKER:
                    yield node.lineno, called

    assert not broken(python_files("app"), rule), (
        "py-amqp checks the name in RabbitMQ's certificate only if it is told one: a place that"
        " connected in its own way sent the password to whoever answered. Take the way from"
        " veltrix.broker.connect, and contexts of TLS from veltrix.tls."
    )


def test_celery_is_configured_in_one_file() -> None:
    settings = {
        name for name, _ in flatten(NAMESPACES) if re.match(r"(task|worker|result|event)_", name)
    }
    assert "task_acks_late" in settings

    naming = set()
    for path in python_files("app"):
        for node in ast.walk(tree_of(path)):
            word = (
                node.arg
                if isinstance(node, ast.keyword)
                else node.value
                if isinstance(node, ast.Constant)
                else None
            )
            if word in settings and not name_of(path).startswith("app/veltrix/doctor/"):
                naming.add(name_of(path))

    assert len(naming) <= 1, (
        "Celery's defaults lose work (loss-modes W01 to W14), so each setting is stated once, with"
        f" its reason, where doctor can compare it: {sorted(naming)}"
    )


@pytest.mark.parametrize(
    "file",
    [
        "requirements.txt",
        "requirements-run.txt",
        "requirements-data.txt",
        "bench/peers/requirements.txt",
    ],
)
def test_locked_requirements_name_hashes_and_no_place(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    options = [line for line in text.splitlines() if line.startswith("-")]
    pins = re.findall(r"^[a-z0-9][a-z0-9._-]*==\S+ \\$", text, re.MULTILINE)
    places = re.findall(
        r"^[^#\n]*(?:://|@ |\s/|--(?:index|extra-index|find|trusted)).*", text, re.MULTILINE
    )

    assert not options, "an index or find-links line makes every other machine ask this one's index"
    assert not places, "a pin is a name, a version and hashes: no URL, no path"
    assert not re.search(r"://|(?:^|\s)/\w", text), "not in a comment either"
    assert pins
    for pin in pins:
        assert f"{pin}\n    --hash=sha256:" in text, f"{pin} has no hash"


FACES = {"api", "commands", "console", "web"}


def test_a_folder_has_few_files_unless_it_is_a_face() -> None:
    package = Path("app/veltrix")
    full = {
        str(folder.relative_to(package))
        for folder in package.rglob("*")
        if folder.is_dir() and len(set(folder.glob("*.py")) - {folder / "__init__.py"}) > 16
    }

    assert full <= FACES


def test_each_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for path in python_files("app"):
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))

    assert len(places) > 300
    assert not {name: files for name, files in places.items() if len(files) > 1}, (
        "A reader looks up the wrong one, and the API's document described a parameter by it. Say"
        " of what it is."
    )


def test_a_face_writes_no_sql() -> None:
    """What an api, a page or a command may be told of rows is a read of the room they are of."""

    def rule(path: Path) -> Iterator[Finding]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy":
                strange = {alias.name for alias in node.names} - {"Connection", "Engine"}
                if strange:
                    yield node.lineno, f"imports {', '.join(sorted(strange))}"
        for line, on, name in calls(path):
            if name == "exec_driver_sql" or (name == "execute" and on == "tx"):
                yield line, f"{on}.{name}(...)"

    faces = python_files("app/veltrix/api", "app/veltrix/console", "app/veltrix/commands")
    assert len(faces) > 80
    assert not broken(faces, rule), (
        "A column that is renamed is looked for in pipeline, operations, access and store; a"
        " statement in a face was a second copy of a read, and differed from it."
    )
