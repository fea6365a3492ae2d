"""What caution is measured on: changes of movement under every fault of the sensors, and the same without the fault.

A session is a stretch of ordinary movement with one change of movement in it. Each is taken as it is and with each
fault, which begins early and stays: the truth is about the person alone. So a twin without the fault exists for
every block, and tells whether an answer is missing because of the fault.

Simulated people are counted in sixteen bits, as sensors give them: much of what is known of a sensor is told from equal
samples.
Faults are laid over finished samples, the change included, as a sensor would report them to first order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.recording import Recording
from kinedge.signals import Quantity, quantity_of
from kinedge.training.anomalies import ANOMALIES, inject, perturb
from kinedge.training.simulate import ImuModel, SimulationConfig, simulate
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["CHANGES", "FAULTS", "FROM_THE_START", "Fault", "Session", "faulted", "real_sessions", "simulated_sessions"]

Mask = NDArray[np.bool_]

_PACKET: Final = 5  # samples
_BURST: Final = 4.0  # packets
_NARROWEST: Final = {Quantity.ACC: 0.5, Quantity.GYR: 0.1, Quantity.MAG: 5.0}  # half of a range: none ends in noise
_STUCK_S: Final = (0.2, 1.0)  # a buffer of so long, given again until so long has passed
CHANGES: Final = ("tremor", "amplitude_drop", "gain_change", "time_lag")  # of real recordings, at one sensor
_SIMULATED: Final = tuple(
    name
    for name, a in ANOMALIES.items()
    if a.kind == "movement" and (not a.sensors or {"wrist_left", "wrist_right"} & set(a.sensors))
)
_COUNT: Final = {Quantity.ACC: 16 * STANDARD_GRAVITY_M_S2 / 32768, Quantity.GYR: float(np.deg2rad(2000)) / 32768}
_SESSION_S: Final = 80.0
_FAULT_S: Final = 10.0
_CHANGE_S: Final = (45.0, 57.0)


@dataclass(frozen=True, eq=False)
class Session:
    """Ordinary movement with one change in it.

    Parameters
    ----------
    change : (start, end)
        In samples.
    fault_start
        Sample from which a fault is laid over.
    seed
        Of the fault.
    """

    recording: Recording
    change: tuple[int, int]
    fault_start: int
    seed: int
    kind: str


@dataclass(frozen=True)
class Fault:
    """A fault of sensors.

    Parameters
    ----------
    codes
        Of the reasons that name it.
    sensors
        How many are struck: 0 none, 1 one drawn at random, 2 a pair, -1 all.
    lay
        Changes values and mask from the start on, in place.
    """

    codes: tuple[str, ...]
    sensors: int
    lay: Callable[[_Laid], None]


@dataclass
class _Laid:
    values: NDArray[np.float32]  # (n, C), from the start of the fault on
    valid: Mask
    columns: list[NDArray[np.intp]]  # of each struck sensor
    quantities: tuple[Quantity, ...]
    recording: Recording
    start: int
    rng: np.random.Generator

    @property
    def rate_hz(self) -> float:
        return self.recording.rate_hz


def _nothing(f: _Laid) -> None:
    """Leave everything as it is."""


def _loss(rate: float) -> Callable[[_Laid], None]:
    def lay(f: _Laid) -> None:
        good = _BURST * (1 - rate) / rate
        for columns in f.columns:
            n = len(f.values) // _PACKET + 1
            runs = np.stack([f.rng.geometric(1 / good, n), f.rng.geometric(1 / _BURST, n)], axis=1).ravel()
            lost = np.repeat(np.tile([False, True], n), runs)[int(f.rng.integers(int(good + _BURST))) :][:n]
            f.valid[np.ix_(np.repeat(lost, _PACKET)[: len(f.values)], columns)] = False

    return lay


def _dead(f: _Laid) -> None:
    f.valid[:, f.columns[0]] = False


def _flat(f: _Laid) -> None:
    f.values[:, f.columns[0]] = f.values[0, f.columns[0]]


def _saturated(f: _Laid) -> None:
    c = f.columns[0]
    x = np.where(f.valid[:, c], f.values[:, c], np.nan)
    least = np.array([_NARROWEST[f.quantities[column]] for column in c])
    middle, half = np.nanmedian(x, axis=0), np.maximum(np.nanstd(x, axis=0), least)
    f.values[:, c] = np.clip(f.values[:, c], middle - half, middle + half)


def _swapped(f: _Laid) -> None:
    a, b = f.columns
    for part in (f.values, f.valid):
        part[:, np.concatenate([a, b])] = part[:, np.concatenate([b, a])]


def _stuck(f: _Laid) -> None:
    buffer, until = (max(2, round(s * f.rate_hz)) for s in _STUCK_S)
    at = np.arange(len(f.values))
    source = at // until * until + at % until % buffer
    for part in (f.values, f.valid):
        part[:, f.columns[0]] = part[np.ix_(source, f.columns[0])]


def _duplicate(f: _Laid) -> None:
    a, b = f.columns
    f.values[:, b], f.valid[:, b] = f.values[:, a], f.valid[:, a]


def _held_axis(f: _Laid) -> None:
    c = int(f.rng.choice(f.columns[0]))
    f.values[:, c] = f.values[0, c]


def _off_body(f: _Laid) -> None:
    imu, n = ImuModel(), len(f.values)
    up = f.rng.normal(size=3)
    up *= STANDARD_GRAVITY_M_S2 / np.linalg.norm(up)
    noise = {
        Quantity.ACC: imu.acc_noise_m_s2_per_sqrt_hz,
        Quantity.GYR: imu.gyr_noise_rad_s_per_sqrt_hz,
        Quantity.MAG: 0.3,
    }
    axis = 0
    for c in f.columns[0]:
        quantity = f.quantities[c]
        level = up[axis % 3] if quantity is Quantity.ACC else 0.0
        axis += quantity is Quantity.ACC
        f.values[:, c] = level + f.rng.normal(0, noise[quantity] * np.sqrt(f.rate_hz / 2), n)
    f.valid[:, f.columns[0]] = True


def _wrong_unit(f: _Laid) -> None:
    """Give acceleration in g, or of twice the range; or turning, where it is measured, in degrees a second."""
    ways = [(Quantity.ACC, 1 / STANDARD_GRAVITY_M_S2), (Quantity.ACC, 2.0), (Quantity.GYR, float(np.rad2deg(1)))]
    ways = [w for w in ways if w[0] in [f.quantities[c] for c in f.columns[0]]]
    quantity, factor = ways[int(f.rng.integers(len(ways)))]
    f.values[:, [c for c in f.columns[0] if f.quantities[c] is quantity]] *= np.float32(factor)


FAULTS: Final[Mapping[str, Fault]] = {
    "clean": Fault((), 0, _nothing),
    "10 % loss": Fault(("missing", "no_data"), -1, _loss(0.1)),
    "30 % loss": Fault(("missing", "no_data"), -1, _loss(0.3)),
    "saturation": Fault(("saturated",), 1, _saturated),
    "dead sensor": Fault(("no_data",), 1, _dead),
    "swap": Fault(("swapped",), 2, _swapped),
    "stuck": Fault(("stuck", "flat"), 1, _stuck),
    "flat line": Fault(("flat",), 1, _flat),
    "duplicate": Fault(("duplicate",), 2, _duplicate),
    "off-body": Fault(("off_body",), 1, _off_body),
    "wrong unit": Fault(("units",), 1, _wrong_unit),
    "held axis": Fault(("held",), 1, _held_axis),
}


FROM_THE_START: Final = ("swap", "wrong unit")  # made when sensors are set up and put on


def faulted(session: Session, name: str) -> tuple[Recording, tuple[str, ...]] | None:
    """Return a session under a fault and the sensors it strikes; None where it cannot strike (no two sides)."""
    recording, fault = session.recording, FAULTS[name]
    rng = np.random.default_rng([session.seed, list(FAULTS).index(name)])
    names = [s.name for s in recording.sensors]
    struck: list[str] = []
    if fault.sensors == 1:
        struck = [str(rng.choice(names))]
    elif fault.sensors == -1:
        struck = names
    elif fault.sensors == 2:
        pairs = _sides(names) if name == "swap" else _alike(recording)
        if not pairs:
            return None
        struck = list(pairs[int(rng.integers(len(pairs)))])
        rng.shuffle(struck)
    values, valid = recording.values.copy(), recording.valid.copy()
    columns = [np.r_[recording.columns(s)] for s in struck]
    quantities = tuple(quantity_of(c) for s in recording.sensors for c in s.channels)
    at = 0 if name in FROM_THE_START else session.fault_start
    fault.lay(_Laid(values[at:], valid[at:], columns, quantities, recording, at, rng))
    return replace(recording, values=np.where(valid, values, np.float32(0)), valid=valid), tuple(struck)


def _sides(names: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (n, f"{n[: -len('left')]}right") for n in names if n.endswith("_left") and f"{n[: -len('left')]}right" in names
    ]


def _alike(recording: Recording) -> list[tuple[str, str]]:
    sensors = recording.sensors
    return [(a.name, b.name) for i, a in enumerate(sensors) for b in sensors[i + 1 :] if a.channels == b.channels]


def simulated_sessions(seeds: Sequence[int], *, sessions_each: int = len(_SIMULATED)) -> list[Session]:
    """Return sessions of simulated people with two wrist sensors, each with another change, alternately left and right.

    Parameters
    ----------
    seeds
        Of the people.
    sessions_each
        Of each person; as many as there are changes gives every change once.
    """
    sessions = []
    for i, seed in enumerate(seeds):
        for j in range(sessions_each):
            kind = _SIMULATED[(i + j) % len(_SIMULATED)]
            anomaly = ANOMALIES[kind]
            mix = {anomaly.activity: 1.0} if anomaly.activity else {"rest": 0.2, "gait": 0.4, "arm": 0.4}
            config = SimulationConfig(
                duration_s=_SESSION_S, subject_seed=seed, session_seed=100 * seed + j, activity_mix=mix
            )
            sensor = ("wrist_left", "wrist_right")[(i + j) % 2]
            start, end = (round(s * config.rate_hz) for s in _CHANGE_S)
            if anomaly.level == "kinematic":
                recording = simulate(perturb(config, kind, *_CHANGE_S, sensor=sensor))
            else:
                recording = inject(simulate(config), kind, start, end, sensor=sensor, seed=seed)
            recording = _counted(recording)
            sessions.append(Session(recording, (start, end), round(_FAULT_S * config.rate_hz), 100 * seed + j, kind))
    return sessions


def _counted(recording: Recording) -> Recording:
    """Return a recording of inertial sensors of 16 g and 2000 degrees a second, in whole counts of sixteen bits."""
    count = np.array([_COUNT[quantity_of(c)] for s in recording.sensors for c in s.channels])
    return replace(recording, values=(np.round(recording.values / count) * count).astype(np.float32))


def real_sessions(
    recordings: Sequence[Recording], *, exclude: Sequence[str] = (), longest_s: float = 60.0, seed: int = 0
) -> list[Session]:
    """Cut ordinary movement out of recordings on the model's grid and put every change once into each piece.

    Parameters
    ----------
    exclude
        Labels of what is no ordinary movement.
    longest_s
        Of a piece; one of less than 20 s is left out.
    seed
        Of what is changed where.
    """
    rng = np.random.default_rng(seed)
    sessions = []
    for recording in recordings:
        rate = recording.rate_hz
        n, least = round(longest_s * rate), round(20 * rate)
        good = np.ones(len(recording), bool)
        for region in recording.labels:
            if region.label in exclude:
                good[max(0, region.start - round(2 * rate)) : region.end + round(5 * rate)] = False
        edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            for at in range(int(start), int(end) - least + 1, n):
                piece = recording.slice(at, min(at + n, int(end)))
                if len(piece) < least:
                    continue
                first = round(0.55 * len(piece))
                last = min(first + round(10 * rate), len(piece) - round(2 * rate))
                for kind in CHANGES:
                    sensor, one = str(rng.choice([s.name for s in piece.sensors])), int(rng.integers(2**31))
                    changed = inject(replace(piece, labels=()), kind, first, last, sensor=sensor, seed=one)
                    sessions.append(Session(changed, (first, last), round(4 * rate), one, kind))
    return sessions
