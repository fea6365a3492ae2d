"""A gateway's measures, fed fast: ``python measures_feeder.py STORE FIRST LAST`` tells each second it gave.

Seconds FIRST to LAST of both wrists, counted from ten o'clock of a day; the process may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from kinedge.edge.hostclock import RecordedClock
from kinedge.edge.measures.config import MeasuresConfig
from kinedge.edge.measures_keeper import MeasuresKeeper
from kinedge.edge.store import EpisodeStore
from kinedge.signals import IMU6, ImuChunk

RATE = 50
START_UTC_S = 1_700_000_000 // 86_400 * 86_400 + 10 * 3600


def chunk(sensor: str, second: int) -> ImuChunk:
    """One second of a moving wrist, device time counted from 0."""
    time = (np.arange(RATE, dtype=np.int64) + second * RATE) * 20_000_000
    t = np.arange(RATE) / RATE + second
    values = np.zeros((RATE, 6), np.float32)
    values[:, 0], values[:, 2] = 5.0, 8.5
    values[:, 1] = 4.0 * np.sin(2 * np.pi * (0.6 * t + 0.3 * np.sin(0.37 * t)))
    there = np.ones(values.shape, bool)
    return ImuChunk(sensor, time, values, there, ~there, 20_000_000, host_time_ns=int(time[-1]) + 5_000_000)


async def feed(store: Path, first: int, last: int) -> None:
    """Give the seconds one by one, as fast as they are booked."""
    clock = RecordedClock(0, START_UTC_S * 10**9)
    with EpisodeStore(store) as episodes:
        keeper = MeasuresKeeper(
            episodes, MeasuresConfig(timezone="UTC"), {"p-001": "left"},
            site="s", gateway="g", config_digest="a" * 64, clock=clock, note=lambda text: print("note:", text),
        )  # fmt: skip
        running = asyncio.create_task(keeper.run())
        for second in range(first, last):
            for sensor in ("wrist_left", "wrist_right"):
                keeper.push("p-001", chunk(sensor, second), channels=IMU6, clock=None)
            clock.move_to((second + 1) * 10**9)
            keeper.tick(clock.now_ns())
            await keeper.join()
            print(second, flush=True)
        keeper.end()
        await running


if __name__ == "__main__":
    asyncio.run(feed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
