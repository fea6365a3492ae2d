"""kill -9 of edge and collector at any time: no episode lost, none twice, the order kept."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sample_episodes import GATEWAY, SUBJECTS, sample_raw

from kinedge.edge.store import EpisodeStore
from kinedge.upstream.store import CollectorStore

N_EPISODES = 60
N_KILLS = 8
TIMEOUT_S = 90.0

COLLECT = (
    "import sys, kinedge.cli.collect; from kinedge.cli.app import main; sys.exit(main(['collect', *sys.argv[1:]]))"
)


class Processes:
    """An edge and a collector, real processes that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @property
    def ready_file(self) -> Path:
        return self.folder / "ready.json"

    @property
    def ledger(self) -> list[str]:
        path = self.folder / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, name: str) -> None:
        folder = self.folder
        if name == "collector":
            arguments = ["-c", COLLECT, "--db", str(folder / "collector.db"), "--port", str(self.port)]
            arguments += ["--ready-file", str(self.ready_file)]
        else:
            script = Path(__file__).with_name("durability_sender.py")
            url = f"http://127.0.0.1:{self.port}"
            arguments = [str(script), str(folder / "edge.db"), url, str(folder / "ledger"), str(N_EPISODES)]
        with (folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments], env=self.environment, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))


def wait_for(condition: Callable[[], bool], what: str, processes: Processes) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen\n{processes.logs()}"
        time.sleep(0.002)


def test_no_episode_is_lost_or_doubled_when_edge_and_collector_are_killed_at_random(tmp_path: Path) -> None:
    rng = random.Random(20240607)
    processes = Processes(tmp_path)
    moments = sorted(rng.sample(range(2, N_EPISODES), N_KILLS))
    victims = ["edge", "collector"] * (N_KILLS // 2)
    rng.shuffle(victims)
    try:
        processes.start("collector")
        wait_for(processes.ready_file.exists, "the collector's start", processes)
        ready = json.loads(processes.ready_file.read_text())
        assert ready == {"url": f"http://127.0.0.1:{processes.port}", "pid": processes.running["collector"].pid}
        processes.start("edge")
        for moment, victim in zip(moments, victims, strict=True):
            wait_for(lambda m=moment: highest(processes.ledger) >= m, f"episode {moment}", processes)
            time.sleep(rng.random() * 0.05)  # somewhere between here and the next episode
            processes.kill(victim)
            processes.start(victim)
        wait_for(lambda: processes.running["edge"].poll() is not None, "the edge's end", processes)
        assert processes.running["edge"].returncode == 0, processes.logs()
    finally:
        for name in processes.running:
            with suppress(ProcessLookupError):
                processes.kill(name)

    promised = {int(line.split()[0]): line.split()[1] for line in processes.ledger}
    assert sorted(promised) == list(range(N_EPISODES))
    upstream = CollectorStore(f"sqlite:///{tmp_path}/collector.db")
    received = upstream.episodes(limit=1000).episodes
    assert sorted(e.id for e in received) == sorted(promised.values())
    with EpisodeStore(tmp_path / "edge.db") as edge:
        for i, id in promised.items():
            stored = edge.episode(id)
            assert stored is not None and upstream.episode(id) == stored.envelope.to_bytes()
            assert upstream.raw(id) == sample_raw(i, n_bytes=20_000)
        counts = edge.counts()
        assert (counts.episodes, counts.done, counts.drafts) == (N_EPISODES, 2 * N_EPISODES, 0)
        edge.verify_audit()
    for subject in SUBJECTS:
        arrived = [e.sequence for e in received if e.subject == subject]
        assert arrived == list(range(1, N_EPISODES // len(SUBJECTS) + 1)), "in order and without gaps"
    assert upstream.missing(GATEWAY) == ()
    assert "conflict" not in upstream.counts()
    upstream.close()


def highest(ledger: list[str]) -> int:
    """Return the number of the latest episode that the edge said it had committed."""
    return max((int(line.split()[0]) for line in ledger if len(line.split()) == 2), default=-1)
