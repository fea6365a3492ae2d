"""The whole story on real processes: emulated sensors, ``kinedge run``, its page in a browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_site import gateway, started, wait_for
from browser import LAPTOP, Watched

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]

LATENCY = Path(__file__).with_name("board_latency.js")
UNPLUGGED, TREMOR = "wrist_left:14-21", "rest_tremor@wrist_right:28-44"


@pytest.fixture
def board(browser: Any, tmp_path: Path) -> Iterator[str]:
    """Run a gateway with one person, who has a fault and then an anomaly."""
    ttys, ready, log = tmp_path / "ttys", tmp_path / "ready.json", tmp_path / "emulate.log"
    command = [sys.executable, "-m", "kinedge.cli", "emulate", str(ttys), "--duration", "240", "--loss", "0"]
    command += ["--unplug", UNPLUGGED, "--event", TREMOR, "--ready-file", str(ready)]
    with started(command, log) as process:
        wait_for("kinedge emulate", ready.exists, process, log)
        with gateway(tmp_path, ["p-001"], ttys) as url:
            yield url


def test_a_fault_is_unsure_and_an_anomaly_is_seen_where_it_is(browser: Any, board: str) -> None:
    page = browser.new_page(viewport=LAPTOP, locale="en-GB")
    page.set_default_timeout(60_000)
    page.add_init_script(path=LATENCY)
    watched = Watched(page, board)
    page.goto(board)
    page.wait_for_selector("[data-subject='p-001'][data-decision='normal']")
    page.locator("[data-subject='p-001']").click()

    page.wait_for_selector(".answer[data-decision='unsure'] li[data-reason='no_data'][data-sensor='wrist_left']")
    assert "nothing is heard from the left wrist" in page.locator(".answer").inner_text().lower()
    assert page.locator(".body-silent[data-sensor='wrist_left']").count() == 1
    page.wait_for_selector("tr[data-sensor='wrist_left'][data-state='streaming']")

    page.wait_for_selector(".answer[data-decision='anomalous']")
    page.wait_for_selector(".body-sensor[data-highlight='true'][data-sensor='wrist_right']")
    page.wait_for_selector(".answer-episode")
    assert "right wrist" in page.locator(".answer-sentence").inner_text().lower()
    assert page.locator(".signals canvas").count() == 4

    latency_ms = sorted(page.evaluate("latency.verdict"))
    assert len(latency_ms) > 10
    assert latency_ms[len(latency_ms) // 2] < 300, latency_ms  # the goal is of the 95th percentile, on an idle machine
    watched.check()
