"""kill -9 of edge and collector in a running demo: every episode arrives, none twice."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from kinedge.edge.store import EpisodeStore
from kinedge.envelope import Envelope
from kinedge.errors import StoreError

LENGTH_S = 47.0
# the wearer, a newcomer, is known well enough by the first; how many are found depends on where the kills fall
EVENTS = [
    ("noise_burst", "wrist_left", 15, 20),
    ("noise_burst", "wrist_right", 24, 29),
    ("noise_burst", "wrist_right", 34, 39),
]


def kinedge(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "kinedge", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def open_draft_starts(path: Path) -> set[int]:
    """Start times of what is written down as open now, in whatever state the writer is."""
    try:
        with EpisodeStore(path, read_only=True) as store:
            return {int(d.content["start_utc_ns"]) for d in store.open_drafts()}
    except StoreError:
        return set()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1])
def test_no_episode_is_lost_and_none_arrives_twice_through_random_kills(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    port = free_port()
    collect = ["collect", "--db", str(tmp_path / "collector.db"), "--port", str(port)]
    events = [x for n, s, a, b in EVENTS for x in ("--event", f"{n}@{s}:{a}-{b}")]
    ready = tmp_path / "sensors.json"
    sensors = kinedge(
        "emulate", str(tmp_path / "ttys"), "--duration", str(LENGTH_S), "--loss", "0.02", *events,
        "--ready-file", str(ready), log=tmp_path / "sensors.log",
    )  # fmt: skip
    while not ready.exists():
        assert sensors.poll() is None, (tmp_path / "sensors.log").read_text()
        time.sleep(0.02)
    ports = json.loads(ready.read_text())["ports"].values()
    config = tmp_path / "gateway.toml"
    devices = ", ".join(f"{{ port = '{p}' }}" for p in ports)
    config.write_text(
        'site = "s"\ngateway = "g"\nstore = "edge.db"\ncheckpoint_s = 2\n[[people]]\nsubject = "p"\n'
        f'devices = [{devices}]\n[uplink]\nurl = "http://127.0.0.1:{port}"\n'
    )
    processes = {
        "edge": kinedge("run", str(config), "--quiet", log=tmp_path / "edge.log"),
        "collector": kinedge(*collect, log=tmp_path / "collector.log"),
    }
    commands = {"edge": ["run", str(config), "--quiet"], "collector": collect}
    # two kills of the edge lie inside anomalies, where an episode is open; the others anywhere
    start = time.monotonic()
    plan = sorted(
        [(rng.uniform(18.5, 20), "edge"), (rng.uniform(27.5, 29), "edge")]
        + [(rng.uniform(5, LENGTH_S - 4), who) for who in ("edge", "collector", "collector", "collector")]
    )
    decided: set[int] = set()
    try:
        for at, who in plan:
            while time.monotonic() - start < at:
                decided |= open_draft_starts(tmp_path / "edge.db")
                time.sleep(0.1)
            kill(processes[who])
            processes[who] = kinedge(*commands[who], log=tmp_path / f"{who}.log")
        while sensors.poll() is None:
            decided |= open_draft_starts(tmp_path / "edge.db")
            time.sleep(0.2)
        processes["edge"].terminate()  # the gentle way: what is open is closed and kept
        assert processes["edge"].wait(20) == 0, (tmp_path / "edge.log").read_text()
        processes["edge"] = kinedge(*commands["edge"], log=tmp_path / "edge.log")
        end = time.monotonic() + 40
        while True:
            with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
                counts = store.counts()
                kept = [s.envelope for s in store.episodes(limit=1000)]
            if kept and not counts.ready + counts.locked + counts.drafts:
                break
            assert time.monotonic() < end, (counts, (tmp_path / "edge.log").read_text())
            time.sleep(0.2)
        listed = httpx.get(f"http://127.0.0.1:{port}/v1/episodes", params={"limit": 1000}).json()["episodes"]
        missing = httpx.get(f"http://127.0.0.1:{port}/v1/gateways/g/missing").json()["missing"]
        bodies = {e.id: httpx.get(f"http://127.0.0.1:{port}/v1/episodes/{e.id}").content for e in kept}
    finally:
        for process in (*processes.values(), sensors):
            if process.poll() is None:
                kill(process)
    ids = [e["id"] for e in listed]
    assert len(ids) == len(set(ids))
    assert set(ids) == {e.id for e in kept}
    assert all(Envelope.model_validate_json(bodies[e.id]) == e for e in kept)
    assert missing == []
    assert decided
    assert decided <= {e.start_utc_ns for e in kept}
    assert counts.quarantined == 0
    with EpisodeStore(tmp_path / "edge.db") as store:
        store.verify_audit()
