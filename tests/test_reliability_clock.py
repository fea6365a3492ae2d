"""How far a person's sensors may be apart in time: told for many people at once, and what each clock says by itself."""

from __future__ import annotations

import numpy as np
import pytest

from kinedge.edge.arrivals import Arrivals
from kinedge.edge.grid import Grid
from kinedge.edge.reliability_clock import ClockWatch, spread_ms
from kinedge.firmware_bridge.clock import ClockMap, FixedClock
from kinedge.signals import ImuChunk, SensorSpec

CHANNELS = ("acc_x", "gyr_z")
SENSORS = ("back", "wrist_left", "wrist_right")
MS = 1_000_000


@pytest.mark.parametrize("n_sensors", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_look_at_many_people_gives_what_their_clocks_say_one_by_one(n_sensors: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names, people = SENSORS[:n_sensors], [f"p{i}" for i in range(30)]
    grid = Grid([SensorSpec(s, CHANNELS) for s in names], np.zeros(len(people), np.int64), rate_hz=50, hop=50)
    arrivals = Arrivals(grid, people, lambda: ClockMap(delay_floor_ns=int(rng.integers(0, 20 * MS))))
    watch = ClockWatch(len(people), names)
    arrivals.use_clock("p3", names[0], FixedClock())
    shifted = ClockMap(shift_ns=5 * MS, shift_uncertainty_ns=3 * MS)
    arrivals.use_clock("p4", names[0], shifted)
    arrivals.use_clock("p5", "ankle", FixedClock())  # not of the model
    silent = {("p1", names[0]), ("p2", names[-1])}
    rows = np.arange(len(people))
    for second in range(40):
        for p in people:
            for s in names:
                if (p, s) in silent or rng.random() < 0.2:
                    continue
                time = second * 1000 * MS + np.arange(1, 3) * 20 * MS
                late = int(rng.exponential(9 * MS)) + (100 * MS if s == "wrist_left" else 0)
                values, there = np.zeros((2, 2), np.float32), np.ones((2, 2), bool)
                chunk = ImuChunk(s, time, values, there, ~there, 20 * MS, host_time_ns=int(time[-1]) + late)
                arrivals.push(p, chunk, CHANNELS)
        if second == 20:
            arrivals.clocks["p6"][names[-1]].update_two_way(
                second * 1000 * MS, second * 1000 * MS, second * 1000 * MS, second * 1000 * MS + 9 * MS
            )
        if second == 30:
            arrivals.take_off("p7", names[-1])
        watch._seen[:] = False  # everybody's turn
        found = watch.look(rows, rows, arrivals.clocks_by_row, arrivals.error_bounds_ns)
        expected = [spread_ms(arrivals.clocks[p], names) for p in people]
        assert np.array_equal(found, expected)
    assert bool(found.any()) == (n_sensors > 1)
