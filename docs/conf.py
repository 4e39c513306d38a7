"""How the pages become a site: `make docs`. Nothing here asks the network."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "Veltrix"
author = "the authors of Veltrix"
copyright = author  # noqa: A001 - Sphinx asks for it by this name
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
language = "en"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# As GitHub makes them, so that a link to a heading leads there in both.
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = f"Veltrix {release}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "monokai"
