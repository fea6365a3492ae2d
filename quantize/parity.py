"""The parity proof: the same held-out recordings through every form and precision of one model, judged by verdicts.

The reference is the torch network on whole recordings. Everything else goes through the very code that runs on a board;
a form is compared sample by sample (z), verdict by verdict (decisions, first sensor), and by how well its scores find
labelled and injected anomalies (VUS-PR, hit@1: how often the sensor that was tampered with comes first). Each precision
is judged by its own calibration. What is not there is "not run", never left out.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from kinedge.bundle import Bundle
from kinedge.edge.backends import Backend, NativeBackend, OnnxBackend
from kinedge.edge.calibration import Calibration
from kinedge.edge.offline import hops
from kinedge.edge.scoring import Scorer
from kinedge.errors import BackendError, SignalError
from kinedge.quantize.restore import restore_model
from kinedge.recording import Recording, Region
from kinedge.training.anomalies import ANOMALIES, inject
from kinedge.training.model import Forecaster
from kinedge.training.vus import vus_pr
from kinedge.training.windows import labelled

__all__ = ["GOALS", "ParityRow", "Proof", "TorchBackend", "prove", "tampered"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

GOALS: Final = {"fp32_z": 1e-5, "vus_pr": 0.005, "flipped": 0.005, "hit_at_1": 0.005}  # the last three: int8, fp16
NOT_HERE: Final = ("native fp32", "ONNX fp16", "ONNX int8", "TensorRT fp32", "TensorRT fp16", "TensorRT int8")
_TOLD_BY_THE_MASK: Final = frozenset({"dropout", "flat_line", "saturation"})  # a model does not see them
_BEFORE_S, _DURING_S, _AFTER_S = 12.0, 8.0, 6.0
_STRENGTHS: Final = (0.4, 1.0)
_INJECTED: Final = ("anomaly:*",)
_SIDE_BY_SIDE: Final = 16  # recordings of equal length in one step
_NOT_TO_BE_FOUND: Final = frozenset({"outside"})  # no part of an experiment is no anomaly


@dataclass(frozen=True)
class ParityRow:
    """One form of the model against the reference; every figure is None where it could not be had.

    Parameters
    ----------
    z_relative_rmse, z_max, z_largest
        Root mean square of the differences of z over that of z; the largest difference; the largest z.
    vus_pr, vus_pr_injected
        Of the scores, for labels of the recordings and for injected anomalies; ``_change`` is against the reference.
    flipped, flipped_injected
        Share of verdicts that decide otherwise, on the recordings and on those tampered with.
    order_changed
        Share of verdicts on the recordings that name another sensor first.
    hit_at_1
        Share of verdicts inside an injected anomaly that name its sensor first.
    """

    form: str
    run: bool
    z_relative_rmse: float | None = None
    z_max: float | None = None
    z_largest: float | None = None
    vus_pr: float | None = None
    vus_pr_change: float | None = None
    vus_pr_injected: float | None = None
    vus_pr_injected_change: float | None = None
    flipped: float | None = None
    flipped_injected: float | None = None
    order_changed: float | None = None
    hit_at_1: float | None = None
    hit_at_1_change: float | None = None


@dataclass(frozen=True)
class Proof:
    """All forms, the reference first, and how much they were compared on."""

    rows: tuple[ParityRow, ...]
    n_verdicts: int
    n_injected: int
    hours: float
    subjects: int

    def row(self, form: str) -> ParityRow:
        """Return the row of a form."""
        return next(r for r in self.rows if r.form == form)

    def goals(self) -> dict[str, bool]:
        """Tell which goals are met, of those that could be tested."""
        met: dict[str, bool] = {}
        for row in (r for r in self.rows[1:] if r.run):
            key = row.form.replace(" ", "_").lower()
            if "fp32" in row.form:
                if row.z_relative_rmse is not None:
                    met[f"{key}_identical"] = row.z_relative_rmse <= GOALS["fp32_z"] and not row.flipped
            else:
                changes = [c for c in (row.vus_pr_change, row.vus_pr_injected_change) if c is not None]
                if changes:
                    met[f"{key}_vus_pr"] = max(map(abs, changes)) <= GOALS["vus_pr"]
                if row.flipped is not None:
                    met[f"{key}_flipped"] = row.flipped <= GOALS["flipped"]
                if row.hit_at_1_change is not None:
                    met[f"{key}_hit_at_1"] = abs(row.hit_at_1_change) < GOALS["hit_at_1"]
        return met

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return {**facts, "goals": self.goals(), "rows": [asdict(r) for r in self.rows]}


class TorchBackend:
    """The network itself behind the interface of backends."""

    def __init__(self, model: Forecaster) -> None:
        self.name = f"torch {torch.__version__} fp32"
        self._model = model.eval()

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        """Advance all streams; see ``kinedge.edge.backends.Backend``."""
        with torch.no_grad():
            mu, log_sigma, after = self._model(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (x, mask, state)))
        return mu.numpy(), log_sigma.numpy(), after.numpy()


class _Listening:
    """Keeps what a backend is shown, hop by hop: the sensors' own doubts decide what that is, too."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self._backend = backend
        self.x: list[F32] = []
        self.mask: list[F32] = []

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        self.x.append(x.copy())
        self.mask.append(mask.copy())
        return self._backend.step(x, mask, state)


class _Whole:
    """Answers step by step with what a backend says about all that it was shown, in one call."""

    def __init__(self, backend: Backend, shown: _Listening, *, state_size: int) -> None:
        self.name = f"{backend.name} whole"
        x, mask = np.concatenate(shown.x, axis=1), np.concatenate(shown.mask, axis=1)
        self._mu, self._log_sigma, _ = backend.step(x, mask, np.zeros((len(x), state_size), np.float32))
        self._at = 0

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        part = slice(self._at, self._at + x.shape[1])
        self._at += x.shape[1]
        return self._mu[:, part], self._log_sigma[:, part], state


@dataclass(frozen=True, eq=False)
class _Answers:
    """About one recording: z of every sample; decision, score and first sensor of every verdict."""

    z: F32
    decision: NDArray[np.int64]
    score: F64
    first: NDArray[np.int64]


Ask = Callable[[Sequence[Recording]], list[_Answers]]


def _ask(bundle: Bundle, backend: Backend, calibration: Calibration, *, whole: bool) -> Ask:
    """Recordings of equal length are asked about side by side."""
    hop, state_size = bundle.manifest.hop, bundle.manifest.state_size

    def ask(recordings: Sequence[Recording]) -> list[_Answers]:
        found: dict[int, _Answers] = {}
        by_length = sorted(range(len(recordings)), key=lambda i: len(recordings[i]))
        for _, same in itertools.groupby(by_length, key=lambda i: len(recordings[i])):
            rows = list(same)
            for k in range(0, len(rows), _SIDE_BY_SIDE):
                some = rows[k : k + _SIDE_BY_SIDE]
                found.update(zip(some, together([recordings[i] for i in some]), strict=True))
        return [found[i] for i in range(len(recordings))]

    def together(recordings: Sequence[Recording]) -> list[_Answers]:
        if not whole:
            return answers(backend, recordings)
        shown = _Listening(backend)
        answers(shown, recordings)
        return answers(_Whole(backend, shown, state_size=state_size), recordings)

    def answers(here: Backend, recordings: Sequence[Recording]) -> list[_Answers]:
        # every form is shown the same hops, once each: no second forecast, and no exchange that depends on the first
        scorer = Scorer(bundle, backend=here, calibration=calibration, ask_more=False)
        state = scorer.initial_state(len(recordings))
        z, decision, score, first = [], [], [], []
        for i, parts in enumerate(zip(*(hops(r, hop) for r in recordings), strict=True), start=1):
            values, valid, saturated = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            batch, state = scorer.step(values, valid, saturated, state, end_tick=i * hop)
            z.append(batch.surprise.z)
            decision.append(batch.belief.decision.astype(np.int64))
            score.append(batch.unusual.score)
            first.append(np.argmax(batch.sensor_share, axis=1))
        columns = np.concatenate(z, axis=1), *(np.stack(c, axis=1) for c in (decision, score, first))
        return [_Answers(*row) for row in zip(*columns, strict=True)]

    return ask


def tampered(
    recordings: Sequence[Recording], *, n: int, exclude_labels: Sequence[str], seed: int
) -> list[tuple[Recording, int]]:
    """Cut pieces of ordinary movement out of recordings and inject an anomaly into each, of kinds in turn.

    Returns
    -------
    list
        Piece and the number of the sensor that was tampered with; the anomaly is the piece's only such label.
    """
    rng = np.random.default_rng(seed)
    kinds = sorted(k for k, a in ANOMALIES.items() if a.level == "signal" and k not in _TOLD_BY_THE_MASK)
    pieces: list[tuple[Recording, int]] = []
    rate = recordings[0].rate_hz if recordings else 1.0
    before, during, length = (round(s * rate) for s in (_BEFORE_S, _DURING_S, _BEFORE_S + _DURING_S + _AFTER_S))
    long_enough = [r for r in recordings if len(r) >= length]
    for attempt in range(20 * n if long_enough else 0):
        recording = long_enough[int(rng.integers(len(long_enough)))]
        start = int(rng.integers(len(recording) - length + 1))
        regions = labelled(recording, (*exclude_labels, *_INJECTED))
        if any(r.start < start + length and r.end > start for r in regions):
            continue
        sensor = attempt % len(recording.sensors)
        changed = inject(
            recording.slice(start, start + length),
            kinds[len(pieces) % len(kinds)],
            before,
            before + during,
            sensor=recording.sensors[sensor].name,
            seed=int(rng.integers(2**31)),
            strength=_STRENGTHS[len(pieces) // len(kinds) % len(_STRENGTHS)],
        )
        pieces.append((changed, sensor))
        if len(pieces) == n:
            break
    return pieces


def prove(
    bundle: Bundle,
    recordings: Sequence[Recording],
    *,
    exclude_labels: Sequence[str],
    others: Mapping[str, Backend] | None = None,
    n_injected: int = 60,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Proof:
    """Compare every form of a bundle's model on recordings.

    Parameters
    ----------
    bundle
        With models in other precisions and their calibrations, or without.
    recordings
        On the model's grid, of people that neither trained nor calibrated it.
    exclude_labels
        Regions that are no ordinary movement: what a score should find.
    others
        Further backends by the name of their row, such as ``TensorRT int8``; a name that ends in a precision of the
        bundle is judged by the calibration for it, any other by that for fp32.
    n_injected
        Pieces that are tampered with.
    seed
        Of what is injected where.
    progress
        Called with the name of each form.

    Raises
    ------
    SignalError
        There is nothing to compare on.
    BackendError, BundleError
        A form does not load.
    """
    manifest = bundle.manifest
    recordings = [r for r in recordings if len(r) >= manifest.hop]
    if not recordings:
        raise SignalError("no recordings to compare on: give people the model has not seen")
    pieces = tampered(recordings, n=n_injected, exclude_labels=exclude_labels, seed=seed)
    to_find = [label for label in exclude_labels if label not in _NOT_TO_BE_FOUND]
    truth = [labelled(r, to_find) for r in recordings]
    calibrations = {p: Calibration.from_arrays(bundle.calibration_arrays(p), manifest) for p in manifest.precisions}

    def of(form: str) -> Calibration:
        return calibrations.get(form.rsplit(maxsplit=1)[-1], calibrations["fp32"])

    forms: dict[str, Ask] = {}
    network = TorchBackend(restore_model(bundle.model_bytes(), manifest))
    forms["torch fp32"] = _ask(bundle, network, calibrations["fp32"], whole=True)
    full = OnnxBackend(bundle)
    forms["ONNX fp32 whole"] = _ask(bundle, full, calibrations["fp32"], whole=True)
    forms["ONNX fp32 streaming"] = _ask(bundle, full, calibrations["fp32"], whole=False)
    with contextlib.suppress(BackendError):  # not built here, or a graph that it does not take
        forms["native fp32"] = _ask(bundle, NativeBackend(bundle), calibrations["fp32"], whole=False)
    for precision in sorted(set(calibrations) - {"fp32"}):
        backend = OnnxBackend(bundle, precision=precision)
        forms[f"ONNX {precision}"] = _ask(bundle, backend, calibrations[precision], whole=False)
    for form, other in (others or {}).items():
        forms[form] = _ask(bundle, other, of(form), whole=False)

    say = progress or (lambda form: None)
    rows: list[ParityRow] = []
    reference: tuple[list[_Answers], list[_Answers], ParityRow] | None = None
    for form, ask in forms.items():
        say(form)
        plain, odd = ask(recordings), ask([piece for piece, _ in pieces])
        facts = _alone(form, plain, odd, truth, pieces, manifest.hop, manifest.block)
        if reference is None:
            reference = plain, odd, facts
            rows.append(facts)
        else:
            rows.append(_against(facts, plain, odd, *reference))
    rows += [ParityRow(form, run=False) for form in NOT_HERE if form not in forms]
    return Proof(
        rows=tuple(rows),
        n_verdicts=sum(len(r) // manifest.hop for r in recordings),
        n_injected=len(pieces),
        hours=round(sum(r.duration_s for r in recordings) / 3600, 3),
        subjects=len({r.subject for r in recordings}),
    )


def _alone(
    form: str,
    plain: Sequence[_Answers],
    odd: Sequence[_Answers],
    truth: Sequence[Sequence[Region]],
    pieces: Sequence[tuple[Recording, int]],
    hop: int,
    block: int,
) -> ParityRow:
    hits = []
    for answers, (piece, sensor) in zip(odd, pieces, strict=True):
        (region,) = labelled(piece, _INJECTED)
        ends = (np.arange(len(answers.first)) + 1) * hop
        inside = (ends >= region.start + block) & (ends <= region.end)
        hits.append(answers.first[inside] == sensor)
    return ParityRow(
        form,
        run=True,
        z_largest=float(max(np.abs(a.z).max() for a in plain)),
        vus_pr=_volume(plain, truth, hop, block),
        vus_pr_injected=_volume(odd, [labelled(p, _INJECTED) for p, _ in pieces], hop, block),
        hit_at_1=float(np.concatenate(hits).mean()) if hits else None,
    )


def _volume(answers: Sequence[_Answers], truth: Sequence[Sequence[Region]], hop: int, block: int) -> float | None:
    """Return VUS-PR over all verdicts; a hop is labelled when any of its samples is. None without labels."""
    labels = []
    for one, regions in zip(answers, truth, strict=True):
        label = np.zeros(len(one.score), bool)
        for region in regions:
            label[region.start // hop : -(-region.end // hop)] = True
        labels.append(label)
    label = np.concatenate(labels) if labels else np.zeros(0, bool)
    if label.all() or not label.any():
        return None
    return vus_pr(label, np.concatenate([a.score for a in answers]), window=block // hop)


def _against(
    row: ParityRow,
    plain: Sequence[_Answers],
    odd: Sequence[_Answers],
    plain_0: Sequence[_Answers],
    odd_0: Sequence[_Answers],
    row_0: ParityRow,
) -> ParityRow:
    difference = power = largest = 0.0
    n = 0
    for a, b in zip(plain, plain_0, strict=True):
        d = a.z.astype(np.float64) - b.z
        difference, power = difference + float((d * d).sum()), power + float((b.z.astype(np.float64) ** 2).sum())
        largest, n = max(largest, float(np.abs(d).max())), n + d.size

    def share(which: str, here: Sequence[_Answers], there: Sequence[_Answers]) -> float | None:
        pairs = [getattr(a, which) != getattr(b, which) for a, b in zip(here, there, strict=True)]
        return float(np.concatenate(pairs).mean()) if pairs else None

    def change(name: str) -> float | None:
        new, old = getattr(row, name), getattr(row_0, name)
        return None if new is None or old is None else new - old

    return ParityRow(
        form=row.form,
        run=True,
        z_relative_rmse=(difference / max(power, 1e-12)) ** 0.5,
        z_max=largest,
        z_largest=row.z_largest,
        vus_pr=row.vus_pr,
        vus_pr_change=change("vus_pr"),
        vus_pr_injected=row.vus_pr_injected,
        vus_pr_injected_change=change("vus_pr_injected"),
        flipped=share("decision", plain, plain_0),
        flipped_injected=share("decision", odd, odd_0),
        order_changed=share("first", plain, plain_0),
        hit_at_1=row.hit_at_1,
        hit_at_1_change=change("hit_at_1"),
    )
