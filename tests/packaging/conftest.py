"""The wheel of this checkout."""

from pathlib import Path

import pytest

from tests.packaging.installing import PIP, ROOT, done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, as `make wheel` makes it."""
    folder = tmp_path_factory.mktemp("wheels")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir")
    done([*PIP, "wheel", *options, folder, ROOT])
    (made,) = folder.iterdir()
    return made
