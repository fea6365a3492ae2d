"""Caution measured: what three answers are worth under every fault of the sensors, beside plain rivals.

Simulated people carry two wrist sensors and are judged by a bundle; real recordings by small models trained for this
on all others of the same data set, one for each person. Every session is judged as it is and with
every fault of :mod:`kinedge.benchmarks.caution_cases` laid over it.

Rivals see the same model and the same samples, but no state of the sensors: a threshold on the score, which is never
unsure, and a band of p-values, unsure in between. Their limits are those of the greatest utility (u65, mean over all
conditions) on other simulated people; the settings of caution were chosen on those, too. Nothing is tuned on whom it
is scored on, and nothing at all on real recordings.

Of data sets of few people, several networks are trained for each person, from other seeds: what one of them makes of a
person is as much luck as the person. A row counts all their answers; its errors are over people.

With ``enrolled``, each real person is also enrolled on the first half of their ordinary time, by a model that never saw
them, and the rest is judged twice: against the cohort, and against themselves. Both rows are of the very same blocks.

The same scores are decided twice: as the default has it, and with ``without_sensor = "others"``, whose columns end in
``_others``.

A reason is right if it names the fault and a sensor it struck. It is asked for where the answer is unsure and the twin
of the block, the same without the fault, got one: there the fault is the reason, whatever else may be in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.alarms_real import enrolled_on_first
from kinedge.benchmarks.caution_cases import FAULTS, Session, faulted, real_sessions, simulated_sessions
from kinedge.benchmarks.caution_measures import (
    Answers,
    Seen,
    area_under_risk,
    band,
    plain,
    tune_band,
    tune_plain,
    utility,
)
from kinedge.benchmarks.harness import result
from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.calibration import Calibration
from kinedge.edge.caution import CautionConfig, Decision
from kinedge.edge.reasons import reasons_of
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording

__all__ = ["DATA_SETS", "bench_caution", "look"]

F64 = NDArray[np.float64]

_ENROL_SHARE: Final = 0.5  # of a person's ordinary time, the first
_DRAWS: Final = 500  # of the bootstrap over people
_EXCLUDE: Final = ("freeze", "outside")
_BOTH: Final = CautionConfig(without_sensor="others")  # what the default says is what it says without leaving out
_NOT_TUNED_ON: Final = ("held axis",)  # rivals that have seen it answer less, and are worth less
DATA_SETS: Final = ("gait_healthy", "fog_stanford", "daphnet")
_APART: Final = 100_000
_FEW: Final = 6  # people, of whom each is judged by several networks
Conditions = Mapping[str, tuple[Seen, Seen]]  # by fault: with the state of the sensors, and without
Part = tuple[str, int, Conditions]  # whose fold, by which network


def look(scorer: Scorer, sessions: Sequence[Session], fault: str, *, watched: bool = True) -> Seen | None:
    """Let a model judge all sessions under one fault; None where it strikes none of them.

    Only blocks are kept that lie within the fault, and wholly within the change or wholly outside.

    Parameters
    ----------
    scorer, sessions, fault
        Who judges what, and a key of ``FAULTS``.
    watched
        Whether the state of the sensors counts, and how they move together.
    """
    manifest = scorer.manifest
    hop, block = manifest.hop, manifest.block
    laid = [(i, s, f) for i, s in enumerate(sessions) if (f := faulted(s, fault)) is not None]
    if not laid:
        return None
    n_hops = max(len(s.recording) for _, s, _ in laid) // hop
    shape = (len(laid), n_hops * hop, manifest.n_channels)
    values, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for row, (_, _, (recording, _)) in enumerate(laid):
        n = min(len(recording), shape[1])
        values[row, :n], valid[row, :n] = recording.values[:n], recording.valid[:n]
    state, none = scorer.initial_state(len(laid)), np.zeros((len(laid), hop, manifest.n_channels), bool)
    people = {name: k for k, name in enumerate(sorted({s.recording.subject for s in sessions}))}
    rows: list[tuple[Any, ...]] = []
    by_surprise = _by_surprise_alone(scorer.calibration)
    for k in range(n_hops):
        part, end = slice(k * hop, (k + 1) * hop), (k + 1) * hop
        if not watched:
            scores, _, state = scorer.score(values[:, part], valid[:, part], none, state)
            unusual = by_surprise.assess(scores, scorer.groups)
        else:
            batch, state = scorer.step(values[:, part], valid[:, part], none, state, end_tick=end)
            unusual, left_out = batch.unusual, batch.belief.without.any(axis=1)
            by_all = np.where(left_out, np.int8(Decision.UNSURE), batch.belief.decision)
            belief = replace(batch.belief, decision=by_all)
        for row, (i, s, (_, struck)) in enumerate(laid):
            start, (first, last) = end - block, s.change
            changed = start >= first and end <= last
            ordinary = end <= first or start >= last + block
            if start < s.fault_start or end > len(s.recording) or not (changed or ordinary):
                continue
            known = (changed, people[s.recording.subject], i, k, unusual.score[row], unusual.p_value[row])
            if not watched:
                rows.append((*known, int(Decision.UNSURE), 0.0, 0.0, 0.0, "", False, int(Decision.UNSURE)))
                continue
            decision, code, named = int(belief.decision[row]), "", False
            if decision == Decision.UNSURE:
                found = reasons_of(row, batch.scores, unusual, belief, batch.sensors, batch.config, health=batch.health)
                code = found[0].code
                named = code in FAULTS[fault].codes and found[0].sensor in struck
            believed = (belief.normal[row], belief.anomalous[row], belief.lean[row])
            rows.append((*known, decision, *believed, code, named, int(batch.belief.decision[row])))
    return Seen(*(np.array(c) for c in zip(*rows, strict=True)))


def _by_surprise_alone(calibration: Calibration) -> Calibration:
    """Return what the rivals go by, and are the stronger for: ranks without how the sensors move together."""
    coordination = calibration.coordination
    if coordination is None:
        return calibration
    return replace(calibration, coordination=None, reference=coordination.weights.reference)


def bench_caution(
    bundle: Path,
    *,
    data: Mapping[str, Path] | None = None,
    n_subjects: int = 24,
    n_tuning: int = 12,
    first_seed: int = 810_000,
    tuning_seed: int = 800_000,
    epochs: int = 8,
    networks: int = 1,
    faults: Sequence[str] = tuple(FAULTS),
    enrolled: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure one row per data set and fault.

    Parameters
    ----------
    bundle
        A model of two wrists, for the simulated people.
    data
        Files of real data sets, by name.
    n_subjects, n_tuning
        Simulated people that are scored, and that limits are tuned on.
    first_seed, tuning_seed
        Of these.
    epochs
        Of the models for real recordings.
    networks
        Trained for each person of data sets of up to six people.
    faults
        Some of ``FAULTS``; ``clean`` must be there.
    enrolled
        Judge real people against their own enrolment, too.

    Raises
    ------
    BundleError, ConfigError, SignalError
        The model or a data set does not load, or a data set is unknown.
    """
    unknown = sorted(set(data or {}) - set(DATA_SETS))
    if unknown or "clean" not in faults:
        raise ConfigError(f"caution: unknown data set {', '.join(unknown)}" if unknown else "caution: clean is needed")
    scorer = Scorer(read_bundle(bundle), caution=_BOTH)
    progress("tuning rivals")
    tuned_on = [f for f in faults if f not in _NOT_TUNED_ON]
    tuning = _judged(scorer, simulated_sessions(range(tuning_seed, tuning_seed + n_tuning)), tuned_on, progress)
    alone = [without for _, without in tuning.values()]
    above, (rare, common) = tune_plain(alone), tune_band(alone)
    limits = {"above": above, "rare": rare, "common": common}
    progress("simulated people")
    sessions = simulated_sessions(range(first_seed, first_seed + n_subjects))
    rows = _rows("simulated", _judged(scorer, sessions, faults, progress), **limits)
    by_network: dict[str, list[float]] = {}
    for name, path in (data or {}).items():
        found: dict[str, list[Part]] = {}
        for network, own, recordings in _folds(name, path, epochs=epochs, networks=networks, progress=progress):
            (person,) = {r.subject for r in recordings}
            if sessions := real_sessions(recordings, exclude=_EXCLUDE):
                found.setdefault(name, []).append((person, network, _judged(own, sessions, faults, progress)))
            if enrolled:
                progress(f"{name}: enrolling {person}")
                for against, conditions in _against_both(own, recordings, faults, progress).items():
                    found.setdefault(f"{name}, {against}", []).append((person, network, conditions))
        for what, parts in found.items():
            rows += _rows(what, _pooled(parts), **limits)
            by_network |= _by_network(what, parts)
    settings = {
        "model": scorer.manifest.name,
        "digest": scorer.bundle.digest[:16],
        "caution": CautionConfig().model_dump(mode="json"),
        "plain_above": round(above, 4),
        "band": [rare, common],
        "tuning": {s: _brief(utility(w.decision, w.changed)) for s, (w, _) in tuning.items()},
        "n_subjects": n_subjects,
        "n_tuning": n_tuning,
        "first_seed": first_seed,
        "tuning_seed": tuning_seed,
        "epochs": epochs,
        "networks": networks,
        "u80_by_network": by_network,
        "enrolled": f"the first {_ENROL_SHARE:.0%} of each real person's ordinary time" if enrolled else "nobody",
    }
    return result("caution", rows, settings=settings)


def _judged(
    scorer: Scorer, sessions: Sequence[Session], faults: Sequence[str], progress: Callable[[str], None]
) -> dict[str, tuple[Seen, Seen]]:
    found = {}
    for fault in faults:
        progress(f"{fault}: {len(sessions)} sessions")
        watched = look(scorer, sessions, fault)
        alone = look(scorer, sessions, fault, watched=False)
        if watched is not None and alone is not None:
            found[fault] = (watched, alone)
    return found


def _against_both(
    scorer: Scorer, recordings: Sequence[Recording], faults: Sequence[str], progress: Callable[[str], None]
) -> dict[str, Conditions]:
    """Enrol a person on their first half and judge the rest against the cohort and themselves; empty: too little."""
    try:
        enrolment, rest = enrolled_on_first(scorer, recordings, _ENROL_SHARE)
    except SignalError:
        return {}
    sessions = real_sessions([r.slice(begins, len(r)) for r, begins in rest], exclude=_EXCLUDE)
    if not sessions:
        return {}
    own = Scorer(
        scorer.bundle,
        backend=scorer.engine.backend,
        calibration=enrolment.baseline.calibration(scorer.calibration, scorer.groups),
        caution=scorer.caution,
    )
    return {
        "second half by the cohort": _judged(scorer, sessions, faults, progress),
        "second half, enrolled": _judged(own, sessions, faults, progress),
    }


def _pooled(parts: Sequence[Part]) -> dict[str, tuple[Seen, Seen]]:
    """Put folds and people together, fault by fault; a person is one, whichever networks judge them."""
    found: dict[str, list[tuple[Seen, Seen]]] = {}
    people = sorted({person for person, _, _ in parts})
    for number, (person, _, conditions) in enumerate(parts):
        for fault, pair in conditions.items():
            with_health, without = (_shifted(seen, people.index(person), number) for seen in pair)
            found.setdefault(fault, []).append((with_health, without))
    return {f: (_joined([p[0] for p in pairs]), _joined([p[1] for p in pairs])) for f, pairs in found.items()}


def _by_network(what: str, parts: Sequence[Part]) -> dict[str, list[float]]:
    """Return u80 of each row by the networks of each seed; nothing where there is one of each."""
    found: dict[str, list[float]] = {}
    seeds = sorted({network for _, network, _ in parts})
    for seed in seeds if len(seeds) > 1 else ():
        for fault, (seen, _) in _pooled([part for part in parts if part[1] == seed]).items():
            u80 = round(utility(seen.decision, seen.changed).u80, 3)
            found.setdefault(f"{what}, {fault}", []).append(u80)
    return found


def _shifted(seen: Seen, person: int, number: int) -> Seen:
    """Number people, and sessions as a network has judged them, apart from others."""
    subject, session = seen.subject + _APART * (person + 1), seen.session + _APART * (number + 1)
    return Seen(**{**vars(seen), "subject": subject, "session": session})


def _joined(parts: Sequence[Seen]) -> Seen:
    return Seen(**{name: np.concatenate([vars(p)[name] for p in parts]) for name in vars(parts[0])})


def _rows(what: str, conditions: Conditions, *, above: float, rare: float, common: float) -> list[dict[str, Any]]:
    clean = conditions["clean"][0]
    answered = {
        (s, h) for s, h, d in zip(clean.session, clean.hop, clean.decision, strict=True) if d != Decision.UNSURE
    }
    rows = []
    for fault, (watched, alone) in conditions.items():
        ours, others = (utility(d, watched.changed) for d in (watched.decision, watched.others))
        by_band = utility(band(alone.p_value, rare=rare, common=common), alone.changed)
        by_limit = utility(plain(alone.score, above=above), alone.changed)
        unsure = watched.decision == Decision.UNSURE
        caused = unsure & [(s, h) in answered for s, h in zip(watched.session, watched.hop, strict=True)]
        right = float(watched.named[caused].mean()) if caused.any() and fault != "clean" else None
        errors = _errors(watched, alone, above=above, rare=rare, common=common)
        rows.append(
            {
                "what": f"{what}, {fault}",
                "people": len(np.unique(watched.subject)),
                "blocks": len(watched),
                **{k: round(v, 3) for k, v in _brief(ours).items()},
                "u65_se": errors[0],
                "u80_se": errors[1],
                "u65_band": round(by_band.u65, 3),
                "u80_band": round(by_band.u80, 3),
                "u65_over_band_se": errors[2],
                **{f"{k}_others": round(v, 3) for k, v in _brief(others).items()},
                "u65_others_over_band_se": errors[3],
                "u_plain": round(by_limit.u65, 3),
                "missed_plain": round(by_limit.missed, 3),
                "aurc": round(area_under_risk(watched.confidence, watched.changed), 3),
                "aurc_plain": round(area_under_risk(alone.score - above, alone.changed), 3),
                "right_reason": None if right is None else round(right, 3),
                "right_reason_of": int(caused.sum()) if fault != "clean" else 0,
                "named_when_unsure": round(float(watched.named[unsure].mean()), 3) if unsure.any() else None,
            }
        )
    return rows


def _brief(answers: Answers) -> dict[str, float]:
    return {k: round(v, 4) for k, v in vars(answers).items()}


def _errors(watched: Seen, alone: Seen, *, above: float, rare: float, common: float) -> tuple[float, ...]:
    """Return standard errors over people: of u65, of u80, and of u65 less the band's, under either setting."""
    del above
    rng = np.random.default_rng(0)
    people = np.unique(watched.subject)
    own = {p: np.flatnonzero(watched.subject == p) for p in people}
    answers = band(alone.p_value, rare=rare, common=common)
    draws = []
    for _ in range(_DRAWS if len(people) > 1 else 0):
        rows = np.concatenate([own[p] for p in rng.choice(people, len(people))])
        ours = utility(watched.decision[rows], watched.changed[rows])
        theirs = utility(answers[rows], alone.changed[rows])
        others = utility(watched.others[rows], watched.changed[rows])
        draws.append((ours.u65, ours.u80, ours.u65 - theirs.u65, others.u65 - theirs.u65))
    spread = np.std(draws, axis=0) if draws else np.full(4, np.nan)
    return tuple(float(x.round(3)) for x in spread)


def _folds(
    name: str, path: Path, *, epochs: int, networks: int, progress: Callable[[str], None]
) -> Iterator[tuple[int, Scorer, list[Recording]]]:
    """Train models on all but one of a data set, and give each, and its number, with recordings of that one."""
    from kinedge.quantize.build import BuildConfig, build_bundle, on_grid
    from kinedge.training.datasets import load_daphnet, load_fog_stanford, load_gait_healthy
    from kinedge.training.fit import FitConfig
    from kinedge.training.splits import leave_one_subject_out

    loaders: dict[str, Callable[[], list[Recording]]] = {
        "gait_healthy": lambda: load_gait_healthy(path),
        "fog_stanford": lambda: load_fog_stanford(path, sensors=("lumbar", "ankle_left", "ankle_right")),
        "daphnet": lambda: load_daphnet(path),
    }
    recordings = loaders[name]()
    many = len({r.subject for r in recordings}) > _FEW
    config = BuildConfig(
        name=name.replace("_", "-"),
        rate_hz=50.0 if name == "gait_healthy" else 64.0,
        split="holdout" if many else "cross",
        shares=(0.0, 0.45, 0.0),
        fit=FitConfig(
            width=16, hold_s=0.1, max_epochs=epochs, steps_per_epoch=60, learning_rate=4e-3, rotation_deg=10.0
        ),
    )
    for network in range(1 if many else networks):
        one = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": network})})
        for split in leave_one_subject_out(recordings):
            progress(f"{name}: training {network + 1} without {', '.join(split.test_subjects)}")
            bundle: Bundle = build_bundle(list(split.train), one).bundle
            yield network, Scorer(bundle, caution=_BOTH), list(on_grid(split.test, one))
