"""Real gateways, a real collector and its database, a bad network between them, and kill -9 at random moments.

Run as ``python tests/chaos.py --seeds 20``; ``make chaos`` does. Afterwards every episode that a store said is safe
must be upstream, once, unchanged, and in order within its subject.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chaos_edge import raw_of, subject_of

from kinedge.edge.store import EpisodeStore
from kinedge.upstream.store import CollectorStore, Filter

HERE = Path(__file__).parent
COLLECT = "import sys; from kinedge.cli.app import main; sys.exit(main(['collect', *sys.argv[1:]]))"


MAX_BEGUN_ANEW = 8


@dataclass(frozen=True)
class Plan:
    """What is done to whom."""

    seed: int
    gateways: int = 5
    episodes: int = 1000
    kills: int = 50
    cuts: int = 2
    cut_s: float = 120.0
    timeout_s: float = 2.0


class Chaos:
    """One run.

    Parameters
    ----------
    plan
        What happens.
    folder
        Everything is written there.
    database_url
        Of the collector.
    database
        With ``kill`` and ``start``; None when the collector's process is the database, too.
    """

    def __init__(self, plan: Plan, folder: Path, *, database_url: str, database: Any = None) -> None:
        self.plan, self.folder = plan, folder
        self.database, self.database_url = database, database_url
        self.random = random.Random(plan.seed)
        self.environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
        self.names = [f"gw-{i}" for i in range(plan.gateways)]
        self.per_gateway = plan.episodes // plan.gateways
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: Counter[str] = Counter()
        self.begun_anew = 0
        self.collector_port, self.proxy_port = free_port(), free_port()
        self.cut_file = folder / "proxy.cut"  # while it is there the network is away
        self.cut_until_s = 0.0

    def start(self, name: str) -> None:
        folder, plan = self.folder, self.plan
        if name == "collector":
            arguments = ["-c", COLLECT, "--db", self.database_url, "--port", str(self.collector_port)]
        elif name == "proxy":
            ports = [str(self.proxy_port), str(self.collector_port)]
            delay = str(plan.timeout_s * 1.5)
            arguments = [str(HERE / "chaos_proxy.py"), *ports, str(plan.seed), delay, str(folder / "proxy")]
        else:
            url = f"http://127.0.0.1:{self.proxy_port}"
            arguments = [str(HERE / "chaos_edge.py"), str(self.store(name)), url, str(self.ledger(name)), name]
            arguments += [str(self.per_gateway), str(plan.timeout_s)]
        with (folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def store(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    def ledger(self, name: str) -> Path:
        return self.folder / f"{name}.ledger"

    def promised(self, name: str) -> dict[int, str]:
        """What the store of a gateway said is safe; a last line that was cut counts for nothing."""
        path = self.ledger(name)
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return {int(parts[0]): parts[1] for line in lines if len(parts := line.split()) == 2}

    def kill(self, name: str) -> None:
        self.kills[name] += 1
        if name == "database":
            self.database.kill()
            self.database.start()
            return
        self.running[name].kill()
        self.running[name].wait()
        self.start(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def run(self) -> dict[str, Any]:
        """Do everything and return what was found.

        Raises
        ------
        AssertionError
            A process ended with an error, or nothing moves any more.
        """
        plan, began_s = self.plan, time.monotonic()
        moments = self.random.sample(range(1, plan.episodes), plan.kills + plan.cuts)
        cuts = moments[: plan.cuts]
        try:
            for name in ("collector", "proxy", *self.names):
                self.start(name)
            for moment in sorted(moments):
                self.wait(lambda m=moment: self.n_decided() >= m, f"episode {moment}")  # type: ignore[misc]
                if moment in cuts:  # every other one while kills go on
                    self.cut_until_s = time.monotonic() + plan.cut_s
                    self.cut_file.touch()
                    self.wait(lambda c=cuts.index(moment): c % 2 == 1 or not self.is_cut(), "the end of a cut")  # type: ignore[misc]
                else:
                    time.sleep(self.random.random() * 0.05)
                    self.kill(self.random.choice(self.victims()))
            self.wait(lambda: not self.is_cut(), "the end of a cut")
            self.wait(lambda: all(self.running[n].poll() is not None for n in self.names), "the end of all gateways")
            for name in self.names:
                assert self.running[name].returncode == 0, self.log(name)
            self.running["proxy"].terminate()
            self.running["proxy"].wait(30)
        finally:
            for process in self.running.values():
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()
        network = json.loads((self.folder / "proxy.json").read_text())
        found = self.compare()
        wall_s = round(time.monotonic() - began_s, 1)
        return {**asdict(plan), **found, "network": network, "killed": dict(self.kills), "wall_s": wall_s}

    def is_cut(self) -> bool:
        """Say whether the network is away, and bring it back when its time has come."""
        if time.monotonic() >= self.cut_until_s:
            self.cut_file.unlink(missing_ok=True)
        return self.cut_file.exists()

    def victims(self) -> list[str]:
        """Who can be killed: gateways that still have something to do, the collector, its database."""
        at_work = []
        for name in self.names:
            if self.running[name].poll() is None:
                at_work.append(name)
            else:
                assert self.running[name].returncode == 0, self.log(name)
        return [*at_work, "collector", *(["database"] if self.database is not None else [])]

    def n_decided(self) -> int:
        """How far the gateways are; a kill between the store and the ledger leaves a number out of the ledger."""
        ended = [n for n in self.names if self.running[n].poll() is not None]
        return sum(self.per_gateway if n in ended else max(self.promised(n), default=-1) + 1 for n in self.names)

    def look_after_collector(self) -> None:
        """Start a collector that ended by itself again, as systemd would: its database was away when it began."""
        if self.running["collector"].poll() is not None:
            self.begun_anew += 1
            assert self.begun_anew <= MAX_BEGUN_ANEW, "the collector ends again and again\n" + self.log("collector")
            time.sleep(0.2)
            self.start("collector")

    def wait(self, condition: Callable[[], bool], what: str, *, timeout_s: float = 300.0) -> None:
        deadline_s = time.monotonic() + timeout_s + self.plan.cut_s
        while not condition():
            self.is_cut()
            self.look_after_collector()
            assert self.running["proxy"].poll() is None, self.log("proxy")
            assert time.monotonic() < deadline_s, f"{what} did not happen\n" + self.log("collector")
            time.sleep(0.01)

    def compare(self) -> dict[str, int]:
        """Compare what was promised with what is upstream, byte by byte."""
        upstream = CollectorStore(self.database_url)
        received = [summary for summary, _ in upstream.envelopes(Filter())]
        ids = [e.id for e in received]
        found: Counter[str] = Counter(doubled=len(ids) - len(set(ids)), received=len(ids))
        found["promised"] = sum(len(self.promised(n)) for n in self.names)
        for name in self.names:
            promised = self.promised(name)
            with EpisodeStore(self.store(name)) as edge:
                edge.verify_audit()
                kept = {s.envelope.id: s.envelope for s in edge.episodes(limit=self.per_gateway + 1)}
                counts = edge.counts()
            found["unsettled"] += counts.ready + counts.locked + counts.quarantined + counts.drafts
            found["lost"] += sum(id not in set(ids) for id in {*promised.values(), *kept})
            found["missing_here"] += self.per_gateway - len(kept) + sum(id not in kept for id in promised.values())
            found["altered"] += sum(upstream.episode(id) != envelope.to_bytes() for id, envelope in kept.items())
            found["raw_altered"] += sum(upstream.raw(id) != raw_of(name, i) for i, id in promised.items())
            for subject in {subject_of(name, i) for i in range(self.per_gateway)}:
                arrived = [e.sequence for e in received if e.subject == subject]
                found["out_of_order"] += arrived != list(range(1, len(arrived) + 1))
            found["gaps"] += len(upstream.missing(name))
        found["conflicts"] = upstream.counts().get("conflict", 0)
        upstream.close()
        return dict(found)


FAULTS = (
    "doubled", "unsettled", "lost", "missing_here", "altered", "raw_altered", "out_of_order", "gaps", "conflicts",
)  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def main() -> int:
    """Run seeds one after the other; the exit status is the number of those that found a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sqlite", action="store_true", help="the collector's own database, not PostgreSQL")
    for field in ("gateways", "episodes", "kills", "cuts"):
        parser.add_argument(f"--{field}", type=int, default=getattr(Plan, field))
    parser.add_argument("--cut-s", type=float, default=Plan.cut_s)
    options = parser.parse_args()
    n_failed = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        plan = Plan(seed, options.gateways, options.episodes, options.kills, options.cuts, options.cut_s)
        with tempfile.TemporaryDirectory() as folder:
            database = None
            if not options.sqlite:
                from database_server import Postgres

                database = Postgres(Path(folder) / "postgres")
            url = f"sqlite:///{folder}/collector.db" if database is None else database.new_url()
            try:
                found = Chaos(plan, Path(folder), database_url=url, database=database).run()
            finally:
                if database is not None:
                    database.stop()
        n_failed += any(found[f] for f in FAULTS)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    return n_failed


if __name__ == "__main__":
    sys.exit(main())
