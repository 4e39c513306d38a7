"""What an author's module raises when it is imported is told with its line, in one sentence."""

from pathlib import Path

import pytest

from veltrix.authoring.definitions import DefinitionError
from veltrix.authoring.registry import load_workflows


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import math\n\nx = nowhere\n", "{0}.py:3: NameError: name 'nowhere' is not defined"),
        ("import nowhere_to_be_found\n", "{0}.py:1: ModuleNotFoundError: No module named"),
        ("x = 1\ndef f(:\n", "{0}.py:2: SyntaxError: "),
        ("import json\n\njson.loads('[')\n", "{0}.py:3: JSONDecodeError: "),
        ("raise SystemExit(3)\n", "{0}.py:1: SystemExit: 3"),
        (
            "from veltrix import step\n\n\n@step(retrys=3)\ndef f() -> None: ...\n",
            "{0}.py:4: @step has no option 'retrys'; did you mean 'retries'?",
        ),
        (
            "from veltrix import step\n\n\nclass A:\n    @step\n    def f(self) -> None: ...\n",
            "{0}.py:5: step 'f' is a method; ",
        ),
    ],
    ids=["name", "module", "syntax", "library", "exit", "option", "method"],
)
@pytest.mark.parametrize("is_inner", [False, True], ids=["module", "package"])
def test_an_error_at_import_is_told_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    code: str,
    said: str,
    is_inner: bool,
) -> None:
    name = f"flows_{abs(hash(request.node.name))}"
    file = tmp_path / (f"{name}/inner.py" if is_inner else f"{name}.py")
    file.parent.mkdir(exist_ok=True)
    if is_inner:
        (file.parent / "__init__.py").touch()
    file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(DefinitionError) as refused:
        load_workflows(name)

    shown = "inner" if is_inner and "SyntaxError" in said else f"{name}{'/inner' * is_inner}"
    assert str(refused.value).startswith(said.format(shown)), str(refused.value)
    assert "\n" not in str(refused.value)
