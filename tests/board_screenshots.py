"""Pictures of the board's page for the documentation, from twenty emulated people and a real gateway."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from board_site import answers, free_port, post, site, started, wait_for
from browser import LAPTOP, TABLET, launched
from PIL import Image

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
MOST_BYTES = 250_000


def save(png: bytes, path: Path) -> None:
    """Write a picture with as many colours as fit into 250 kB."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colors in (256, 128, 64):
        out = io.BytesIO()
        picture.quantize(colors, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() < MOST_BYTES:
            break
    path.write_bytes(out.getvalue())
    print(f"{path.name}: {out.tell() / 1000:.0f} kB")


def take(url: str, folder: Path, *, only: str = "") -> None:
    """Photograph each view once something is to be seen in it."""
    with launched() as browser:
        page: Any = browser.new_page(viewport=LAPTOP, locale="en-GB")
        page.set_default_timeout(120_000)

        def shot(
            name: str, view: str, ready: str, *, query: str = "", viewport: Any = LAPTOP, full: bool = True
        ) -> None:
            if only and only not in name:
                return
            page.set_viewport_size(viewport)
            page.goto(f"{url}{query}{view}")
            page.reload()  # a change after the hash alone would not load anew
            page.wait_for_selector(ready)
            page.wait_for_timeout(10_500 if "person" in view else 1500)  # until the signals fill their ten seconds
            page.wait_for_selector(ready)
            save(page.screenshot(full_page=full), folder / f"board-{name}.png")

        different, unsure = ".answer[data-decision='anomalous']", ".answer[data-decision='unsure']"
        shot("wall", "#/", ".tile-anomalous", query="?lang=en&theme=light", full=False)
        shot("tablet", "#/", ".tile-anomalous", query="?lang=en&theme=light", viewport=TABLET, full=False)
        shot("person", "#/person/p-002", different, query="?lang=en&theme=light")
        shot("unsure", "#/person/p-003", unsure, query="?lang=fr&theme=light")
        shot("dark", "#/person/p-017", different, query="?lang=en&theme=dark", full=False)
        shot("gateway", "#/board", ".facts", query="?lang=en&theme=light", full=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a board that runs already, in place of one of its own")
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--only", default="", help="names that hold this")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.url:
        take(asked.url, asked.out, only=asked.only)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinedge-site-")))
        port, log = free_port(), folder / "collect.log"
        collect = [sys.executable, "-m", "kinedge.cli", "collect", "--db", str(folder / "c.db"), "--port", str(port)]
        with started(collect, log) as process:
            upstream = f"http://127.0.0.1:{port}"
            wait_for("kinedge collect", lambda: answers(f"{upstream}/openapi.json"), process, log)
            more = f'[uplink]\nurl = "{upstream}"\n'
            url = stack.enter_context(site(folder, n_people=20, minutes=15, quiet_s=90, more=more))
            for subject, minutes in (("p-002", 30), ("p-006", 30), ("p-014", 30)):
                post(url, f"api/people/{subject}/enrolment", {"action": "start", "minutes": minutes})
            post(url, "api/people/p-012/mute", {"minutes": 30})
            until = time.monotonic() + 155
            while time.monotonic() < until and not json_of(url)["outbox"]["last_sync_utc_ns"]:
                time.sleep(1)
        take(url, asked.out, only=asked.only)  # the collector is away now, and episodes wait


def json_of(url: str) -> Any:
    import json

    with urllib.request.urlopen(f"{url}api/state", timeout=10) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
