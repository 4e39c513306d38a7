"""The files that are made of the code: pages of `docs/`, and what is loaded elsewhere."""

from pathlib import Path

from veltrix.docs import alerts, asyncapi, board, openapi, problems_page, settings_page

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = {
    "docs/settings.md": settings_page.render,
    "docs/openapi.json": openapi.render,
    "docs/asyncapi.json": asyncapi.render,
    "docs/reference/problems.md": problems_page.render,
    "deploy/prometheus/veltrix-alerts.yml": alerts.render,
    "deploy/grafana/veltrix.json": board.render,
}


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` says which are not current: 0 none, 1 some."""
    made = {ROOT / name: render() for name, render in PAGES.items()}
    old = {p: t for p, t in made.items() if not p.is_file() or p.read_text(encoding="utf-8") != t}
    for path, text in old.items():
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is old; run: python -m veltrix.docs")  # noqa: T201
        else:
            path.write_text(text, encoding="utf-8")
    return int(bool(old) and "--check" in arguments)
