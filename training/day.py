"""A day of both arms: dressing, meals, walks, handiwork and rest, as one person does it, with or without paresis.

The day is planned in seconds and simulated in pieces, so that 14 hours take the memory of one piece. Gestures are
minimum-jerk movements of the arms of :mod:`kinedge.training.body`: to the mouth and back to the plate, up and down
both sides of the body, and to places on a table. A paretic arm takes part less often, moves slower and less far, is
held flexed, and swings less.

Deviations from real days: gestures have one phase each way, hands hold nothing, and nobody lies down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.body import Subject, move, stream
from kinedge.training.courses import moves
from kinedge.training.donning import Donning, wear
from kinedge.training.loss_traces import LossModel
from kinedge.training.perturb import SIDES, Drive
from kinedge.training.simulate import ImuModel, sense
from kinedge.training.trends import Fatigue, Recovery

__all__ = ["DAY_ACTIVITIES", "DayConfig", "Style", "deficit_of", "plan", "simulate_day"]

Array = NDArray[np.float64]
# As the body knows them, and whether one sits (None: as the person is used to).
DAY_ACTIVITIES: Final[dict[str, tuple[str, bool | None]]] = {
    "dress": ("arm", False), "eat": ("arm", True), "handle": ("arm", None), "walk": ("gait", False),
    "rest": ("rest", True),
}  # fmt: skip
_HOME: Final = np.deg2rad([10.0, 75.0, 15.0, 60.0])  # shoulder, elbow, turn inward, pronation


@dataclass(frozen=True)
class _Gesture:
    """There and back, in degrees; how much each differs; who does it."""

    there: tuple[float, float, float, float]
    back: tuple[float, float, float, float]
    spread_deg: float
    both: float


_GESTURES: Final = {
    "eat": _Gesture((38, 128, 28, 20), (25, 78, 15, 70), 5.0, 0.3),
    "dress": _Gesture((70, 85, 35, 30), (15, 35, 10, 60), 28.0, 0.75),
    "handle": _Gesture((35, 60, 15, 70), (15, 85, 25, 60), 18.0, 0.45),
}


@dataclass(frozen=True)
class Style:
    """How one person spends a day."""

    dress_min: float
    meals_h: tuple[float, ...]
    meal_min: float
    walk_share: float
    handle_share: float
    bite_s: float
    handle_s: float
    dominance: float
    sits_at_work: bool

    @classmethod
    def draw(cls, seed: int) -> Style:
        """Draw a person's habits."""
        rng = stream("style", seed)
        meals = [7.8, 12.7, 18.6] if rng.random() < 0.8 else [9.5, 17.5]
        return cls(
            dress_min=rng.uniform(6, 15),
            meals_h=tuple(float(m + rng.normal(0, 0.4)) for m in meals),
            meal_min=rng.uniform(12, 28),
            walk_share=rng.uniform(0.08, 0.25),
            handle_share=rng.uniform(0.25, 0.5),
            bite_s=rng.uniform(4.5, 9.0),
            handle_s=rng.uniform(2.0, 4.0),
            dominance=rng.uniform(0.5, 0.6),
            sits_at_work=bool(rng.random() < 0.6),
        )


@dataclass(frozen=True)
class DayConfig:
    """One day of one person.

    Parameters
    ----------
    day
        Its number: another day has another plan and other fits of the sensors, and is further on the recovery.
    hours, start_h
        How long the sensors are worn, from which hour of the day on.
    paretic
        ``left``, ``right``, or None: both arms are healthy.
    recovery, fatigue
        Courses of the paretic arm's deficit over days, and of pace and reach over the hours of a day.
    piece_min
        Length of the recordings that the day is given in.

    Raises
    ------
    ConfigError
        A number makes no sense.
    """

    day: int = 0
    subject_seed: int = 0
    hours: float = 14.0
    start_h: float = 7.0
    paretic: str | None = None
    recovery: Recovery = field(default_factory=Recovery)
    fatigue: Fatigue = field(default_factory=lambda: Fatigue(0.1))
    rate_hz: float = 50.0
    piece_min: float = 30.0
    imu: ImuModel = field(default_factory=lambda: ImuModel(donning_deg=0.0))
    donning: Donning = field(default_factory=Donning)
    loss: LossModel | None = None

    def __post_init__(self) -> None:
        if self.day < 0 or self.subject_seed < 0:
            raise ConfigError(f"day and subject_seed must not be negative, got {self.day} and {self.subject_seed}")
        if not (0.02 <= self.hours <= 24 and 0 <= self.start_h < 24):
            raise ConfigError(f"hours must lie in [0.02, 24] and start_h in [0, 24), got {self.hours}, {self.start_h}")
        if self.paretic not in (None, *SIDES):
            raise ConfigError(f"paretic must be left, right or None, got {self.paretic!r}")
        if not (10 <= self.rate_hz <= 400 and 1 <= self.piece_min <= 120):
            raise ConfigError(
                f"rate_hz must lie in [10, 400] and piece_min in [1, 120], got {self.rate_hz}, {self.piece_min}"
            )


def deficit_of(config: DayConfig) -> float:
    """Return the deficit of the paretic arm on this day: 0 none, 1 no use at all."""
    if config.paretic is None:
        return 0.0
    return config.recovery.deficit(config.day, stream("deficit", config.subject_seed, config.day))


def plan(config: DayConfig) -> tuple[Region, ...]:
    """Return what is done, in whole seconds since the sensors were put on, without gaps."""
    style = Style.draw(config.subject_seed)
    rng = stream("plan", config.subject_seed, config.day)
    end = round(config.hours * 3600)
    fixed = [(0.0, style.dress_min * 60, "dress")]
    for meal_h in style.meals_h:
        at = (meal_h + rng.normal(0, 0.15) - config.start_h) * 3600
        fixed.append((at, style.meal_min * 60 * rng.uniform(0.7, 1.3), "eat"))
    fixed.append((end - style.dress_min * 40, style.dress_min * 40, "dress"))
    regions: list[Region] = []
    now = 0
    for start, length, name in sorted(fixed):
        if not 0 <= start < end:
            continue  # a meal before the sensors are put on
        start = max(now, round(start))
        now = _fill(rng, regions, now, min(start, end), style)
        stop = min(end, now + max(1, round(length)))
        if stop > now:
            regions.append(Region(now, stop, name))
            now = stop
    _fill(rng, regions, now, end, style)
    return tuple(regions)


def _fill(rng: np.random.Generator, regions: list[Region], now: int, end: int, style: Style) -> int:
    """Fill ``[now, end)`` with walks, handiwork and rest in the person's shares of time."""
    mean_s = {"walk": 150.0, "handle": 420.0, "rest": 600.0}
    share = {"walk": style.walk_share, "handle": style.handle_share}
    share["rest"] = 1 - share["walk"] - share["handle"]
    names = list(share)
    odds = np.array([share[name] / mean_s[name] for name in names])
    while now < end:
        allowed = odds * [not regions or regions[-1].label != name for name in names]
        name = names[int(rng.choice(len(names), p=allowed / allowed.sum()))]
        stop = min(end, now + max(10, round(rng.gamma(2.0, mean_s[name] / 2))))
        regions.append(Region(now, stop, name))
        now = stop
    return now


def simulate_day(config: DayConfig, *, pieces: range | None = None) -> Iterator[Recording]:
    """Simulate a day, piece by piece; each is a recording of both wrists.

    Parameters
    ----------
    pieces
        Which; None: all. A piece is the same whichever others are simulated.

    Yields
    ------
    Recording
        Labels ``activity:<name>``; ``notes`` tell the day, the paretic side and the deficit. One session a day.
    """
    planned = plan(config)
    piece_s = round(config.piece_min * 60)
    n_pieces = -(-planned[-1].end // piece_s)
    for piece in pieces if pieces is not None else range(n_pieces):
        if not 0 <= piece < n_pieces:
            raise ConfigError(f"the day has {n_pieces} pieces, asked for {piece}")
        start, end = piece * piece_s, min((piece + 1) * piece_s, planned[-1].end)
        here = [
            Region(max(r.start, start) - start, min(r.end, end) - start, r.label)
            for r in planned
            if r.start < end and r.end > start
        ]
        yield _piece(config, piece, here, end - start)


def _piece(config: DayConfig, piece: int, planned: list[Region], length_s: int) -> Recording:
    rate, deficit = config.rate_hz, deficit_of(config)
    style, subject = Style.draw(config.subject_seed), Subject.draw(config.subject_seed)
    of_day, of_piece = (config.subject_seed, config.day), (config.subject_seed, config.day * 10_000 + piece)
    n = round(length_s * rate)
    t = np.arange(n) / rate
    awake_h = (piece * config.piece_min * 60 + t[n // 2]) / 3600
    vigour = 1 - config.fatigue.lost(awake_h)
    drive = Drive.usual(t)
    drive.pace *= vigour
    for side in SIDES:
        drive.reach[side] *= vigour
        if side == config.paretic:
            drive.reach[side] *= 1 - 0.6 * deficit
            drive.swing[side] *= 1 - 0.7 * deficit
            drive.flexion[side] += np.deg2rad(35.0) * deficit
    labels = [Region(round(r.start * rate), round(r.end * rate), r.label) for r in planned]
    bouts = tuple(replace(r, label=DAY_ACTIVITIES[r.label][0]) for r in labels)
    sitting = [DAY_ACTIVITIES[r.label][1] for r in planned]
    moved = move(
        drive,
        subject,
        bouts=bouts,
        sensors=("wrist_left", "wrist_right"),
        rate_hz=rate,
        seeds=of_piece,
        reaches=_reaches(stream("gestures", *of_piece), t, planned, style, subject, config.paretic, deficit, vigour),
        sits=np.array([style.sits_at_work if s is None else s for s in sitting], dtype=np.float64),
    )
    values = np.empty((n, 12), np.float32)
    valid = np.ones((n, 12), bool)
    trouble = config.loss.draw_trouble(stream("trouble", *of_piece)) if config.loss else 0.0
    for i, (sensor, motion) in enumerate(moved.items()):
        worn = wear(motion, config.donning.draw(stream(f"donning {sensor}", *of_day)), rate_hz=rate)
        columns = slice(6 * i, 6 * i + 6)
        values[:, columns] = sense(worn, config.imu, sensor=sensor, rate_hz=rate, seeds=of_day, part=piece + 1)
        if config.loss is not None:
            arrived = config.loss.draw(stream(f"radio {sensor}", *of_piece), n, trouble=trouble)
            valid[:, columns] = arrived[:, None]
    return Recording(
        sensors=(SensorSpec("wrist_left"), SensorSpec("wrist_right")),
        rate_hz=rate,
        values=values,
        valid=valid,
        labels=tuple(replace(r, label=f"activity:{r.label}") for r in labels),
        subject=f"day{config.subject_seed}",
        session=f"day{config.subject_seed}-{config.day}",
        source=f"kinedge simulator: day {config.day}, piece {piece}",
        notes={"paretic": config.paretic or "none", "deficit": f"{deficit:.3f}", "dominant": subject.dominant},
    )


def _reaches(
    rng: np.random.Generator,
    t: Array,
    planned: list[Region],
    style: Style,
    subject: Subject,
    paretic: str | None,
    deficit: float,
    vigour: float,
) -> dict[str, Array]:
    """Return the arm's four angles (n, 4) per side; an arm that does nothing stays where it was."""
    courses: dict[str, tuple[list[Array], list[Array], list[Array]]] = {side: ([], [], []) for side in SIDES}
    every_s = {"eat": style.bite_s, "dress": 1.8, "handle": style.handle_s}
    other = "left" if subject.dominant == "right" else "right"
    for region in planned:
        gesture = _GESTURES.get(region.label)
        if gesture is None:
            continue
        n_max = int((region.end - region.start) / 0.8) + 2
        one_way_s = subject.reach_s * rng.uniform(0.7, 1.3, n_max) / vigour
        # a gesture of the slower arm must be over before the next begins
        slower = 1 + (deficit if paretic else 0.0)
        gaps = np.maximum(rng.gamma(4.0, every_s[region.label] / 4, n_max), 2 * slower * one_way_s + 0.1)
        starts = region.start + np.cumsum(gaps) - gaps[0]
        fits = starts + 2 * slower * one_way_s < region.end
        both = rng.random(n_max) < gesture.both
        # eating is the most one-handed of all
        share = 0.8 if region.label == "eat" else style.dominance
        leads = np.where(rng.random(n_max) < share, subject.dominant, other)
        gives_up = rng.random(n_max) < 0.95 * deficit
        if paretic is not None:
            healthy = "left" if paretic == "right" else "right"
            leads = np.where(gives_up, healthy, leads)
        spread = np.deg2rad(gesture.spread_deg) * rng.normal(0, 1, (n_max, 4))
        for side in SIDES:
            own = np.deg2rad(gesture.spread_deg) * rng.normal(0, 0.5, (n_max, 4))
            does = fits & ((leads == side) | (both & ~(gives_up & (side == paretic))))
            takes = one_way_s * (slower if side == paretic else 1.0)
            there = np.deg2rad(gesture.there) + spread + own
            there[:, :2] = np.clip(there[:, :2], 0.0, np.deg2rad([130.0, 145.0]))
            back = np.deg2rad(gesture.back) + own / 2
            at, length, goals = courses[side]
            at.append(np.stack([starts, starts + takes], axis=1)[does].ravel())
            length.append(np.repeat(takes[does], 2))
            goals.append(np.stack([there, back], axis=1)[does].reshape(-1, 4))
    return {side: _course(t, *(np.concatenate(part) if part else None for part in courses[side])) for side in SIDES}


def _course(t: Array, starts: Array | None, durations: Array | None, goals: Array | None) -> Array:
    if starts is None or durations is None or goals is None or not len(starts):
        return np.tile(_HOME, (len(t), 1))
    return np.stack([moves(t, starts, durations, goals[:, j], initial=float(_HOME[j])) for j in range(4)], axis=1)
