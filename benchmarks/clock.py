"""How well device time becomes host time, on simulated BLE delays, beside what others do with arrival times.

Simulated, because only then is the truth known: see ``delays``. Contenders, each causal: it sees a packet and must say
at once when its last sample was taken.

* ``arrival``: the time of arrival itself.
* ``least squares``: recursive least squares of arrival on device time, forgetting by half in 60 s.
* ``lsl-style``: recursive least squares of arrival on the number of packets received, forgetting by half in 90 s, as
  Lab Streaming Layer's dejitter does; a lost packet shifts it, since it does not see device time.
* ``clock map``: ``ClockMap`` from arrivals alone.
* ``clock map, time sync``: the same with a two-way exchange every 2 s, as a ``SessionLink`` makes them.

And how far the streams of two devices are apart, beside what ``alignment`` says of the pair.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.delays import Delays, SimulatedDevice, simulate_delays
from kinedge.benchmarks.harness import result
from kinedge.firmware_bridge.clock import ClockMap
from kinedge.units import NS_PER_S

__all__ = ["SITUATIONS", "bench_clock", "main"]

_F64: TypeAlias = NDArray[np.float64]
_I64: TypeAlias = NDArray[np.int64]
_PACKET_S: Final = 0.05
_WARM_UP_S: Final = 30.0
_SAID_EVERY: Final = 5  # packets
_COMPARED_EVERY_NS: Final = NS_PER_S // 2

SITUATIONS: Final = (
    Delays("15 ms interval", connection_interval_s=0.015),
    Delays("30 ms interval"),
    Delays("30 ms interval, 2 % loss", loss=0.02),
    Delays("50 ms interval, 80 ppm", connection_interval_s=0.050, skew_ppm=80.0),
    Delays("30 ms, 2 % loss, paced by the radio", loss=0.02, pace="host"),
    Delays("30 ms, 2 % loss, in step but for 35 ppm", loss=0.02, pace="clock"),
    Delays("50 ms, in step but for 80 ppm", connection_interval_s=0.050, skew_ppm=80.0, pace="clock"),
)


def bench_clock(*, n_devices: int = 6, duration_s: float = 600.0, seed: int = 7) -> dict[str, Any]:
    """Compare the contenders in all situations.

    Parameters
    ----------
    n_devices
        Independent devices per situation; pairs need two.
    duration_s
        Of each; the first 30 s are judged apart.

    Returns
    -------
    dict
        Rows by situation and contender. ``bias_ms``: median error, mean over devices; ``sd_ms`` and ``p99_ms``: about
        that median; ``early_rms_ms``: between 5 and 15 s, about the later median; ``said_ms``: what the clock map says
        its uncertainty is, and ``covered``: the share of errors within it. Of all pairs of devices, every half second
        from the first packets on: ``pair_p95_ms``: what 95 % of the true misalignments are below; ``pair_said_ms``:
        median of what is said of them; ``pair_covered``: the share of them within it.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for situation in SITUATIONS:
        runs = [simulate_delays(situation, duration_s=duration_s, rng=rng) for _ in range(n_devices)]
        for what, estimate in _CONTENDERS.items():
            rows.append({"what": what, "situation": situation.name, **_judge(runs, [estimate(run) for run in runs])})
    return result("clock", rows, settings={"n_devices": n_devices, "duration_s": duration_s, "seed": seed})


def _ns(seconds: _F64) -> _I64:
    return np.rint(seconds * NS_PER_S).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Host time of each packet, and by how much it may be early and late (n, 2) in ns, where that is said."""

    host_ns: _I64
    bounds_ns: _I64 | None = None


def _arrival(run: SimulatedDevice) -> _Estimate:
    return _Estimate(run.arrival_ns)


def _clock_map(run: SimulatedDevice, *, two_way: bool = False) -> _Estimate:
    clock = ClockMap(delay_floor_ns=run.delay_floor_ns)
    exchanges = iter(run.exchanges if two_way else ())
    next_exchange = next(exchanges, None)
    host_ns = np.empty_like(run.arrival_ns)
    bounds_ns = np.empty((len(host_ns), 2), np.int64)
    for i, (device, arrival) in enumerate(zip(run.device_ns.tolist(), run.arrival_ns.tolist(), strict=True)):
        while next_exchange is not None and next_exchange[0] <= i:
            clock.update_two_way(*next_exchange[1])
            next_exchange = next(exchanges, None)
        clock.update(device, arrival)
        host_ns[i] = clock.to_host_ns(run.device_ns[i : i + 1])[0]
        bounds_ns[i] = clock.error_bounds_ns if i % _SAID_EVERY == 0 else bounds_ns[i - 1]
    return _Estimate(host_ns, bounds_ns)


def _recursive_line(x: _F64, y: _F64, *, half_life: float) -> _F64:
    """Return at each point the value there of the line through all points so far, forgetting exponentially.

    Parameters
    ----------
    x, y : (n,) float64
    half_life
        Points after which a point counts half.
    """
    keep = 2.0 ** (-1.0 / half_life)
    n = sx = sy = sxx = sxy = 0.0
    out = np.empty_like(y)
    origin = x[0]
    for i, (a, b) in enumerate(zip((x - origin).tolist(), y.tolist(), strict=True)):
        n, sx, sy, sxx, sxy = n * keep + 1, sx * keep + a, sy * keep + b, sxx * keep + a * a, sxy * keep + a * b
        determinant = n * sxx - sx * sx
        slope = (n * sxy - sx * sy) / determinant if i > 1 else 0.0
        out[i] = (sy - slope * sx) / n + slope * a
    return out


def _least_squares(run: SimulatedDevice) -> _Estimate:
    offset_s = (run.arrival_ns - run.device_ns - (run.arrival_ns[0] - run.device_ns[0])) / NS_PER_S
    line = _recursive_line((run.device_ns - run.device_ns[0]) / NS_PER_S, offset_s, half_life=60 / _PACKET_S)
    return _Estimate(run.device_ns + (run.arrival_ns[0] - run.device_ns[0]) + _ns(line))


def _lsl_style(run: SimulatedDevice) -> _Estimate:
    index = np.arange(len(run.arrival_ns), dtype=np.float64)
    line = _recursive_line(index, (run.arrival_ns - run.arrival_ns[0]) / NS_PER_S, half_life=90 / _PACKET_S)
    return _Estimate(run.arrival_ns[0] + _ns(line))


_CONTENDERS: Final[dict[str, Callable[[SimulatedDevice], _Estimate]]] = {
    "arrival": _arrival,
    "least squares": _least_squares,
    "lsl-style": _lsl_style,
    "clock map": _clock_map,
    "clock map, time sync": lambda run: _clock_map(run, two_way=True),
}


def _judge(runs: Sequence[SimulatedDevice], estimates: Sequence[_Estimate]) -> dict[str, Any]:
    biases, spreads, tails, early, said, covered = [], [], [], [], [], []
    for run, found in zip(runs, estimates, strict=True):
        error_ms = (found.host_ns - run.true_ns) / 1e6
        at_s = run.true_ns / NS_PER_S
        settled = error_ms[at_s > _WARM_UP_S]
        bias = float(np.median(settled))
        biases.append(bias)
        spreads.append(float(np.std(settled)))
        tails.append(float(np.quantile(np.abs(settled - bias), 0.99)))
        early.append(float(np.sqrt(np.mean((error_ms[(at_s > 5) & (at_s < 15)] - bias) ** 2))))
        if found.bounds_ns is not None:
            said_ms = found.bounds_ns.max(axis=1) / 1e6
            said.append(float(np.median(said_ms[at_s > _WARM_UP_S])))
            covered.append(float(np.mean(np.abs(error_ms) <= said_ms)))
    return {
        "bias_ms": round(float(np.mean(biases)), 3),
        "sd_ms": round(float(np.mean(spreads)), 4),
        "p99_ms": round(float(np.mean(tails)), 3),
        "early_rms_ms": round(float(np.mean(early)), 3),
        "said_ms": round(float(np.mean(said)), 2) if said else "",
        "covered": round(float(np.mean(covered)), 4) if covered else "",
        **_judge_pairs(runs, estimates),
    }


def _judge_pairs(runs: Sequence[SimulatedDevice], estimates: Sequence[_Estimate]) -> dict[str, Any]:
    """Compare the errors of each two devices at common times, and what ``pair_uncertainty_ns`` would say then."""
    if len(runs) < 2:
        return {"pair_p95_ms": "", "pair_said_ms": "", "pair_covered": ""}
    at_ns = np.arange(0, max(int(r.true_ns[-1]) for r in runs), _COMPARED_EVERY_NS)
    errors, bounds = [], []
    for run, found in zip(runs, estimates, strict=True):
        last = np.searchsorted(run.arrival_ns, at_ns, side="right") - 1  # packets known by then
        error_ms = np.where(last >= 0, (found.host_ns - run.true_ns)[last] / 1e6, np.nan)
        errors.append(error_ms)
        if found.bounds_ns is not None:
            bounds.append(found.bounds_ns[last] / 1e6)
    apart_ms = np.concatenate([np.abs(a - b) for a, b in combinations(errors, 2)])
    heard = ~np.isnan(apart_ms)
    judged: dict[str, Any] = {"pair_p95_ms": round(float(np.quantile(apart_ms[heard], 0.95)), 2)}
    if not bounds:
        return {**judged, "pair_said_ms": "", "pair_covered": ""}
    said_ms = np.concatenate(
        [np.maximum(a[:, 1] + b[:, 0], b[:, 1] + a[:, 0]) for a, b in combinations(bounds, 2)]
    )  # as ``pair_uncertainty_ns`` has it
    return {
        **judged,
        "pair_said_ms": round(float(np.median(said_ms[heard])), 2),
        "pair_covered": round(float(np.mean(apart_ms[heard] <= said_ms[heard])), 4),
    }


def main(argv: list[str] | None = None) -> int:
    """Print the result as JSON."""
    _ = argv
    print(json.dumps(bench_clock(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
