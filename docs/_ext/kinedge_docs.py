"""The extension of Sphinx: writes the generated pages before the build, and the navigation into the first page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from navigation import toctrees
from reference_api import api_pages, load_package
from reference_cli import command_pages
from reference_config import config_pages
from reference_http import http_pages

__all__ = ["generated_pages", "setup", "write_generated"]

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
_LINK = re.compile(r"\[([^\]\n]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def generated_pages() -> dict[str, str]:
    """Return every page that the code makes: path below ``docs`` -> Markdown."""
    pages = {**command_pages(), **config_pages(), **http_pages(), **api_pages(load_package())}
    for name, source in (("changelog", "CHANGELOG.md"), ("contributing", "CONTRIBUTING.md")):
        text = (ROOT / source).read_text(encoding="utf-8")
        pages[f"about/{name}.md"] = text.replace("](docs/", "](../").replace("](benchmarks/", "](../../benchmarks/")
    return pages


def write_generated(folder: Path) -> None:
    """Write the generated pages; what is as it was is left alone, so that a second build is quick."""
    pages = generated_pages()
    for path, text in pages.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            place.write_text(text, encoding="utf-8")
    for stale in {str(p.relative_to(folder)) for p in (folder / "reference").rglob("*.md")} - set(pages):
        (folder / stale).unlink()


def plain_links(here: Path, text: str) -> str:
    """Return a page's text in which folders, and pages that are not of the documentation, are named and not linked.

    Parameters
    ----------
    here
        The folder that the page lies in.
    text
        Markdown.
    """

    def named(match: re.Match[str]) -> str:
        place = (here / match[2]).resolve()
        outside = place.suffix == ".md" and not place.is_relative_to(DOCS)
        if not place.is_relative_to(ROOT) or not (place.is_dir() or outside):
            return match[0]
        return f"{match[1].replace('`', '')} (`{place.relative_to(ROOT)}`)"

    return _LINK.sub(named, text)


def _on_start(app: Any) -> None:
    write_generated(Path(app.srcdir))


def _on_outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The navigation is made from all pages and stands on all of them: when one comes or goes, all are read again."""
    return sorted(env.all_docs) if added or removed else []


def _on_read(app: Any, page: str, source: list[str]) -> None:
    source[0] = plain_links((Path(app.srcdir) / page).parent, source[0])
    if page == "index":
        source[0] = source[0].replace("<!-- navigation -->", toctrees(Path(app.srcdir)))


_MODULES = "reference/python/modules/"
_navigation: dict[str, str] = {}


def _on_page(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """What stands beside the pages of modules, which are in no navigation, is the same on each: it is made once."""
    if page.startswith(_MODULES) and "toctree" in context:
        make = context["toctree"]

        def made_once(**options: Any) -> str:
            key = repr(sorted(options.items()))
            if key not in _navigation:
                _navigation[key] = str(make(**options))
            return _navigation[key]

        context["toctree"] = made_once


def _on_end(app: Any, failure: Exception | None) -> None:
    """Nothing of the pages' sources is published twice."""
    if failure is None and app.builder.name == "html":
        shutil.rmtree(Path(app.outdir) / "_sources", ignore_errors=True)


def setup(app: Any) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("builder-inited", _on_start)
    app.connect("env-get-outdated", _on_outdated)
    app.connect("source-read", _on_read)
    app.connect("html-page-context", _on_page, priority=100)  # before the theme asks
    app.connect("build-finished", _on_end)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
