"""From a report's HTML to PDF: by WeasyPrint where it is installed, else by a Chromium that this machine has.

Both print the same page by the same style sheet. WeasyPrint needs no browser and gives equal bytes for equal pages, so
it is asked first.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from kinedge.errors import ConfigError

__all__ = ["PAPERS", "Maker", "pdf_of"]

Maker = Literal["weasyprint", "chromium"]

PAPERS: Final[Mapping[str, str]] = {"a4": "A4", "letter": "letter"}
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_TIMEOUT_S: Final = 120.0


def pdf_of(html: str, *, paper: str = "a4", landscape: bool = False, maker: Maker | None = None) -> tuple[bytes, Maker]:
    """Print a page.

    Parameters
    ----------
    html
        A page that needs nothing else.
    paper
        ``a4`` or ``letter``.
    landscape
        The long side below.
    maker
        Who prints; None: the first that is here.

    Returns
    -------
    pdf, maker

    Raises
    ------
    ConfigError
        Nobody here can print, or who should failed.
    """
    if paper not in PAPERS:
        raise ConfigError(f"no paper {paper!r}; there are {' and '.join(PAPERS)}")
    size = PAPERS[paper] + (" landscape" if landscape else "")
    sized = html.replace("</head>", f"<style>@page {{ size: {size}; }}</style>\n</head>", 1)
    makers: dict[Maker, Callable[[str], bytes | None]] = {"weasyprint": _by_weasyprint, "chromium": _by_chromium}
    for name, make in makers.items():
        if maker in (None, name) and (pdf := make(sized)) is not None:
            return pdf, name
    raise ConfigError(
        f"no PDF can be made here: {maker or 'neither WeasyPrint nor Chromium'} is not installed; "
        "pip install 'kinedge[report]' and the system's Pango (Debian: apt install libpango-1.0-0 libpangoft2-1.0-0 "
        "libharfbuzz-subset0), or chromium; an HTML report prints from any browser"
    )


def _by_weasyprint(html: str) -> bytes | None:
    try:
        # says a paragraph on stderr, and raises OSError, where Pango is missing
        logging.getLogger("weasyprint").setLevel(logging.ERROR)
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ModuleNotFoundError, OSError):
        return None

    lies_in_it = URLFetcher(allowed_protocols={"data"})  # nothing is ever loaded from elsewhere
    pdf: bytes = HTML(string=html, url_fetcher=lies_in_it).write_pdf(pdf_identifier=b"kinedge")
    return pdf


def _by_chromium(html: str) -> bytes | None:
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kinedge-report-") as folder:
        page, pdf = Path(folder, "report.html"), Path(folder, "report.pdf")
        page.write_text(html, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={folder}/profile", "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as e:
            raise ConfigError(f"{browser} did not print within {_TIMEOUT_S:.0f} s; close other work, or print") from e
        if not pdf.is_file():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise ConfigError(f"{browser} printed nothing ({last[0]}); print the HTML report from a browser instead")
        return pdf.read_bytes()
