"""What can change in the way a body moves: the simulator's parameters over time, and anomalies as changes of them.

A kinematic anomaly never touches samples: it changes the drive of the body during ``[start, end)``, and gyroscope
and accelerometer of every sensor follow from the movement that results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.training.courses import min_jerk

__all__ = ["ALL", "EFFECTS", "SIDES", "Drive", "Effect", "Perturbation"]

Array = NDArray[np.float64]
SIDES: Final = ("left", "right")
ALL: Final = ("wrist_left", "wrist_right", "lower_back", "ankle_left", "ankle_right")


@dataclass(frozen=True)
class Perturbation:
    """A kinematic anomaly in a simulation.

    Parameters
    ----------
    name
        A key of :data:`EFFECTS`.
    start_s, end_s
        ``[start, end)`` in seconds from the start of the recording.
    sensor
        Where it acts; for one that takes the whole body, any sensor.
    strength
        1 is clearly visible to a clinician; effects that remove something are complete there.
    """

    name: str
    start_s: float
    end_s: float
    sensor: str = "wrist_left"
    strength: float = 1.0

    def __post_init__(self) -> None:
        effect = EFFECTS.get(self.name)
        if effect is None:
            raise ConfigError(f"unknown kinematic anomaly {self.name!r}; known are {', '.join(sorted(EFFECTS))}")
        if not 0 <= self.start_s < self.end_s:
            raise ConfigError(
                f"{self.name}: [start_s, end_s) must be 0 <= start < end, got {self.start_s}, {self.end_s}"
            )
        if not 0 < self.strength <= 10:
            raise ConfigError(f"{self.name}: strength must lie above 0 and up to 10, got {self.strength}")
        if self.sensor not in effect.sensors:
            raise ConfigError(f"{self.name} acts at {', '.join(effect.sensors)}, not at {self.sensor!r}")

    @property
    def touches(self) -> tuple[str, ...]:
        """Sensors that see it."""
        return (self.sensor,) if EFFECTS[self.name].local else EFFECTS[self.name].sensors


@dataclass
class Drive:
    """Parameters of the movement at every sample; ``(n,)`` arrays, per side where the body has two.

    ``pace`` drives the body's own clock, on which steps and reaches run. ``swing``, ``reach`` and ``leg`` scale the
    amplitudes of arms in gait, of arm movements and of legs. ``tremor``, ``shake`` (rad) are oscillations of forearms
    and shanks, ``flexion`` (rad) a posture added to the elbow, ``late`` (rad of the gait cycle) a step delayed.
    ``lying`` turns the whole body from 0 (upright) to 1, ``pitch`` (rad) leans it, ``fall_m_s2`` accelerates it.
    ``impacts`` are (time in s, peak in m/s^2) felt everywhere.
    """

    t: Array
    pace: Array
    cadence: Array
    swing: dict[str, Array]
    reach: dict[str, Array]
    leg: dict[str, Array]
    tremor: dict[str, Array]
    shake: Array
    flexion: dict[str, Array]
    late: dict[str, Array]
    lying: Array
    pitch: Array
    fall_m_s2: Array
    impacts: list[tuple[float, float]]

    @classmethod
    def usual(cls, t: Array) -> Drive:
        """Return the drive of an unperturbed body at times ``t`` (n,) in s."""

        def both(value: float) -> dict[str, Array]:
            return {side: np.full(len(t), value) for side in SIDES}

        def one(value: float) -> Array:
            return np.full(len(t), value)

        return cls(
            t, one(1.0), one(1.0), both(1.0), both(1.0), both(1.0), both(0.0), one(0.0), both(0.0), both(0.0),
            one(0.0), one(0.0), one(0.0), [],
        )  # fmt: skip

    def apply(self, p: Perturbation) -> None:
        """Change the drive during the perturbation, eased in and out."""
        ramp_s = min(0.5, (p.end_s - p.start_s) / 4)
        rise = min_jerk((self.t - p.start_s) / ramp_s)
        eased = rise * (1 - min_jerk((self.t - (p.end_s - ramp_s)) / ramp_s))
        side = "right" if p.sensor.endswith("right") else "left"
        EFFECTS[p.name].change(self, eased, side, p)


@dataclass(frozen=True)
class Effect:
    """How an anomaly changes the drive, where it may act, and in which activity it can be seen at all."""

    change: Callable[[Drive, Array, str, Perturbation], None]
    sensors: tuple[str, ...]
    local: bool
    activity: str | None
    about: str


def _removed(share: float, p: Perturbation) -> float:
    return min(1.0, share * p.strength)


def _arm_swing(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    d.swing[side] *= 1 - _removed(0.85, p) * e


def _freeze(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    del side
    d.cadence *= 1 - _removed(0.95, p) * e
    for s in SIDES:
        d.swing[s] *= 1 - _removed(0.9, p) * e
        d.leg[s] *= 1 - _removed(0.85, p) * e
    d.shake += np.deg2rad(2.0) * p.strength * e


def _limp(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    d.leg[side] *= 1 - _removed(0.45, p) * e
    d.late[side] += 0.6 * p.strength * e
    d.pitch += np.deg2rad(4.0) * p.strength * e
    d.cadence *= 1 - _removed(0.15, p) * e


def _tremor(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    d.tremor[side] += np.deg2rad(5.0) * p.strength * e


def _non_use(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    d.reach[side] *= 1 - _removed(0.95, p) * e
    d.swing[side] *= 1 - _removed(0.9, p) * e
    d.flexion[side] += np.deg2rad(35.0) * min(p.strength, 2.0) * e


def _slow(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    del side
    d.pace *= 1 - min(0.9, 0.45 * p.strength) * e


def _stumble(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    at = (d.t - p.start_s) / (p.end_s - p.start_s)
    bump = min_jerk(at / 0.3) * (1 - min_jerk((at - 0.3) / 0.7))
    d.pitch += np.deg2rad(20.0) * p.strength * bump
    for s in SIDES:
        d.flexion[s] += np.deg2rad(60.0) * min(p.strength, 2.0) * bump
    d.late[side] += 1.0 * p.strength * e
    d.impacts.append((p.start_s + 0.3 * (p.end_s - p.start_s), 25.0 * p.strength))


def _fall(d: Drive, e: Array, side: str, p: Perturbation) -> None:
    del side
    d.fall_m_s2 -= 8.0 * min(p.strength, 1.2) * ((d.t >= p.start_s) & (d.t < p.start_s + 0.4))
    d.impacts.append((p.start_s + 0.42, 60.0 * p.strength))
    d.lying = np.maximum(d.lying, e)
    d.cadence *= 1 - e
    for s in SIDES:
        for amplitude in (d.swing, d.reach, d.leg):
            amplitude[s] *= 1 - 0.98 * e


_WRISTS: Final = ("wrist_left", "wrist_right")
_ANKLES: Final = ("ankle_left", "ankle_right")

EFFECTS: Final[Mapping[str, Effect]] = {
    "reduced_arm_swing": Effect(_arm_swing, _WRISTS, True, "gait", "one arm swings 85 % less in gait"),
    "freezing_of_gait": Effect(_freeze, ALL, False, "gait", "cadence collapses; legs tremble at 3-8 Hz"),
    "limp": Effect(_limp, (*_ANKLES, "lower_back"), False, "gait", "one leg steps late and short"),
    "rest_tremor": Effect(_tremor, _WRISTS, True, None, "one forearm oscillates at 5 Hz"),
    "arm_non_use": Effect(_non_use, _WRISTS, True, None, "one arm is held flexed and hardly moves"),
    "slowed_movement": Effect(_slow, ALL, False, None, "everything runs at about half the pace"),
    "stumble": Effect(_stumble, ALL, False, "gait", "a late step, an impact, both arms thrown up"),
    "fall": Effect(_fall, ALL, False, None, "low g, an impact, then lying still"),
}
