"""The promise on real people whom the model never met: enrolled on the first part of their time, watched on the rest.

What real recordings there are last minutes, not days. So the promise asked for is the least that can be set, one false
episode per quarter of an hour; people are enrolled from what there is, far below the half hour that is meant; and the
gate is taken to have learned, since few recordings last ten minutes: the share of valid time is what it leaves open of
ordinary time from there on, and rates are per valid hour, as the promise is. The recordings of a person are watched in
their order, each as a session of its own. Labelled freezes are what there is to find; noise on one sensor, put into a
copy of each recording, shows that the alarm is not merely silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.alarms_promise import ALARMS, alarm_settings
from kinedge.benchmarks.harness import result
from kinedge.bundle import read_bundle
from kinedge.edge.alarm import AlarmConfig, Alarms
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.enrolment_audit import worse_than
from kinedge.edge.offline import align_recording, score_recording
from kinedge.edge.personal import Detectors
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.anomalies import inject
from kinedge.training.datasets import DATASETS
from kinedge.training.evaluate import poisson_interval

__all__ = ["bench_alarms_real", "enrolled_on_first"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_HOURS: Final = 0.25
_NOISE_S: Final = 20.0
_AFTER_S: Final = 4.0  # an alarm may come so long after an event
_NOT_ORDINARY: Final = ("freeze", "outside")


@dataclass
class _Count:
    n_false: int = 0
    ordinary_h: float = 0.0
    valid_h: float = 0.0
    found: int = 0
    events: int = 0
    noise_found: int = 0
    noises: int = 0


def bench_alarms_real(
    data: Path,
    bundles: Mapping[str, Path],
    *,
    name: str,
    enrol_share: float = 0.5,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure people by models that were not trained on them.

    Parameters
    ----------
    data
        A data set as its owner publishes it, or as npz.
    bundles
        A model for each person, trained without them.
    name
        Of the data set.
    enrol_share
        Of each person's ordinary time, the first.
    progress
        Called with what is being done.

    Raises
    ------
    BundleError, SignalError
        A bundle or the data cannot be read, or a bundle's person is not in them.
    """
    settings = alarm_settings(_HOURS)
    totals = {way: _Count() for way in ALARMS}
    rows, audits = [], []
    for person, path in bundles.items():
        progress(f"watching {person}")
        scorer = Scorer(read_bundle(path))
        manifest = scorer.manifest
        recordings = [
            align_recording(r.select(manifest.sensor_specs), rate_hz=manifest.rate_hz)
            for r in DATASETS[name](data, sensors=scorer.sensors)
            if r.subject == person
        ]
        if not recordings:
            raise SignalError(f"{data}: nothing of {person}, whom {path.name} left out")
        enrolment, rest = enrolled_on_first(scorer, recordings, enrol_share)
        audits.append(f"{person}: {enrolment.manifest.usable_s:.0f} s, {enrolment.manifest.audit.verdict}")
        alarms = {way: _alarms(scorer, enrolment, config) for way, config in settings.items()}
        counts = {way: _Count() for way in settings}
        for recording in rest:
            _watch(counts, scorer, enrolment, recording, alarms)
        for way, count in counts.items():
            rows.append(_row(f"{name} {person}, {way}", count, settings[way]))
            totals[way] = _sum(totals[way], count)
    rows += [_row(f"{name} all, {way}", totals[way], settings[way]) for way in ALARMS]
    facts = {
        "data": name,
        "bundles": ", ".join(f"{person}: {read_bundle(path).digest[:8]}" for person, path in bundles.items()),
        "hours_per_false_episode": _HOURS,
        "enrolled": "; ".join(audits),
        "enrol_share": enrol_share,
    }
    return result("alarms_real", rows, settings=facts)


def _ordinary(recording: Recording, scorer: Scorer) -> Mask:
    """Return (n,) bool: nothing labelled within what a block that ends here looks back on."""
    bad = np.zeros(len(recording), bool)
    reach = scorer.manifest.block + scorer.manifest.receptive_field
    for region in recording.labels:
        if region.label in _NOT_ORDINARY:
            bad[region.start : region.end + reach] = True
    return ~bad


def enrolled_on_first(
    scorer: Scorer, recordings: Sequence[Recording], share: float
) -> tuple[Enrolment, list[tuple[Recording, int]]]:
    """Enrol on the first share of ordinary time; return what is left: recordings, and from which sample on.

    Raises
    ------
    SignalError
        Too little of it can be used.
    """
    hop, builder = scorer.manifest.hop, EnrolmentBuilder(scorer)
    wanted = share * sum(int(_ordinary(r, scorer).sum()) for r in recordings)
    taken, number, rest = 0.0, 0, []
    for recording in recordings:
        good, begins = _ordinary(recording, scorer), len(recording)
        for end, scores, surprise in score_recording(scorer, recording):
            number += 1
            if taken >= wanted:
                begins = min(begins, end)
                continue
            if good[end - hop : end].all():
                taken += hop
                rows = slice(end - hop, end)
                builder.add(scores, surprise, 0, hop=number, values=recording.values[rows], valid=recording.valid[rows])
        number += scorer.manifest.block
        if begins < len(recording) - 2 * scorer.manifest.block:
            rest.append((recording, begins))
    data = builder.finish(recordings[0].subject, source="first part", allow_short=True, made_s=0)
    return read_enrolment(data), rest


def _alarms(scorer: Scorer, enrolment: Enrolment, config: AlarmConfig) -> Alarms:
    manifest, cohort = scorer.manifest, scorer.calibration.enrolled
    if cohort is None:
        raise SignalError(f"{manifest.name} was made without an enrolled cohort; train it again")
    return Alarms(
        cohort,
        n_detectors=enrolment.baseline.median.shape[1],
        block_s=manifest.block / manifest.rate_hz,
        config=config,
        worse=worse_than(enrolment.manifest.audit)[None],
    )


def _assessed(
    scorer: Scorer, enrolment: Enrolment, recording: Recording, *, begins: int
) -> tuple[NDArray[np.int64], list[tuple[F64, F64]]]:
    """Return the samples at which blocks end from ``begins`` on, and ``u`` and ``q95`` of each."""
    own = enrolment.baseline.calibration(scorer.calibration, scorer.groups)
    detectors = Detectors([enrolment.baseline], scorer.groups)
    ends, blocks = [], []
    for end, scores, _ in score_recording(scorer, recording):
        if end % scorer.manifest.block == 0 and end > begins:
            ends.append(end)
            channel_u = own.assess(scores, scorer.groups).channel
            blocks.append(detectors.assess(channel_u, scores.intensity, scores.before))
    return np.array(ends, np.int64), blocks


def _called(alarms: Alarms, blocks: Sequence[tuple[F64, F64]]) -> tuple[Mask, Mask]:
    """Return which blocks alarmed, and at which the calibration was valid; the gate has learned."""
    state = replace(alarms.initial_state(1), n_heard=np.array([10**6]))
    called, valid = [], []
    for u, q95 in blocks:
        step, state = alarms.step(u, q95, state)
        called.append(bool(step.alarm[0]))
        valid.append(bool(step.valid[0]))
    return np.array(called, bool), np.array(valid, bool)


def _watch(
    counts: Mapping[str, _Count],
    scorer: Scorer,
    enrolment: Enrolment,
    rest: tuple[Recording, int],
    alarms: Mapping[str, Alarms],
) -> None:
    recording, begins = rest
    rate, good = recording.rate_hz, _ordinary(recording, scorer)
    ends, blocks = _assessed(scorer, enrolment, recording, begins=begins)
    if not blocks:
        return
    for way, count in counts.items():
        called, valid = _called(alarms[way], blocks)
        ordinary, block_h = good[ends - 1], scorer.manifest.block / rate / 3600
        count.n_false += int((called & ordinary).sum())
        count.ordinary_h += float(ordinary.sum()) * block_h
        count.valid_h += float((valid & ordinary).sum()) * block_h
        for event in recording.labels:
            if event.label == "freeze" and event.start >= begins:
                count.events += 1
                count.found += bool(called[(ends > event.start) & (ends <= event.end + _AFTER_S * rate)].any())
    start = _stretch(good, begins, round((_NOISE_S + _AFTER_S) * rate))
    if start is None:
        return
    end = start + round(_NOISE_S * rate)
    for sensor in scorer.sensors:
        changed = inject(recording, "noise_burst", start, end, sensor=sensor, seed=0)
        ends, blocks = _assessed(scorer, enrolment, changed, begins=begins)
        during = (ends > start) & (ends <= end + _AFTER_S * rate)
        for way, count in counts.items():
            count.noises += 1
            count.noise_found += bool(_called(alarms[way], blocks)[0][during].any())


def _stretch(good: Mask, begins: int, n: int) -> int | None:
    """Return where the first ``n`` ordinary samples on end begin, half as many after ``begins``; None: nowhere."""
    run = 0
    for i in range(begins + n // 2, len(good)):
        run = run + 1 if good[i] else 0
        if run == n:
            return i + 1 - n
    return None


def _sum(a: _Count, b: _Count) -> _Count:
    return _Count(**{k: v + getattr(b, k) for k, v in vars(a).items()})


def _row(what: str, c: _Count, config: AlarmConfig) -> dict[str, Any]:
    rate, low, high = (n / max(c.valid_h, 1e-9) for n in (c.n_false, *poisson_interval(c.n_false)))
    promised = 1 / config.hours_per_false_episode if config.kind == "e_detector" else None
    return {
        "what": what,
        "minutes": round(60 * c.ordinary_h, 1),
        "valid": f"{c.valid_h / c.ordinary_h:.0%}" if c.ordinary_h else "",
        "false": c.n_false,
        "false_per_valid_hour": f"{rate:.1f} ({low:.1f}-{high:.1f})",
        "of_promise": f"{rate / promised:.2f} ({low / promised:.2f}-{high / promised:.2f})" if promised else "",
        "freezes_found": f"{c.found} of {c.events}",
        "noise_found": f"{c.noise_found} of {c.noises}",
    }
