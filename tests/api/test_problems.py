"""Every refusal is in the one list of problems, and nothing stands there that nobody says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import veltrix
from tests.api.conftest import Api
from veltrix.web.problems import PROBLEMS, Problem

SOURCE = Path(veltrix.__file__).parent
# What makes a refusal: its slug is the first argument.
SAY = {"Problem", "ReplayRefused", "NotDone"}
OF_STARLETTE = {"method-not-allowed"}


def said() -> Iterator[tuple[str, str]]:
    """Every word that is, or may be, the slug of a refusal, and where."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SAY and node.args:
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value, f"{path.relative_to(SOURCE)}:{node.lineno}"


def test_every_refusal_is_a_problem_of_the_list() -> None:
    unknown = {where: slug for slug, where in said() if slug not in PROBLEMS}

    assert not unknown


def test_every_problem_of_the_list_is_said_somewhere() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in SOURCE.rglob("*.py")
        if path.name != "problems.py"
    )
    own = (SOURCE / "web" / "problems.py").read_text(encoding="utf-8").partition("_OF_STATUS")[2]

    assert not [s for s in PROBLEMS if f'"{s}"' not in source + own and s not in OF_STARLETTE]


def test_an_unknown_path_and_a_wrong_method_are_sentences_with_a_cure(api: Api) -> None:
    lost, wrong = api.get("/v1/v1/runs"), api.request("PUT", "/v1/events")

    assert lost.body["detail"] == "there is no path '/v1/v1/runs'; /docs has those there are"
    assert wrong.body["detail"].startswith("'/v1/events' does not take PUT; it takes ")


def test_a_problem_has_the_status_of_its_kind_and_no_other() -> None:
    assert {slug: Problem(slug, "no").status for slug in PROBLEMS} == {
        slug: kind.status for slug, kind in PROBLEMS.items()
    }
    with pytest.raises(KeyError):
        Problem("never-heard-of", "no")
