"""Reports of a week, and what a reader finds on their pages."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_people import WEEK, ZONE

from kinedge.edge.reports.gather import from_store
from kinedge.edge.reports.person import PersonWeek, person_week
from kinedge.edge.reports.week import Week


def week_of(folder: Path, subject: str = "p-001", week: Week = WEEK) -> PersonWeek:
    found, _ = from_store(folder / "edge.db", subject, week, zone=ZONE)
    return person_week(found, week)


class Page(HTMLParser):
    """Tags and texts of a page; every tag must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "br":
            self.handle_data(" ")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if ("td" in self.open or "th" in self.open) and self.cells:
            self.cells[-1][-1] += data


def need_weasyprint() -> None:
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as e:
        pytest.skip(f"WeasyPrint (kinedge[report]) or its Pango is not installed: {e}")


def pdf_pages(pdf: bytes) -> list[str]:
    tool = shutil.which("pdftotext")
    if tool is None:
        pytest.skip("pdftotext (Debian: poppler-utils) is not installed")
    done = subprocess.run([tool, "-layout", "-", "-"], input=pdf, capture_output=True, check=True)
    return done.stdout.decode().split("\f")[:-1]
