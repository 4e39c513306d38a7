"""The pages of `docs/` that are made of the code."""

from pathlib import Path

from veltrix.docs import asyncapi, openapi, problems_page, settings_page

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = {
    "settings.md": settings_page.render,
    "openapi.json": openapi.render,
    "asyncapi.json": asyncapi.render,
    "reference/problems.md": problems_page.render,
}


def main(arguments: list[str]) -> int:
    """Writes the pages, or with `--check` says which are not current: 0 none, 1 some."""
    made = {DOCS / name: render() for name, render in PAGES.items()}
    old = {p: t for p, t in made.items() if not p.is_file() or p.read_text(encoding="utf-8") != t}
    for path, text in old.items():
        if "--check" in arguments:
            print(f"docs/{path.relative_to(DOCS)} is old; run: python -m veltrix.docs")  # noqa: T201
        else:
            path.write_text(text, encoding="utf-8")
    return int(bool(old) and "--check" in arguments)
