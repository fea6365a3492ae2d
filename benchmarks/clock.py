"""How well device time becomes host time, on simulated BLE delays, beside what others do with arrival times.

Simulated, because only then is the truth known: a device samples by its own clock (offset, skew that wanders with
temperature), a packet waits for the next connection event, some are repeated at later events, the host's stack adds
some milliseconds, and now and then everything stalls. No hardware took part.

Contenders, each causal: it sees a packet and must say at once when its last sample was taken.

* ``arrival``: the time of arrival itself.
* ``least squares``: recursive least squares of arrival on device time, forgetting by half in 60 s.
* ``lsl-style``: recursive least squares of arrival on the number of packets received, forgetting by half in 90 s, as
  Lab Streaming Layer's dejitter does; a lost packet shifts it, since it does not see device time.
* ``clock map``: ``ClockMap`` from arrivals alone.
* ``clock map, time sync``: the same with a two-way exchange every 10 s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.harness import result
from kinedge.firmware_bridge.clock import ClockMap
from kinedge.units import NS_PER_S

__all__ = ["Delays", "bench_clock", "main"]

_F64: TypeAlias = NDArray[np.float64]
_PACKET_S: Final = 0.05
_WARM_UP_S: Final = 30.0
_EXCHANGE_EVERY_S: Final = 10.0
_DEVICE_ORIGIN_NS: Final = 5_000 * NS_PER_S


@dataclass(frozen=True)
class Delays:
    """One situation.

    Parameters
    ----------
    name
        As it stands in the table.
    connection_interval_s
        Of BLE: packets wait for the next event.
    repeat
        Probability that a packet needs another event.
    loss
        Share of packets that never arrive.
    skew_ppm
        How much faster the device clock runs.
    """

    name: str
    connection_interval_s: float = 0.030
    repeat: float = 0.12
    loss: float = 0.0
    skew_ppm: float = 35.0


SITUATIONS: Final = (
    Delays("15 ms interval", connection_interval_s=0.015),
    Delays("30 ms interval"),
    Delays("30 ms interval, 2 % loss", loss=0.02),
    Delays("50 ms interval, 80 ppm", connection_interval_s=0.050, skew_ppm=80.0),
)


@dataclass(frozen=True, eq=False)
class _Run:
    """Packets of one device: when their last sample was taken by host and device clock, and when they arrived."""

    true_ns: NDArray[np.int64]
    device_ns: NDArray[np.int64]
    arrival_ns: NDArray[np.int64]
    exchanges: list[tuple[int, tuple[int, int, int, int]]]  # before which packet; t1, t2, t3, t4
    interval_ns: int


def bench_clock(*, n_devices: int = 5, duration_s: float = 600.0, seed: int = 7) -> dict[str, Any]:
    """Compare the contenders in all situations.

    Parameters
    ----------
    n_devices
        Independent devices per situation.
    duration_s
        Of each; the first 30 s are judged apart.

    Returns
    -------
    dict
        Rows by situation and contender. ``bias_ms``: median error, mean over devices; ``sd_ms`` and ``p99_ms``: about
        that median; ``early_rms_ms``: between 5 and 15 s, about the later median; ``between_ms``: largest difference of
        the bias between two devices, which is how far their streams are shifted against each other; ``said_ms``: what
        the clock map says its uncertainty is, and ``covered``: the share of errors within it.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for situation in SITUATIONS:
        runs = [_simulate(situation, duration_s=duration_s, rng=rng) for _ in range(n_devices)]
        for what, estimate in _CONTENDERS.items():
            rows.append({"what": what, "situation": situation.name, **_judge(runs, estimate)})
    return result("clock", rows, settings={"n_devices": n_devices, "duration_s": duration_s, "seed": seed})


def _simulate(situation: Delays, *, duration_s: float, rng: np.random.Generator) -> _Run:
    interval = situation.connection_interval_s
    taken: _F64 = np.multiply(np.arange(1, int(duration_s / _PACKET_S) + 1), _PACKET_S, dtype=np.float64)
    phase = rng.uniform(0, interval)

    def skewed(at: _F64) -> _F64:
        """Device seconds since the start: the skew, and a slow wander of 3 ppm."""
        wander = 3e-6 * 400 / (2 * np.pi) * (1 - np.cos(2 * np.pi * at / 400))
        clock: _F64 = at * (1 + situation.skew_ppm * 1e-6) + wander
        return clock

    def arrive(ready: _F64) -> _F64:
        event = np.ceil((ready - phase) / interval) * interval + phase
        event += (rng.geometric(1 - situation.repeat, len(ready)) - 1) * interval
        arrival: _F64 = event + rng.gamma(1.2, 0.0015, len(ready)) + 0.0008  # the host's stack
        return arrival

    arrival = arrive(np.add(taken, 0.002))
    for stall in np.arange(70.0, duration_s, 90.0):
        held = (taken > stall) & (taken < stall + 0.8)
        arrival[held] = np.maximum(arrival[held], stall + 0.8 + rng.uniform(0, 0.01))
    arrival = np.maximum.accumulate(arrival)
    kept = rng.random(len(taken)) >= situation.loss
    taken, arrival = taken[kept], arrival[kept]

    asked: _F64 = np.arange(1.0, duration_s - 1, _EXCHANGE_EVERY_S)
    received: _F64 = np.ceil((asked + 0.001 - phase) / interval) * interval + phase + 0.0005
    answered: _F64 = received + 0.0003
    returned = arrive(answered)
    times = zip(
        np.searchsorted(arrival, returned).tolist(),
        zip(*(map(int, t) for t in _exchange_ns(asked, skewed(received), skewed(answered), returned)), strict=True),
        strict=True,
    )
    return _Run(
        _ns(taken), _DEVICE_ORIGIN_NS + _ns(skewed(taken)), _ns(arrival), list(times), round(interval * NS_PER_S)
    )


def _ns(seconds: _F64) -> NDArray[np.int64]:
    return np.rint(seconds * NS_PER_S).astype(np.int64)


def _exchange_ns(t1: _F64, t2: _F64, t3: _F64, t4: _F64) -> tuple[NDArray[np.int64], ...]:
    return _ns(t1), _DEVICE_ORIGIN_NS + _ns(t2), _DEVICE_ORIGIN_NS + _ns(t3), _ns(t4)


@dataclass(frozen=True, eq=False)
class _Estimate:
    host_ns: NDArray[np.int64]
    said_ns: NDArray[np.int64] | None = None


def _arrival(run: _Run) -> _Estimate:
    return _Estimate(run.arrival_ns)


def _clock_map(run: _Run, *, two_way: bool = False) -> _Estimate:
    clock = ClockMap(delay_floor_ns=run.interval_ns)  # as its documentation asks for BLE
    exchanges = iter(run.exchanges if two_way else ())
    next_exchange = next(exchanges, None)
    host_ns = np.empty_like(run.arrival_ns)
    said_ns = np.empty_like(run.arrival_ns)
    for i, (device, arrival) in enumerate(zip(run.device_ns.tolist(), run.arrival_ns.tolist(), strict=True)):
        while next_exchange is not None and next_exchange[0] <= i:
            clock.update_two_way(*next_exchange[1])
            next_exchange = next(exchanges, None)
        clock.update(device, arrival)
        host_ns[i] = clock.to_host_ns(run.device_ns[i : i + 1])[0]
        said_ns[i] = clock.uncertainty_ns
    return _Estimate(host_ns, said_ns)


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


def _least_squares(run: _Run) -> _Estimate:
    offset_s = (run.arrival_ns - run.device_ns - (run.arrival_ns[0] - run.device_ns[0])) / NS_PER_S
    line = _recursive_line((run.device_ns - run.device_ns[0]) / NS_PER_S, offset_s, half_life=60 / _PACKET_S)
    return _Estimate(run.device_ns + (run.arrival_ns[0] - run.device_ns[0]) + _ns(line))


def _lsl_style(run: _Run) -> _Estimate:
    index = np.arange(len(run.arrival_ns), dtype=np.float64)
    line = _recursive_line(index, (run.arrival_ns - run.arrival_ns[0]) / NS_PER_S, half_life=90 / _PACKET_S)
    return _Estimate(run.arrival_ns[0] + _ns(line))


_CONTENDERS: Final[dict[str, Callable[[_Run], _Estimate]]] = {
    "arrival": _arrival,
    "least squares": _least_squares,
    "lsl-style": _lsl_style,
    "clock map": _clock_map,
    "clock map, time sync": lambda run: _clock_map(run, two_way=True),
}


def _judge(runs: list[_Run], estimate: Callable[[_Run], _Estimate]) -> dict[str, Any]:
    biases, spreads, tails, early, said, covered = [], [], [], [], [], []
    for run in runs:
        found = estimate(run)
        error_ms = (found.host_ns - run.true_ns) / 1e6
        at_s = run.true_ns / NS_PER_S
        settled = error_ms[at_s > _WARM_UP_S]
        bias = float(np.median(settled))
        biases.append(bias)
        spreads.append(float(np.std(settled)))
        tails.append(float(np.quantile(np.abs(settled - bias), 0.99)))
        early.append(float(np.sqrt(np.mean((error_ms[(at_s > 5) & (at_s < 15)] - bias) ** 2))))
        if found.said_ns is not None:
            said.append(float(np.median(found.said_ns[at_s > _WARM_UP_S])) / 1e6)
            covered.append(float(np.mean(np.abs(found.host_ns - run.true_ns) <= found.said_ns)))
    return {
        "bias_ms": round(float(np.mean(biases)), 3),
        "sd_ms": round(float(np.mean(spreads)), 4),
        "p99_ms": round(float(np.mean(tails)), 3),
        "early_rms_ms": round(float(np.mean(early)), 3),
        "between_ms": round(float(np.ptp(biases)), 3),
        "said_ms": round(float(np.mean(said)), 2) if said else "",
        "covered": round(float(np.mean(covered)), 4) if covered else "",
    }


def main(argv: list[str] | None = None) -> int:
    """Print the result as JSON."""
    _ = argv
    print(json.dumps(bench_clock(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
