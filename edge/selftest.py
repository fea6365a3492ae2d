"""A model's self-test: it must answer on this board, to a stored movement, what it answered where it was published.

The movement is made up from the manifest: smooth noise of the model's own scale, with a gap and a jolt in it. Its
samples and the expected scores are stored, so that neither a random generator nor a library can change the question.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.arrays import arrays_from_npz, arrays_to_npz
from kinedge.bundle import Bundle, Manifest
from kinedge.edge.scoring import Scorer
from kinedge.errors import BundleError

__all__ = ["make_golden", "self_test"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_SEED: Final = 20_260
_MAX_SAMPLES: Final = 200_000
_BLOCKS: Final = 4  # beyond the warm-up
_RELATIVE: Final = 0.02


def make_golden(bundle: Bundle) -> bytes:
    """Return a movement and the scores that every precision of this model gives it, as npz bytes.

    Raises
    ------
    BackendError, BundleError
        A model of the bundle does not load, or predicts what is not finite.
    """
    manifest = bundle.manifest
    warm_up = manifest.receptive_field + max(manifest.horizons) + _BLOCKS * manifest.block
    n = -(-warm_up // manifest.hop) * manifest.hop
    rng = np.random.default_rng(_SEED)
    smooth = np.cumsum(rng.normal(size=(n + 25, manifest.n_channels)), axis=0)
    smooth = (smooth[25:] - smooth[:-25]) / 5.0
    values = (np.array(manifest.center) + np.array(manifest.scale) * smooth).astype(np.float32)
    values[-manifest.block // 2 :] += np.array(manifest.scale, np.float32)  # a jolt
    valid = np.ones(values.shape, bool)
    valid[n // 2 : n // 2 + manifest.hop // 5] = False
    arrays: dict[str, NDArray[np.generic]] = {"values": values, "valid": valid.astype(np.uint8)}
    for precision in sorted(manifest.precisions):
        surprise, score = _answers(Scorer(bundle, precision=precision), values, valid)
        arrays[f"surprise_{precision}"], arrays[f"score_{precision}"] = surprise, score
    return arrays_to_npz(arrays)


def self_test(scorer: Scorer, golden: bytes, *, precision: str, tolerance: float) -> None:
    """Let a loaded model answer its golden movement.

    Parameters
    ----------
    scorer
        As it will run: this precision, this backend.
    golden
        From ``make_golden``.
    precision
        Of the scorer.
    tolerance
        Largest error of a score (1 is from the median to the 99 % quantile). The surprise may be off by as many nats,
        and by 2 % of itself.

    Raises
    ------
    BundleError
        The stored answers do not fit the model, or it predicts what is not finite, or answers otherwise.
    BackendError
        The model failed.
    """
    manifest = scorer.manifest
    where = f"self-test of {manifest.name} {scorer.bundle.digest[:16]}"
    values, valid, expected = _read(golden, manifest, precision, where)
    for what, got, want in zip(("surprise", "score"), _answers(scorer, values, valid), expected, strict=True):
        error = np.abs(got - want)
        if not (error <= tolerance + (_RELATIVE * np.abs(want) if what == "surprise" else 0)).all():
            raise BundleError(
                f"{where}: a {what} is off by {error.max():.3g} from where it was published, {tolerance:g} is allowed; "
                "the model stays out of use; publish it again, or raise models.tolerance"
            )


def _read(golden: bytes, manifest: Manifest, precision: str, where: str) -> tuple[F32, NDArray[np.bool_], list[F64]]:
    arrays = arrays_from_npz(golden, where=where)
    names = {"values", "valid", f"surprise_{precision}", f"score_{precision}"}
    if not names <= set(arrays):
        raise BundleError(f"{where}: {', '.join(sorted(names - set(arrays)))} is missing; publish the model again")
    values = arrays["values"]
    n_hops = len(values) // manifest.hop if values.ndim else 0
    shapes = {
        "values": (n_hops * manifest.hop, manifest.n_channels),
        "valid": values.shape,
        f"surprise_{precision}": (n_hops, manifest.n_channels),
        f"score_{precision}": (n_hops,),
    }
    if not 0 < n_hops * manifest.hop <= _MAX_SAMPLES or any(arrays[k].shape != v for k, v in shapes.items()):
        raise BundleError(f"{where}: its stored movement is of another model; publish the model again")
    expected = [arrays[f"{k}_{precision}"].astype(np.float64) for k in ("surprise", "score")]
    return values.astype(np.float32), arrays["valid"].astype(bool), expected


def _answers(scorer: Scorer, values: F32, valid: NDArray[np.bool_]) -> tuple[F64, F64]:
    """Return the mean surprise per hop and channel, in nats, and the score per hop."""
    hop = scorer.manifest.hop
    state = scorer.initial_state(1)
    surprise, score = [], []
    nothing = np.zeros((1, hop, scorer.manifest.n_channels), bool)
    for i in range(len(values) // hop):
        part = slice(i * hop, (i + 1) * hop)
        batch, state = scorer.step(values[None, part], valid[None, part], nothing, state, end_tick=(i + 1) * hop)
        raw = (state.engine.mu, state.engine.log_sigma, state.engine.model)
        if not all(np.isfinite(part).all() for part in raw):  # the engine would mask it, and say "no data"
            raise BundleError(
                f"self-test of {scorer.manifest.name} {scorer.bundle.digest[:16]}: it predicts what is not finite; "
                "it stays out of use; train it again"
            )
        surprise.append(batch.surprise.nats[0].mean(axis=(0, 1), dtype=np.float64))
        score.append(float(batch.unusual.score[0]))
    return np.array(surprise), np.array(score)
