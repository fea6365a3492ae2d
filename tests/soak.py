"""Everything at once: sensors, a gateway that scores, records and sends, a bad network, a collector that is killed.

Run as ``python tests/soak.py --minutes 30``; ``make soak`` does. The gateway's memory must stay flat, scoring must go
on, no task may begin anew without a cause in the log, and in the end every episode must be upstream.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from chaos import free_port
from prometheus_client.parser import text_string_to_metric_families

from kinedge.edge.store import EpisodeStore
from kinedge.upstream.store import CollectorStore, Filter

HERE = Path(__file__).parent
WARM_UP = 0.25  # of the time: caches and pools fill
ALLOWED_GROWTH = 1.05
EPISODE_EVERY_S = 20


class Soak:
    """One run, in a folder of its own."""

    def __init__(self, folder: Path, *, seconds: float, seed: int = 1) -> None:
        self.folder, self.seconds, self.random = folder, seconds, random.Random(seed)
        self.collector_port, self.proxy_port, self.http_port = free_port(), free_port(), free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.rows: list[dict[str, float]] = []

    def start(self, name: str, *arguments: str, module: bool = True) -> None:
        command = [sys.executable, *(["-m", "kinedge"] if module else []), *arguments]
        environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_collector(self) -> None:
        self.start(
            "collector", "collect", "--db", str(self.folder / "collector.db"), "--port", str(self.collector_port)
        )

    def start_all(self) -> None:
        sensors = ("wrist_left", "wrist_right")
        events = []
        for i, at in enumerate(range(20, int(self.seconds), EPISODE_EVERY_S)):
            events += ["--event", f"noise_burst@{sensors[i % 2]}:{at}-{at + 6}"]
        ready = self.folder / "sensors.json"
        options = ["--duration", str(self.seconds + 60), "--loss", "0.02", "--ready-file", str(ready)]
        self.start("sensors", "emulate", str(self.folder / "ttys"), *options, *events)
        self.until(ready.exists)
        ports = json.loads(ready.read_text())["ports"].values()
        devices = ", ".join(f"{{ port = '{p}' }}" for p in ports)
        (self.folder / "gateway.toml").write_text(
            'site = "s"\ngateway = "g"\nstore = "edge.db"\nmax_delay_s = 4\n'
            f'[[people]]\nsubject = "p"\ndevices = [{devices}]\n'
            f'[uplink]\nurl = "http://127.0.0.1:{self.proxy_port}"\n[http]\nport = {self.http_port}\n'
            '[record]\nfolder = "recordings"\nkeep_hours = 0.01\nsegment_s = 2\n'
        )
        self.start_collector()
        ports_ = [str(self.proxy_port), str(self.collector_port)]
        self.start("proxy", str(HERE / "chaos_proxy.py"), *ports_, "1", "3", str(self.folder / "proxy"), module=False)
        self.start("edge", "run", str(self.folder / "gateway.toml"), "--quiet", "--log-format", "json")

    def until(self, condition: Any, *, timeout_s: float = 120.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, self.log("edge")
            assert self.running.get("edge") is None or self.running["edge"].poll() is None, self.log("edge")
            time.sleep(0.1)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-6000:]

    def read(self) -> dict[str, float]:
        """Ask the gateway how it is doing."""
        text = httpx.get(f"http://127.0.0.1:{self.http_port}/metrics", trust_env=False, timeout=30).text
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]

        def total(name: str, **labels: str) -> float:
            return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

        return {
            "rss_mb": total("process_resident_memory_bytes") / 1e6,
            "fds": total("process_open_fds"),
            "verdicts": total("kinedge_verdicts_total"),
            "anomalous": total("kinedge_verdicts_total", decision="anomalous"),
            "unsure": total("kinedge_verdicts_total", decision="unsure"),
            "restarts": total("kinedge_task_restarts_total"),
            "alive": total("kinedge_scoring_alive"),
            "episodes": total("kinedge_episodes"),
            "score_p99_ms": 1e3 * total("kinedge_stage_seconds", stage="score", quantile="0.99"),
            "verdict_p99_ms": 1e3 * total("kinedge_stage_seconds", stage="sample_to_verdict", quantile="0.99"),
        }

    def answers(self) -> bool:
        with suppress(httpx.HTTPError):
            self.read()
            return True
        return False

    def run(self) -> dict[str, Any]:
        """Do everything and return what was seen.

        Raises
        ------
        AssertionError
            A process ended that should not have.
        """
        try:
            self.start_all()
            self.until(self.answers)
            began_s = time.monotonic()
            next_kill_s = next_cut_s = began_s + self.seconds / 8
            n_kills = n_cuts = 0
            cut = self.folder / "proxy.cut"
            while (now_s := time.monotonic()) < began_s + self.seconds:
                assert self.running["edge"].poll() is None, self.log("edge")
                self.rows.append({"at_s": now_s - began_s, **self.read()})
                if now_s >= next_kill_s:
                    self.running["collector"].kill()
                    self.running["collector"].wait()
                    self.start_collector()
                    n_kills, next_kill_s = n_kills + 1, now_s + self.random.uniform(0.1, 0.2) * self.seconds
                if now_s >= next_cut_s:
                    cut.unlink() if cut.exists() else cut.touch()
                    n_cuts, next_cut_s = n_cuts + 1, now_s + self.random.uniform(0.05, 0.1) * self.seconds
                time.sleep(1)
            cut.unlink(missing_ok=True)
            self.until(lambda: not any(self.waiting()), timeout_s=300)
            self.running["edge"].terminate()
            assert self.running["edge"].wait(90) == 0, self.log("edge")
            return {**self.judge(), "collector_kills": n_kills, "cuts": n_cuts}
        finally:
            for process in self.running.values():
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()

    def waiting(self) -> tuple[int, int]:
        with EpisodeStore(self.folder / "edge.db", read_only=True) as store:
            counts = store.counts()
        return counts.ready, counts.locked

    def judge(self) -> dict[str, Any]:
        rows = [r for r in self.rows if r["at_s"] > WARM_UP * self.seconds]
        third = max(len(rows) // 3, 1)
        first, last = (statistics.median(r["rss_mb"] for r in part) for part in (rows[:third], rows[-third:]))
        lines = [
            json.loads(line) for line in (self.folder / "edge.log").read_text().splitlines() if line.startswith("{")
        ]
        told = sum("begins anew" in line["message"] for line in lines)
        with EpisodeStore(self.folder / "edge.db") as edge:
            edge.verify_audit()
            kept = {s.envelope.id for s in edge.episodes(limit=100_000)}
            n_trimmed = len(edge.audit_rows(event="recording_trimmed", limit=100_000))
        upstream = CollectorStore(f"sqlite:///{self.folder / 'collector.db'}")
        there = [s.id for s, _ in upstream.envelopes(Filter())]
        upstream.close()
        verdicts = self.rows[-1]["verdicts"] - self.rows[0]["verdicts"]
        seconds = self.rows[-1]["at_s"] - self.rows[0]["at_s"]
        return {
            "seconds": round(seconds, 1),
            "rss_mb": [round(first, 1), round(last, 1)],
            "rss_flat": last <= first * ALLOWED_GROWTH,
            "fds": [rows[0]["fds"], rows[-1]["fds"]],
            "verdicts_per_s": round(verdicts / seconds, 3),
            "anomalous": self.rows[-1]["anomalous"],
            "unsure": self.rows[-1]["unsure"],
            "always_alive": all(r["alive"] == 1 for r in self.rows),
            "restarts": self.rows[-1]["restarts"],
            "restarts_told": told,
            "episodes": len(kept),
            "lost": len(kept - set(there)),
            "doubled": len(there) - len(set(there)),
            "recordings_trimmed": n_trimmed,
            "score_p99_ms": round(max(r["score_p99_ms"] for r in rows), 1),
            "verdict_p99_ms": round(max(r["verdict_p99_ms"] for r in rows), 1),
        }


def main() -> int:
    """Run once and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = Soak(Path(folder), seconds=options.minutes * 60).run()
    sys.stdout.write(json.dumps(found) + "\n")
    good = found["rss_flat"] and found["always_alive"] and not found["lost"] and not found["doubled"]
    return 0 if good and found["restarts"] <= found["restarts_told"] else 1


if __name__ == "__main__":
    sys.exit(main())
