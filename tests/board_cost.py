"""What the page costs the board and how soon it shows: the gateway without a page, with one, and with somebody looking.

``python tests/board_cost.py --people 20 --seconds 60`` prints JSON: memory and processor of ``kinedge run`` without the
dashboard, with it, and with a browser on the wall and on one person; milliseconds from event to pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from board_site import gateway, started, wait_for
from browser import LAPTOP, launched

LATENCY = Path(__file__).with_name("board_latency.js")


def pid_of(config: Path) -> int:
    """Return the process that runs a configuration."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"run" in words and os.fsencode(config) in words:
                return int(entry.name)
    raise SystemExit(f"nothing runs {config}")


def usage(pid: int, seconds: float) -> dict[str, float]:
    """Return memory now, and the share of one core over some seconds."""

    def busy_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = busy_s(), time.monotonic()
    time.sleep(seconds)
    core = (busy_s() - before) / (time.monotonic() - began)
    status = Path(f"/proc/{pid}/status").read_text()
    kib = int(status.split("VmRSS:")[1].split()[0])
    return {"memory_mb": round(kib * 1024 / 1e6, 1), "core_percent": round(core * 100, 1)}


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    pick = {
        name: ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))] for name, q in (("p50", 0.5), ("p95", 0.95))
    }
    return {"n": len(ordered), **{name: round(v, 1) for name, v in pick.items()}, "max": round(ordered[-1], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    people = [f"p-{i + 1:03d}" for i in range(asked.people)]
    result: dict[str, Any] = {"people": asked.people, "seconds": asked.seconds, "machine": platform.machine()}
    minutes = (asked.seconds + 30) * 4 / 60
    with tempfile.TemporaryDirectory(prefix="kinedge-cost-") as name:
        folder = Path(name)
        ttys, log = folder / "ttys", folder / "emulate.log"
        ttys.mkdir()
        site = [
            sys.executable,
            str(Path(__file__).with_name("board_site.py")),
            str(ttys),
            "--people",
            str(asked.people),
        ]
        with started([*site, "--minutes", str(minutes), "--quiet", "20"], log) as process:
            wait_for("emulated people", (ttys / "ready").exists, process, log)
            with gateway(folder, people, ttys, more="dashboard = false\n", ask="health"):
                time.sleep(15)
                result["no_dashboard"] = usage(pid_of(folder / "gateway.toml"), asked.seconds)
            with gateway(folder, people, ttys) as url, launched() as browser:
                pid = pid_of(folder / "gateway.toml")
                time.sleep(15)
                result["nobody_looks"] = usage(pid, asked.seconds)
                for view, hash_ in (("wall", "#/"), ("person", "#/person/p-002")):
                    page = browser.new_page(viewport=LAPTOP)
                    page.add_init_script(path=LATENCY)
                    page.goto(url + hash_)
                    page.wait_for_selector(".tile, .answer")
                    time.sleep(3)
                    page.evaluate("latency.state.length = latency.verdict.length = 0")
                    result[view] = usage(pid, asked.seconds)
                    for kind, values in page.evaluate("latency").items():
                        if values:
                            result[view][f"{kind}_to_pixels_ms"] = quantiles(values)
                    page.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
