"""Records made-up samples until somebody ends the process: ``python record_until_killed.py FOLDER``."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.signals import IMU6, ImuChunk, SensorSpec

CHUNK = 10
INTERVAL_NS = 10_000_000


def chunk(k: int) -> ImuChunk:
    """Return the k-th chunk: its values are the index of the sample, so that a missing one is seen."""
    index = np.arange(k * CHUNK, (k + 1) * CHUNK)
    shape = (CHUNK, len(IMU6))
    return ImuChunk(
        "wrist_left",
        index * INTERVAL_NS,
        np.repeat(index[:, None], len(IMU6), axis=1).astype(np.float32),
        np.ones(shape, bool),
        np.zeros(shape, bool),
        INTERVAL_NS,
        host_time_ns=int(index[-1]) * INTERVAL_NS,
    )


def main(folder: Path) -> None:
    now = [0]
    writer = SessionWriter(folder, segment_s=0.5, clock=lambda: now[0])
    writer.describe(SensorSpec("wrist_left"))
    for k in itertools.count():
        now[0] += CHUNK * INTERVAL_NS
        n_segments = writer.n_segments
        writer.write(chunk(k))
        if writer.n_segments > n_segments:
            print((k + 1) * CHUNK, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
