"""Synthetic changes in ordinary movement, scored: what likelihood ratios and weights are learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration
from kinedge.edge.offline import score_recording
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording
from kinedge.training.anomalies import ANOMALIES, inject
from kinedge.training.windows import labelled

__all__ = ["INJECT_S", "Injected", "inject_all", "is_ordinary", "pieces_of"]

_NOT_FOR_LIKELIHOOD: Final = frozenset({"dropout", "flat_line", "saturation"})  # those are told by the mask, not by z
INJECT_S: Final = (12.0, 8.0)
"""Of ordinary movement before, and of anomaly."""
_STRENGTHS: Final = (0.4, 1.0)
_TIMES: Final = 4  # each change of each strength at each sensor: one piece may be all rest, where little can be seen


@dataclass(frozen=True, eq=False)
class Injected:
    """A scored block of a piece into which a change was injected: before the change, or within it.

    Parameters
    ----------
    recording
        The number of the recording that the piece is of.
    sensor
        Of the change.
    changed
        Whether it lies within the change.
    scores
    """

    recording: int
    sensor: int
    changed: bool
    scores: BlockScores


def is_ordinary(recording: Recording, exclude: Sequence[str], *, look_back: int) -> NDArray[np.bool_]:
    """Return (n,) bool: no excluded label within what a block that ends here looks back."""
    bad = np.zeros(len(recording), bool)
    for region in labelled(recording, exclude):
        bad[region.start : region.end + look_back] = True
    return ~bad


def pieces_of(recordings: Sequence[Recording], scorer: Scorer, exclude: Sequence[str]) -> list[tuple[Recording, int]]:
    """Return pieces of ordinary movement, each long enough for a change, with the number of its recording."""
    n = sum(round(s * scorer.manifest.rate_hz) for s in INJECT_S)
    look_back = scorer.manifest.block + scorer.manifest.receptive_field
    return [
        (piece, i)
        for i, recording in enumerate(recordings)
        for piece in _ordinary_pieces(recording, exclude, n, look_back=look_back)
    ]


def inject_all(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]],
    calibration: Calibration,
    *,
    exclude: Sequence[str],
    seed: int,
) -> list[Injected]:
    """Inject synthetic changes into ordinary movement, and score it.

    Parameters
    ----------
    scorers
        Recordings, each with a model that does not know them; they are numbered on from one to the next.
    calibration
        Of the scorers.
    exclude
        Labels of what is no ordinary movement.
    seed
        Of what is injected where.
    """
    rng = np.random.default_rng(seed)
    names = sorted(n for n, a in ANOMALIES.items() if a.level == "signal" and n not in _NOT_FOR_LIKELIHOOD)
    found: list[Injected] = []
    first = 0
    for recordings, scorer in scorers:
        judge = Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=calibration)
        before, during = (round(s * scorer.manifest.rate_hz) for s in INJECT_S)
        pieces = pieces_of(recordings, scorer, exclude)
        cases = product(enumerate(scorer.sensors), names, _STRENGTHS, range(_TIMES)) if pieces else ()
        for (i, sensor), name, strength, _ in cases:
            piece, number = pieces[int(rng.integers(len(pieces)))]
            one = int(rng.integers(2**31))
            changed = inject(piece, name, before, before + during, sensor=sensor, seed=one, strength=strength)
            for end, scores, _surprise in score_recording(judge, changed):
                within = end >= before + scorer.manifest.block
                if scores.full[0] and scores.scored[0].all() and (within or end <= before):
                    found.append(Injected(first + number, i, within, scores))
        first += len(recordings)
    return found


def _ordinary_pieces(recording: Recording, exclude: Sequence[str], n: int, *, look_back: int) -> Iterable[Recording]:
    good = is_ordinary(recording, exclude, look_back=look_back)
    start = 0
    while start + n <= len(recording):
        bad = np.flatnonzero(~good[start : start + n])
        if len(bad):
            start += int(bad[-1]) + 1
            continue
        yield recording.slice(start, start + n)
        start += n
