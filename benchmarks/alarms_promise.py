"""Is the promise kept? False episodes against those promised, the share of time it holds, and what is found meanwhile.

Simulated people are enrolled from 40 minutes of one day and watched on the rest of it and on another day
(``kinedge.benchmarks.alarms_days``); people of the same seeds who do not walk, too, once with the guided poses. Each
alarm while the calibration is valid counts as a false episode where nothing was wrong; the share of valid time includes
the time until it is known how the sensors sit, and the ten minutes that every session learns from then on. Two rows
take that for known all the same, to show what the rule is for. An alarm finds an anomaly if it comes while that lasts,
or within four seconds after. Seeds are far from those of training, and from those that the settings of the alarm were
chosen on (from 500000).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.alarms_days import Event, Person, Sitter, Told, people_of, sitters_of, watch
from kinedge.benchmarks.harness import result
from kinedge.bundle import read_bundle
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.pose import align_poses
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording
from kinedge.training.evaluate import poisson_interval
from kinedge.training.poses import PoseHabit

__all__ = ["ALARMS", "Kept", "alarm_settings", "bench_alarms"]

_AT_ONCE: Final = 24  # people in memory
_TOLERANCE_S: Final = 4.0
_AS_KNOWN: Final = "e-detector, as if the frames were known"
ALARMS: Final = ("e-detector", "e-detector, day not followed", "debounce", "CUSUM")


def alarm_settings(hours: float) -> dict[str, AlarmConfig]:
    """Return what is compared, by name; all but the first two promise nothing."""
    changes: tuple[dict[str, Any], ...] = ({}, {"follow": 0.0}, {"kind": "debounce"}, {"kind": "cusum"})
    return {
        name: AlarmConfig.model_validate({"hours_per_false_episode": hours, **change})
        for name, change in zip(ALARMS, changes, strict=True)
    }


@dataclass
class Kept:
    """Counts of one row."""

    n_false: int = 0
    valid_h: float = 0.0
    hours: float = 0.0
    n_people: int = 0
    n_alarmed: int = 0
    found: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    delays_s: list[float] = field(default_factory=list)

    def add(self, told: Told, *, block_s: float) -> None:
        """Count time without anomalies."""
        self.n_false += int(told.alarm.sum())
        self.n_people += told.alarm.shape[1]
        self.n_alarmed += int(told.alarm.any(axis=0).sum())
        self.valid_h += float(told.valid.sum()) * block_s / 3600
        self.hours += told.valid.size * block_s / 3600

    def look_for(self, events: Sequence[Sequence[Event]], told: Told, *, block_s: float) -> None:
        """Count what was found, of each person's events."""
        ends_s = block_s * (1 + np.arange(len(told.alarm)))
        for own, alarm in zip(events, told.alarm.T, strict=True):
            for event in own:
                hits = ends_s[alarm & (ends_s > event.start_s) & (ends_s <= event.end_s + _TOLERANCE_S)]
                self.found[event.kind][1] += 1
                if len(hits):
                    self.found[event.kind][0] += 1
                    self.delays_s.append(float(hits[0]) - event.start_s)

    def row(self, what: str, *, promised_per_h: float | None) -> dict[str, Any]:
        """Return what a table shows."""
        low, high = poisson_interval(self.n_false)
        row: dict[str, Any] = {
            "what": what,
            "hours": round(self.hours, 1),
            "valid": f"{self.valid_h / self.hours:.0%}" if self.hours else "",
            "false": self.n_false,
            "false_per_valid_hour": "",
            "of_promise": "",
            "people_with_one": f"{self.n_alarmed} of {self.n_people}",
        }
        if self.valid_h:
            rate, low, high = (n / self.valid_h for n in (self.n_false, low, high))
            row["false_per_valid_hour"] = f"{rate:.3f} ({low:.3f}-{high:.3f})"
            if promised_per_h:
                row["of_promise"] = (
                    f"{rate / promised_per_h:.2f} ({low / promised_per_h:.2f}-{high / promised_per_h:.2f})"
                )
        n, of = (sum(counts[i] for counts in self.found.values()) for i in (0, 1))
        row["found"] = f"{n} of {of}" if of else ""
        row["median_delay_s"] = round(float(np.median(self.delays_s)), 1) if self.delays_s else ""
        row["found_by_kind"] = {kind: f"{n} of {of}" for kind, (n, of) in sorted(self.found.items())}
        return row


def bench_alarms(
    bundle: Path,
    *,
    n_subjects: int = 48,
    hours: float = 8.0,
    first_seed: int = 600_000,
    donning_deg: float = 25.0,
    minutes: tuple[float, float, float] = (40.0, 30.0, 90.0),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Measure every kind of alarm on the same scores.

    Parameters
    ----------
    bundle
        A model of two wrists.
    n_subjects
        Simulated people.
    hours
        Of at most one false episode.
    first_seed
        Of the people.
    donning_deg
        How differently sensors are put on: standard deviation of each component of the rotation vector.
    minutes
        Enrolled on, watched on the same day, and on the new day.

    Raises
    ------
    BundleError, SignalError
        The model does not load, or is not one of two wrists.
    ConfigError
        The model's cohort was not enrolled.
    """
    loaded = read_bundle(bundle)
    scorer = Scorer(loaded)
    settings, block_s = alarm_settings(hours), scorer.manifest.block / scorer.manifest.rate_hz
    rows: dict[tuple[str, str], Kept] = defaultdict(Kept)
    audits: dict[str, int] = defaultdict(int)
    turns: list[tuple[float, float] | None] = []
    seconds = dict(zip(("enrol_s", "same_s", "new_s"), (60 * m for m in minutes), strict=True))
    for start in range(0, n_subjects, _AT_ONCE):
        seeds = range(first_seed + start, first_seed + min(start + _AT_ONCE, n_subjects))
        people = people_of(scorer, seeds, donning_deg=donning_deg, **seconds)
        for person in people:
            audits[person.enrolment.manifest.audit.verdict] += 1
        _measure(scorer, people, settings, rows, block_s)
        sitters = sitters_of(scorer, seeds, donning_deg=donning_deg, **seconds)
        _measure_sitters(scorer, sitters, settings[ALARMS[0]], rows, block_s)
        turns += [turn for sitter in sitters for turn in _turned(sitter)]
        progress(start + len(people), n_subjects)
    table = []
    for (day, name), kept in rows.items():
        promised = 1 / hours if name == _AS_KNOWN or settings[name].kind == "e_detector" else None
        table.append(kept.row(f"{day}, {name}", promised_per_h=promised))
    facts = {
        "model": scorer.manifest.name,
        "digest": loaded.digest[:16],
        "n_subjects": n_subjects,
        "first_seed": first_seed,
        "donning_deg": donning_deg,
        "hours_per_false_episode": hours,
        "minutes": list(minutes),
        "audits": dict(sorted(audits.items())),
        "guided_pose": _of_turns(turns),
    }
    return result("alarms", table, settings=facts)


def _measure(
    scorer: Scorer,
    people: Sequence[Person],
    settings: Mapping[str, AlarmConfig],
    rows: Mapping[tuple[str, str], Kept],
    block_s: float,
) -> None:
    enrolments = {p.subject: p.enrolment for p in people}
    first = settings[ALARMS[0]]
    days: tuple[tuple[str, list[Recording], Mapping[str, AlarmConfig]], ...] = (
        ("same day", [p.same for p in people], settings),
        ("new day", [p.new for p in people], settings),
        ("new day, not aligned", [p.new for p in people], {_AS_KNOWN: first}),
        ("new day, 10 % loss", [p.lossy for p in people], {ALARMS[0]: first}),
    )
    for day, recordings, compared in days:
        aligned, worn = day not in ("same day", "new day, not aligned"), day == "same day"
        said = watch(scorer, enrolments, recordings, compared, aligned=aligned, worn=worn, as_known=(_AS_KNOWN,))
        for name, told in said.items():
            rows[day, name].add(told, block_s=block_s)
    changed = watch(scorer, enrolments, [p.anomalous for p in people], settings)
    for name, told in changed.items():
        rows["new day", name].look_for([p.events for p in people], told, block_s=block_s)


def _measure_sitters(
    scorer: Scorer,
    sitters: Sequence[Sitter],
    first: AlarmConfig,
    rows: Mapping[tuple[str, str], Kept],
    block_s: float,
) -> None:
    enrolments, new = {s.subject: s.enrolment for s in sitters}, [s.new for s in sitters]
    one, both = {ALARMS[0]: first}, {ALARMS[0]: first, _AS_KNOWN: first}
    posed = {s.subject: s.poses for s in sitters}
    found = {
        "same day, nobody walks": watch(scorer, enrolments, [s.same for s in sitters], one, worn=True),
        "new day, nobody walks": watch(scorer, enrolments, new, both, as_known=(_AS_KNOWN,)),
        "new day, nobody walks, guided pose": watch(scorer, enrolments, new, one, poses=posed),
    }
    for day, by_name in found.items():
        for name, told in by_name.items():
            rows[day, name].add(told, block_s=block_s)


def _turned(sitter: Sitter) -> list[tuple[float, float] | None]:
    """Return by how much each sensor's rotation is off, and what was told of that, in degrees; None: not turned."""
    if sitter.enrolment.poses is None:
        return [None] * len(sitter.turns)
    found = align_poses(sitter.poses, sitter.enrolment.poses).alignment
    off = (np.trace(found.rotation @ sitter.turns.transpose(0, 2, 1), axis1=1, axis2=2) - 1) / 2
    off_deg, told_deg = np.rad2deg(np.arccos(np.clip(off, -1, 1))), np.rad2deg(found.error_rad)
    return [(float(o), float(t)) if ok else None for o, t, ok in zip(off_deg, told_deg, found.usable, strict=True)]


def _of_turns(turns: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    habit, known = PoseHabit(), np.array([t for t in turns if t is not None]).reshape(-1, 2)
    facts: dict[str, Any] = {
        "repeat_sd_deg": list(habit.repeat_deg),
        "rounds": habit.rounds,
        "sensors_turned": f"{len(known)} of {len(turns)}",
    }
    if len(known):
        facts |= {
            "rotation_error_deg": f"{np.sqrt(np.mean(known[:, 0] ** 2)):.1f} rms, {np.median(known[:, 0]):.1f} median",
            "error_told_deg": f"{np.sqrt(np.mean(known[:, 1] ** 2)):.1f} rms",
        }
    return facts
