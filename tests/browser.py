"""Debian's chromium, driven by playwright; what is asked of every page: accessible, at home, without errors."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = Path(__file__).resolve().parent / "vendor/axe-core/axe.min.js"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
LAPTOP = {"width": 1440, "height": 900}
TABLET = {"width": 768, "height": 1024}


@contextmanager
def launched() -> Iterator[Browser]:
    """Start a browser; raises ``ImportError`` without playwright."""
    from playwright.sync_api import sync_playwright

    # As root, as in a container, chromium has no sandbox of its own to offer.
    flags = ["--disable-dev-shm-usage", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, with what went wrong on it and where it went."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin.rstrip("/")
        self.errors: list[str] = []
        self.abroad: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("request", self._request)

    def _console(self, message: Any) -> None:
        # A refused connection or answer is the network's word, and some tests want it; anything else is the page's.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(self.origin + "/"):
            self.abroad.append(request.url)

    def check(self) -> None:
        """Raise if the page had an error (a refusal by the content policy is one), or asked another host."""
        assert not self.errors, self.errors
        assert not self.abroad, self.abroad


def axe_findings(page: Page) -> list[str]:
    """Return what axe calls serious or critical, a line each; text must have a contrast of 7:1 (4.5:1 where large)."""
    page.evaluate(AXE.read_text() + "; undefined")  # by the debugger: the page's own policy would rightly refuse it
    options = {"resultTypes": ["violations"], "rules": {"color-contrast-enhanced": {"enabled": True}}}
    found = page.evaluate(f"axe.run(document, {json.dumps(options)})")
    return [
        f"{v['impact']} {v['id']}: {v['help']} at {node['target']} {node['html'][:160]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def wait_until_true(page: Page, expression: str, *, timeout_s: float = 10.0) -> None:
    """Wait for a JavaScript expression: by the debugger, because the page's policy refuses what evaluates strings."""
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"{expression}: not so after {timeout_s:g} s"
        page.wait_for_timeout(20)
