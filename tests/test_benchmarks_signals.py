"""The benchmarks of clock and decoder measure what they say, on small runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from kinedge.benchmarks import clock
from kinedge.benchmarks.clock import bench_clock
from kinedge.benchmarks.decode import bench_decode
from kinedge.benchmarks.links import bench_links


def rows_of(found: dict[str, Any], situation: str) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in found["rows"] if row["situation"] == situation}


def test_clock_map_is_steady_where_arrival_times_and_counting_packets_are_not() -> None:
    found = bench_clock(n_devices=2, duration_s=150.0)
    json.dumps(found)
    assert rows_of(found, "30 ms, 2 % loss, paced by the radio")["clock map"]["sd_ms"] <= 0.1
    lossy = rows_of(found, "30 ms interval, 2 % loss")
    assert lossy["clock map"]["sd_ms"] <= 0.5
    assert lossy["arrival"]["sd_ms"] > 10
    assert lossy["lsl-style"]["sd_ms"] > 10 > rows_of(found, "30 ms interval")["lsl-style"]["sd_ms"]
    assert lossy["least squares"]["bias_ms"] > lossy["clock map"]["bias_ms"] > 0
    for situation in clock.SITUATIONS:
        for what in ("clock map", "clock map, time sync"):
            row = rows_of(found, situation.name)[what]
            assert row["covered"] > 0.99
            assert row["pair_covered"] > 0.99
            assert row["pair_p95_ms"] < row["pair_said_ms"]
        row = rows_of(found, situation.name)["clock map"]
        assert row["said_ms"] >= situation.connection_interval_s * 1000


def test_exchanges_take_the_bias_out_that_arrivals_cannot_see() -> None:
    rows = rows_of(bench_clock(n_devices=2, duration_s=150.0, seed=1), "30 ms interval")
    assert abs(rows["clock map, time sync"]["bias_ms"]) < rows["clock map"]["bias_ms"]
    assert rows["clock map, time sync"]["said_ms"] < rows["clock map"]["said_ms"]


def test_recursive_line_is_the_weighted_least_squares_line() -> None:
    rng = np.random.default_rng(0)
    x, half_life = np.sort(rng.uniform(0, 50, 60)), 20.0
    y = 3 + 0.5 * x + rng.normal(0, 1, 60)
    found = clock._recursive_line(x, y, half_life=half_life)
    weights = 2.0 ** (-np.arange(59, -1, -1) / half_life)
    slope, offset = np.polyfit(x, y, 1, w=np.sqrt(weights))
    np.testing.assert_allclose(found[-1], offset + slope * x[-1], rtol=1e-9)


def test_decoding_is_timed_beside_a_struct_per_sample() -> None:
    found = bench_decode(packets=16, n_rounds=3, round_s=0.01)
    json.dumps(found)
    rows = {row["what"]: row for row in found["rows"]}
    assert rows["burst"]["ratio"] == 1
    # how much faster is a matter of the machine, and is published, not asserted
    assert rows["struct loop"]["ratio"] > 0
    assert rows["struct loop, values only"]["ratio"] > 0


def test_listening_accounts_for_every_sample_that_was_sent() -> None:
    found = bench_links(n_sensors=3, rate_hz=200.0, seconds=1.0)
    json.dumps(found)
    (row,) = found["rows"]
    assert (row["sent"], row["received"], row["lost"], row["unaccounted"]) == (600, 600, 0, 0)
    assert row["cpu_share"] > 0
