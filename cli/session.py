"""What ``demo`` and ``replay`` share: helper processes that are ready when they say so, and a result table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinedge.edge.episodes import EpisodeConfig
from kinedge.envelope import Envelope
from kinedge.errors import LinkError
from kinedge.training.evaluate import FoundEpisode

__all__ = ["found_episode", "run_folder", "running", "running_collector"]


def run_folder(parent: Path) -> Path:
    """Make and return a fresh folder named by the time; nothing that lies there already is touched."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        folder = parent / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise LinkError(f"{parent}: no fresh folder could be made; remove old runs")


@contextmanager
def running(command: Sequence[str], *, ready_file: Path, timeout_s: float = 90.0) -> Iterator[dict[str, Any]]:
    """Run ``kinedge ...`` beside this process; yields what it wrote to its ready file, and ends it afterwards.

    Raises
    ------
    LinkError
        It ended, or did not become ready in time.
    """
    log = ready_file.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "kinedge", *command, "--ready-file", str(ready_file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            end = time.monotonic() + timeout_s
            while not ready_file.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise LinkError(f"kinedge {command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.02)
            yield {**json.loads(ready_file.read_text()), "process": process}
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running_collector(folder: Path) -> Iterator[str]:
    """Run a collector on a free port of this machine; yields its URL. Its database is ``folder/collector.db``."""
    command = ["collect", "--db", str(folder / "collector.db"), "--port", "0"]
    with running(command, ready_file=folder / "collector.json") as ready:
        yield str(ready["url"])


def found_episode(envelope: Envelope, *, origin_utc_ns: int, config: EpisodeConfig) -> FoundEpisode:
    """Return an episode in seconds after ``origin_utc_ns``; its ``open_hits``-th rare anomalous verdict opened it."""
    odd = [p for p in envelope.trail if p.decision == "anomalous"]
    hits = [p.wall_time_utc_ns for p in odd if p.p_value <= config.open_p] or [p.wall_time_utc_ns for p in odd]
    opened_ns = hits[min(config.open_hits, len(hits)) - 1] if hits else envelope.start_utc_ns
    sensors = [c for c in envelope.contributions if c.channel is None]
    return FoundEpisode(
        start_s=(envelope.start_utc_ns - origin_utc_ns) / 1e9,
        end_s=(envelope.end_utc_ns - origin_utc_ns) / 1e9,
        opened_s=(opened_ns - origin_utc_ns) / 1e9,
        top_sensor=sensors[0].sensor if sensors else "",
    )
