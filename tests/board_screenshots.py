"""Pictures of the board's page for the documentation, of emulated people and a real gateway (``make screenshots``)."""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from board_site import answers, free_port, post, site, started, wait_for
from browser import LAPTOP, TABLET, launched
from PIL import Image

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
MOST_BYTES = 250_000
DIFFERENT, UNSURE = ".answer[data-decision='anomalous']", ".answer[data-decision='unsure']"


class Shot(NamedTuple):
    """One picture: taken of a view once ``ready`` is to be seen."""

    name: str
    view: str
    ready: str
    query: str = "?lang=en&theme=light"
    viewport: Any = LAPTOP
    full: bool = False


WALL = (
    Shot("wall", "#/", ".tile-anomalous"),
    Shot("tablet", "#/", ".tile-anomalous", viewport=TABLET),
    Shot("person", "#/person/p-002", DIFFERENT, full=True),
    Shot("unsure", "#/person/p-003", UNSURE, "?lang=fr&theme=light", full=True),
    Shot("dark", "#/person/p-017", DIFFERENT, "?lang=en&theme=dark"),
    Shot("gateway", "#/board", ".facts"),
)


def save(png: bytes, path: Path) -> None:
    """Write a picture with as many colours as fit into 250 kB."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colors in (256, 128, 64):
        out = io.BytesIO()
        picture.quantize(colors, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() < MOST_BYTES:
            break
    path.write_bytes(out.getvalue())
    print(f"{path.name}: {out.tell() / 1000:.0f} kB", flush=True)


def take(url: str, folder: Path, shots: tuple[Shot, ...]) -> None:
    with launched() as browser:
        page: Any = browser.new_page(locale="en-GB")
        page.set_default_timeout(120_000)
        for shot in shots:
            page.set_viewport_size(shot.viewport)
            page.goto(f"{url}{shot.query}{shot.view}")
            page.reload()  # a change after the hash alone would not load anew
            page.wait_for_selector(shot.ready)
            page.wait_for_timeout(10_500 if "person" in shot.view else 1500)  # until signals fill their ten seconds
            page.wait_for_selector(shot.ready)
            save(page.screenshot(full_page=shot.full), folder / f"board-{shot.name}.png")


def state_of(url: str) -> Any:
    with urllib.request.urlopen(f"{url}api/state", timeout=10) as answer:
        return json.load(answer)


def wait_until(what: str, is_so: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(1)


def of_a_wall(folder: Path, images: Path) -> None:
    """Twenty people, some of them with faults and anomalies; episodes wait, because the collector goes away."""
    port, log = free_port(), folder / "collect.log"
    collect = [sys.executable, "-m", "kinedge.cli", "collect", "--db", str(folder / "c.db"), "--port", str(port)]
    with ExitStack() as stack:
        with started(collect, log) as process:
            upstream = f"http://127.0.0.1:{port}"
            wait_for("kinedge collect", lambda: answers(f"{upstream}/v1/health"), process, log)
            more = f'[uplink]\nurl = "{upstream}"\n'
            url = stack.enter_context(site(folder, n_people=20, minutes=15, quiet_s=90, more=more))
            for subject in ("p-002", "p-006", "p-014"):
                post(url, f"api/people/{subject}/enrolment", {"action": "start", "minutes": 30})
            post(url, "api/people/p-012/mute", {"minutes": 30})
            wait_until("an episode was sent", lambda: state_of(url)["outbox"]["last_sync_utc_ns"], 240)
        take(url, images, WALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kinedge-site-") as folder:
        of_a_wall(Path(folder), asked.out)


if __name__ == "__main__":
    main()
