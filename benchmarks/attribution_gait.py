"""Where the surprise starts, on real walks: a channel or a sensor is spoilt for four seconds; is it named?

For each person a model is trained and calibrated on all others of the data set, with the package's own training; their
even walks are their enrolment, their odd walks are spoilt. Every walk is scored as it was, too: an alarm (an anomalous
verdict) counts while the walk as it was is none, since an explanation is of what an alarm is about.

What a person is shown: what is ``first told``, an alarm, or which axis stands still (a channel that is stuck is kept
from the model, which goes on without); the ``first alarm``; every alarm ``to its end``, also after the spoilt stretch,
while belief remembers; and the ``episode``'s sentence, where the walk as it was has no episode. Of blocks that lie in
the spoilt stretch from end to end: ``alarm``; ``alarm, alone``, where the walk as it was leans to no change by itself,
so that there is one thing to name; ``noticed`` (score above 1, the 99 % quantile, and of the walk as it was not); and
``all``, noticed or not. ``new people`` are those that nobody looked at while the method was chosen.

Channels are spoilt in five ways, at half and at full strength (1: as large as the channel's own deviation); sensors by
the signal anomalies of ``kinedge.training.anomalies``. ``stable`` is how often the top channel of a noticed verdict
stays the top when every channel gets noise of 1 % of its deviation more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.explained import AFTER_HOPS, Case, Explained, Told
from kinedge.benchmarks.harness import interleaved, result, timing_row
from kinedge.bundle import Bundle
from kinedge.edge.calibration import Calibration, stack_calibrations
from kinedge.edge.caution import Decision
from kinedge.edge.narrative import abstention, summarise
from kinedge.edge.offline import align_recording
from kinedge.edge.personal import fit_baseline
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import VerdictBatch
from kinedge.errors import SignalError
from kinedge.quantize.build import BuildConfig, build_bundle
from kinedge.recording import Recording
from kinedge.training.anomalies import inject
from kinedge.training.cohort import ordinary_blocks
from kinedge.training.datasets import load_fog_stanford, load_gait_healthy
from kinedge.training.enrolled import joined
from kinedge.training.settings import FitConfig

__all__ = ["SPOILT", "bench_gait_attribution", "spoil", "time_explanations"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

SPOILT: Final = ("noise", "bias", "gain", "stuck", "drift")
_SENSOR_KINDS: Final = ("noise_burst", "sensor_rotated", "axis_swap", "bias_step", "gain_change", "spikes")
_STRENGTHS: Final = (0.5, 1.0)
_SPOILT_HOPS: Final = 4
_NOISE: Final = 0.01
_RATE_HZ: Final = 50.0
_LOADS: Final[Mapping[str, Callable[[Path], list[Recording]]]] = {
    "gait_healthy": load_gait_healthy,
    "fog_stanford": lambda path: load_fog_stanford(path, sensors=("lumbar", "ankle_left", "ankle_right")),
}
_GROUPS: Final = 4  # people by their number; what is spoilt hangs on it
_LOOKED_AT: Final = {"gait_healthy": 2}  # groups whose people were looked at while the method was chosen


def spoil(x: F32, kind: str, *, strength: float, deviation: float, rng: np.random.Generator) -> F32:
    """Return a stretch of one channel ``(n,)`` spoilt.

    Raises
    ------
    SignalError
        The kind is unknown.
    """
    size = strength * deviation
    if kind == "noise":
        spoilt = x + size * rng.normal(size=len(x))
    elif kind == "bias":
        spoilt = x + 1.5 * size * rng.choice([-1.0, 1.0])
    elif kind == "gain":
        spoilt = x.mean() + (x - x.mean()) * (1 + 1.5 * strength)
    elif kind == "stuck":
        spoilt = np.full(len(x), x[0])
    elif kind == "drift":
        spoilt = x + 3 * size * np.linspace(0, 1, len(x))
    else:
        raise SignalError(f"no way to spoil a channel is called {kind!r}; known are {', '.join(SPOILT)}")
    return np.asarray(spoilt, np.float32)


def bench_gait_attribution(
    data: Mapping[str, Path],
    *,
    fit: FitConfig | None = None,
    seed: int = 0,
    walks: int | None = None,
    people: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure hits on one channel and one sensor, stability and time.

    Parameters
    ----------
    data
        Files by name: ``gait_healthy``, ``fog_stanford``.
    fit
        How each model is trained.
    seed
        Of training and of what is spoilt.
    walks, people
        At most so many spoilt walks of a person, and so many people.

    Raises
    ------
    ConfigError, SignalError
        The data cannot be read, or are not known here.
    """
    if unknown := sorted(set(data) - set(_LOADS)):
        raise SignalError(f"no data set {', '.join(unknown)} here; known are {', '.join(_LOADS)}")
    fit = fit or FitConfig(max_epochs=12, steps_per_epoch=80, patience=4, seed=seed)
    rows: list[dict[str, Any]] = []
    scorer: Scorer | None = None
    for name, path in data.items():
        recordings = _LOADS[name](path)
        subjects = sorted({r.subject for r in recordings}, key=lambda s: (len(s), s))
        told: dict[str, list[Told]] = {"cohort": [], "personal": []}
        for number, subject in enumerate(subjects[:people]):
            progress(f"{name}: training without {subject}")
            scorer = Scorer(_train([r for r in recordings if r.subject != subject], fit, seed))
            progress(f"{name}: spoiling walks of {subject}")
            own = [align_recording(r, rate_hz=_RATE_HZ) for r in recordings if r.subject == subject]
            calibrations = {"cohort": None, "personal": _enrolled(scorer, own[0::2])}
            group = number % _GROUPS
            for i, walk in enumerate(own[1::2][:walks]):
                rng = np.random.default_rng([seed, group, number, i])
                _spoil_walk(scorer, walk, group, calibrations, rng, told)
        for whom, cases in told.items():
            rows += _rows(f"{name}, {whom}", cases, looked_at=_LOOKED_AT.get(name, 0))
    if scorer is not None:
        rows += time_explanations(scorer)
    settings = {"data": sorted(data), "rate_hz": _RATE_HZ, "spoilt_s": _SPOILT_HOPS, "strengths": _STRENGTHS}
    return result("attribution gait", rows, settings={**settings, "seed": seed, "epochs": fit.max_epochs})


def _train(recordings: Sequence[Recording], fit: FitConfig, seed: int) -> Bundle:
    n = len({r.subject for r in recordings})
    shares = (0.0, max(0.34, 1.0 / n), 0.0)
    config = BuildConfig(name="walks", rate_hz=_RATE_HZ, shares=shares, fit=fit, seed=seed)
    return build_bundle(recordings, config, command="kinedge bench attribution", made_s=0).bundle


def _enrolled(scorer: Scorer, walks: Sequence[Recording]) -> Calibration | None:
    """Return a person's calibration from their walks; None where they are too few."""
    found = [ordinary_blocks(scorer, walk, ("freeze", "outside")) for walk in walks]
    residuals = [z for _, hops in found for z in hops]
    if not residuals:
        return None
    blocks = joined([b for b, _ in found])
    covariance = np.cov(np.concatenate(residuals).astype(np.float64).T)
    try:
        baseline = fit_baseline(blocks, covariance, cohort=scorer.calibration, groups=scorer.groups)
    except SignalError:
        return None
    return baseline.calibration(scorer.calibration, scorer.groups)


def _spoil_walk(
    scorer: Scorer,
    walk: Recording,
    group: int,
    calibrations: Mapping[str, Calibration | None],
    rng: np.random.Generator,
    told: dict[str, list[Told]],
) -> None:
    """Score a walk as it was and in every spoilt form, all as streams of one step."""
    hop = scorer.manifest.hop
    start = len(walk) // 2 // hop * hop + int(rng.integers(hop))
    end = start + _SPOILT_HOPS * hop
    if end > len(walk):
        return
    cases, values, valid = _forms(scorer, walk, start, end, rng)
    n = len(values)
    for whom, calibration in calibrations.items():
        if whom == "personal" and calibration is None:
            continue
        stacked = None if calibration is None else stack_calibrations([calibration] * n)
        state = scorer.initial_state(n)
        explained = Explained(scorer, walk.subject, group, cases, start=start, end=end)
        for k in range(min(end // hop + AFTER_HOPS, len(walk) // hop)):
            at = slice(k * hop, (k + 1) * hop)
            batch, state = scorer.step(
                values[:, at], valid[:, at], np.zeros_like(valid[:, at]), state, end_tick=at.stop, calibration=stacked
            )
            told[whom] += explained.step(batch, values[:, at], valid[:, at])
        told[whom] += explained.end()


def _forms(
    scorer: Scorer, walk: Recording, start: int, end: int, rng: np.random.Generator
) -> tuple[list[Case], F32, Mask]:
    """Return the cases, and values and mask of the walk as it was, spoilt, and spoilt with a little noise."""
    deviation = np.array([walk.values[walk.valid[:, c], c].std() for c in range(walk.values.shape[1])])
    cases, forms = [], []
    for sensor, group in enumerate(scorer.groups):
        for c in range(group.start, group.stop):
            for strength in _STRENGTHS:
                kind = str(rng.choice(SPOILT))
                x = walk.values.copy()
                x[start:end, c] = spoil(x[start:end, c], kind, strength=strength, deviation=deviation[c], rng=rng)
                cases.append(Case(kind, strength, c, sensor))
                forms.append((x, walk.valid))
        for kind in _SENSOR_KINDS:
            strength = float(rng.choice(_STRENGTHS))
            seed = int(rng.integers(2**31))
            name = scorer.sensors[sensor]
            changed = inject(walk, kind, start, end, sensor=name, seed=seed, strength=strength)
            cases.append(Case(kind, strength, None, sensor))
            forms.append((changed.values, changed.valid))
    spoilt = np.stack([f[0] for f in forms])
    noise = (_NOISE * deviation * rng.normal(size=spoilt.shape)).astype(np.float32)
    values = np.concatenate([walk.values[None], spoilt, spoilt + noise])
    there = np.stack([f[1] for f in forms])
    return cases, values, np.concatenate([walk.valid[None], there, there])


def _rows(what: str, told: Sequence[Told], *, looked_at: int) -> list[dict[str, Any]]:
    rows = []
    for which, one in (("one channel", True), ("one sensor", False)):
        own = [t for t in told if (t.case.channel is not None) == one]
        whole = [t for t in own if t.whole]
        kinds = {
            "first told": [t for t in own if t.told],
            "first alarm": [t for t in own if t.first],
            "alarm to its end": [t for t in own if t.alarm],
            "episode": [t for t in own if t.episode],
            "alarm": [t for t in whole if t.alarm],
            "alarm, alone": [t for t in whole if t.alarm and t.alone],
            "noticed": [t for t in whole if t.noticed],
            "all": whole,
        }
        for when, kept in kinds.items():
            rows.append(_row(f"{what}, {which}, {when}", kept))
            if looked_at:
                rows.append(_row(f"{what}, {which}, {when}, new people", [t for t in kept if t.group >= looked_at]))
        for kind, strength in sorted({(t.case.kind, t.case.strength) for t in own}):
            kept = [t for t in whole if t.noticed and (t.case.kind, t.case.strength) == (kind, strength)]
            rows.append(_row(f"{what}, {which}, noticed, {kind} x{strength:g}", kept))
    return rows


def _row(what: str, told: Sequence[Told]) -> dict[str, Any]:
    """Return hit rates with their 95 % interval from drawing people anew."""
    row: dict[str, Any] = {"what": what, "verdicts": len(told), "people": len({t.subject for t in told})}
    if not told:
        return row
    by_person: dict[str, list[Told]] = defaultdict(list)
    for t in told:
        by_person[t.subject].append(t)
    names = ["sensor"] if told[0].case.channel is None else ["channel", "sensor"]
    names += [] if told[0].episode or told[0].told else ["stable"]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(by_person), (1000, len(by_person)))
    sizes = np.array([len(v) for v in by_person.values()])
    for name in names:
        hits = np.array([sum(getattr(t, name) for t in v) for v in by_person.values()])
        low, high = np.quantile(hits[draws].sum(axis=1) / sizes[draws].sum(axis=1), [0.025, 0.975])
        row[name] = round(float(hits.sum() / sizes.sum()), 4)
        row[f"{name}_95"] = [round(float(low), 4), round(float(high), 4)]
    return row


def time_explanations(scorer: Scorer, *, n_rounds: int = 15, seed: int = 0) -> list[dict[str, Any]]:
    """Time what an alarm and an abstention cost beyond the scoring: verdict, shares, smallest set and sentence."""
    rng = np.random.default_rng(seed)
    hop, n_channels = scorer.manifest.hop, scorer.manifest.n_channels
    state = scorer.initial_state(1)
    valid = np.ones((1, hop, n_channels), bool)
    batches: dict[str, VerdictBatch] = {}
    scale = np.array(scorer.manifest.scale, np.float32)
    for k in range(400):
        wild = 4.0 if k >= 20 else 1.0  # a change against what this person showed before
        moves = wild * scale * rng.normal(size=(1, hop, n_channels))
        values = (np.array(scorer.manifest.center, np.float32) + moves).astype(np.float32)
        batch, state = scorer.step(values, valid, ~valid, state, end_tick=(k + 1) * hop)
        decision = int(batch.belief.decision[0])
        if decision != Decision.NORMAL:
            batches.setdefault("alarm" if decision == Decision.ANOMALOUS else "abstention", batch)
        if len(batches) == 2:
            break
        if k == 40:
            valid[:, ::2, : n_channels // 2] = False  # half of a sensor lost: no answer can be given

    def alarm() -> object:
        v = batches["alarm"].verdict(0)
        top = v.top_channel.partition(".")
        beside, late = v.from_others(top[0])
        moved = v.sensor_movement[top[0]]
        return summarise(top[0], top[2], movement=moved, share=0.8, seconds=10.0, beside=beside, out_of_step=late)

    def silent() -> object:
        v = batches["abstention"].verdict(0)
        return [abstention(v.reasons[0], language=language) for language in ("en", "fr")] if v.reasons else v

    things = {name: made for name, made in (("alarm", alarm), ("abstention", silent)) if name in batches}
    timings = interleaved(things, n_rounds=n_rounds, round_s=0.02)
    return [
        timing_row(f"explanation at an {name}, {n_channels} channels", timing, cpu_us=_processor_us(things[name]))
        for name, timing in timings.items()
    ]


def _processor_us(thing: Callable[[], object], *, n_calls: int = 200) -> float:
    """Return the processor time of a call, which a busy machine stretches less than the clock's."""
    began = time.process_time_ns()
    for _ in range(n_calls):
        thing()
    return round((time.process_time_ns() - began) / n_calls / 1000, 1)
