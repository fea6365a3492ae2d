"""Pictures of the review desk for the documentation, from the weeks that ``kinedge collect demo-data`` works out."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from board_screenshots import IMAGES, save
from browser import LAPTOP, TABLET, launched
from collector_server import serving

from kinedge.cli.app import main as kinedge
from kinedge.upstream.schema import EPISODES
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings

TALL = {"width": 1440, "height": 1180}


def found(collector: Collector, part: bytes) -> str:
    """Return the newest episode whose envelope holds these bytes."""
    query = sa.select(EPISODES.c.id, EPISODES.c.body).order_by(EPISODES.c.start_utc_ns.desc())
    with collector.store.database.reading() as connection:
        return next(row.id for row in connection.execute(query) if part in bytes(row.body))


def take(collector: Collector, folder: Path, *, only: str = "") -> None:
    """Photograph each view."""
    tremor, change = found(collector, b'"subject":"p-001","trail":[{'), found(collector, b'"kind":"one_arm_lower"')
    lost, newcomer = found(collector, b'"ended":"sensor_lost"'), found(collector, b'"code":"newcomer","figures"')
    with launched() as browser:

        def shot(
            name: str,
            view: str,
            ready: str,
            *,
            query: str = "",
            viewport: Any = LAPTOP,
            full: bool = False,
            of: str = "",
        ) -> None:
            if only and only not in name:
                return
            page = browser.new_page(
                viewport=viewport, locale="en-GB", timezone_id="Europe/Paris", reduced_motion="reduce"
            )
            page.goto(f"{collector.url}/{query}{view}")
            page.wait_for_selector(ready)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(400)
            page.evaluate("document.activeElement.blur()")
            if of:
                page.locator(f"{of} summary").first.click()
            taken = page.locator(of).screenshot() if of else page.screenshot(full_page=full)
            save(taken, folder / f"desk-{name}.png")
            page.close()

        shot("list", "#/", "a.line")
        shot("calendar", "#/calendar", ".calendar .day-lower")
        shot("episode", f"#/episode/{tremor}", ".signal canvas", full=True)
        shot("unsure", f"#/episode/{lost}", ".signal canvas", query="?lang=fr", viewport=TALL)
        shot("behind", f"#/episode/{newcomer}", ".signal canvas", of="section[aria-labelledby=why]")
        shot("change", f"#/episode/{change}", ".day-plot canvas")
        shot("person", "#/person/p-001", "[data-measure=wear] canvas", viewport=TALL)
        shot("legs", "#/person/p-003", "[data-measure=wear] canvas", query="?theme=dark")
        shot("tablet", "#/calendar", ".calendar .day-lower", query="?lang=fr", viewport=TABLET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--only", default="", help="names that hold this")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kinedge-desk-") as folder:
        db = f"{folder}/desk.db"
        if kinedge(["collect", "demo-data", "--db", db]) == 0:
            with serving(CollectorSettings(database_url=f"sqlite:///{db}")) as collector:
                take(collector, asked.out, only=asked.only)


if __name__ == "__main__":
    main()
