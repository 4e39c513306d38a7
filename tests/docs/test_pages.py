"""What stands in the pages for users is so: commands, paths, code; and it can be read."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.docs.pages import ROOT, TUTORIAL, USER_PAGES, Block, blocks_of, name_of
from veltrix.cli import cli
from veltrix.docs.pages import DOCS, PAGES

# Their Python is run elsewhere: in the engine, by the reader's steps, with a client that is made.
RUN_ELSEWHERE = {
    "docs/how-to/writing-workflows.md": "tests/workflows/test_writing_workflows.py",
    "docs/how-to/services.md": "tests/api/test_generated_client.py",
    name_of(TUTORIAL): "tests/docs/test_tutorial.py",
}
VELTRIX: Any = get_command(cli)
WORDS_MAX = 30
COLUMNS_MAX = 100


def each(language: str) -> list[tuple[str, Block]]:
    """Where it stands, and the block."""
    found = [
        (f"{name_of(page)}:{block.line}", block)
        for page in USER_PAGES
        for block in blocks_of(page)
        if block.language == language
    ]
    assert found
    return found


def commands_of(text: str) -> Iterator[list[str]]:
    """Each `veltrix` command of a block, in words; of `pause|abort` one for each."""
    for found in re.finditer(r"(?:^|\$\(|; )veltrix ((?:[^#&;|)\n]|\w\|\w)+)", text, re.MULTILINE):
        yield from map(list, product(*(word.split("|") for word in shlex.split(found[1]))))


def wrong_in(words: list[str]) -> str | None:
    """What a command line has that `veltrix` has not."""
    command = VELTRIX
    rest = list(words)
    while hasattr(command, "commands"):
        if rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        elif command.name == "audit":  # `list` may be left out
            command = command.commands["list"]
        else:
            return f"there is no `veltrix {' '.join(words)}`"
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - known
    return f"`veltrix {' '.join(words)}` has no {unknown}" if unknown else None


def test_each_command_is_one_that_there_is_with_options_that_it_has() -> None:
    shells = each("sh")
    commands = [(where, words) for where, block in shells for words in commands_of(block.text)]
    wrong = [f"{where}: {found}" for where, words in commands if (found := wrong_in(words))]

    assert len(commands) > 50
    assert not wrong


def test_each_block_is_one_that_a_shell_can_read() -> None:
    blocks = "".join(
        f"block_{number}() {{\n{block.text}\n}}\n" for number, (_, block) in enumerate(each("sh"))
    )

    read = subprocess.run(["bash", "-n"], input=blocks, capture_output=True, text=True, check=False)

    assert read.returncode == 0, read.stderr


def test_each_path_of_the_api_is_one_that_there_is() -> None:
    there = [
        re.sub(r"\{\w+\}", "[^/]+", path)
        for path in json.loads((DOCS / "openapi.json").read_text())["paths"]
    ]
    asked = {
        (where, path)
        for where, block in each("sh")
        for path in re.findall(r"(?:\$API|http://127\.0\.0\.1:8080)(/v1/[^\s\"'?]*)", block.text)
    }

    assert len(asked) > 5
    assert not {one for one in asked if not any(re.fullmatch(path, one[1]) for path in there)}


@pytest.mark.parametrize(
    "page", [page for page in USER_PAGES if name_of(page) not in RUN_ELSEWHERE], ids=name_of
)
def test_python_of_a_page_can_be_imported(page: Path, tmp_path: Path) -> None:
    code = "\n\n".join(block.text for block in blocks_of(page) if block.language == "python")
    file = tmp_path / "page_of_docs.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[file.stem]


def test_what_runs_python_elsewhere_is_there() -> None:
    assert not [path for path in RUN_ELSEWHERE.values() if not (ROOT / path).is_file()]


def test_a_dockerfile_has_no_findings(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    hadolint = Path(sys.executable).parent / "hadolint"
    for where, block in each("dockerfile"):
        file.write_text(block.text)

        linted = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)

        assert linted.returncode == 0, f"{where}: {linted.stdout}"


def test_yaml_names_services_of_the_compose_file() -> None:
    compose = (ROOT / "docker-compose.yml").read_text().partition("\nservices:\n")[2]
    there = set(re.findall(r"^  ([\w-]+):", compose, re.MULTILINE))

    for where, block in each("yaml"):
        named = re.findall(r"^  ([\w-]+):", block.text.partition("services:\n")[2], re.MULTILINE)
        assert named, where
        assert set(named) <= there, where


def test_each_block_says_its_language() -> None:
    known = {"sh", "python", "text", "dockerfile", "yaml", "sql", "ini", "{toctree}"}
    odd = {
        (name_of(page), block.line, block.language)
        for page in USER_PAGES
        for block in blocks_of(page)
        if block.language not in known
    }

    assert not odd


def prose_of(text: str) -> Iterator[str]:
    """Paragraphs, items and cells, without code, targets of links and pictures."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\n(?=#)|\|", text):
        yield re.sub(r"\s+", " ", re.sub(r"^\s*(?:[-*]|\d+\.|#+) ", "", paragraph)).strip()


def long_sentences(page: Path) -> list[str]:
    return [
        sentence
        for paragraph in prose_of(page.read_text(encoding="utf-8"))
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph)
        if len(sentence.split()) > WORDS_MAX
    ]


@pytest.mark.parametrize("page", USER_PAGES, ids=name_of)
def test_no_sentence_has_more_than_thirty_words(page: Path) -> None:
    assert not long_sentences(page)


@pytest.mark.parametrize("page", USER_PAGES, ids=name_of)
def test_lines_are_wrapped(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$",
        lambda code: "\n" * code[0].count("\n"),
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    wide = [
        number
        for number, line in enumerate(text.splitlines(), 1)
        # Tables cannot be wrapped, and neither can a link or a word.
        if len(line) > COLUMNS_MAX
        and not line.startswith(("|", "!"))
        and " " in line[:COLUMNS_MAX].lstrip(" -")
    ]

    assert not wide, f"{name_of(page)} is wider than {COLUMNS_MAX} in lines {wide}"


@pytest.mark.parametrize("name", PAGES)
def test_a_file_that_is_made_of_the_code_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), (
        "run `python -m veltrix.docs`"
    )
