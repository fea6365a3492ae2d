"""The raw slice of an episode as lines on a screen: the lowest and highest sample of each of a few hundred stretches.

Nothing that stands out for one sample is lost, as it would be if every n-th sample were taken; and what was not
received stays a gap.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.arrays import arrays_from_npz
from kinedge.errors import BundleError, SignalError
from kinedge.signals import Quantity, quantity_of

__all__ = ["RAW_MEDIA_TYPE", "series_of"]

RAW_MEDIA_TYPE: Final = "application/vnd.kinedge.raw+npz"
_MISSING: Final = -32768  # as the raw slice marks a sample that is not there
_UNITS: Final = {Quantity.ACC: "m/s²", Quantity.GYR: "rad/s", Quantity.MAG: "µT"}
_MAX_CHANNELS: Final = 256
_MAX_BYTES: Final = 24 << 20  # unpacked; ten minutes of six sensors at 200 Hz take 9 MB
_MAX_SCALE: Final = 1e6
_SENSOR: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_DIGITS: Final = 4


def series_of(raw: bytes, *, where: str, max_points: int) -> dict[str, Any]:
    """Return a raw slice in at most ``max_points`` stretches.

    Parameters
    ----------
    raw
        As an edge packed it: int16 counts with their scale.
    where
        For errors.
    max_points
        Stretches of each channel.

    Returns
    -------
    series
        ``start_utc_ns``, ``rate_hz``, ``n_samples``, ``samples_per_point``, and ``channels``, each with ``sensor``,
        ``channel``, ``unit``, ``low`` and ``high`` in that unit (None where nothing was received) and ``missing``, the
        share of each stretch's samples that is not there.

    Raises
    ------
    BundleError
        The bytes are no raw slice.
    """
    arrays = arrays_from_npz(raw, where=where, max_bytes=_MAX_BYTES)
    try:
        counts, scale, names = arrays["counts"], arrays["scale_si"], [str(c) for c in arrays["channels"]]
        rate_hz, start_utc_ns = float(arrays["rate_hz"]), int(arrays["start_utc_ns"])
        units = [_UNITS[quantity_of(c.partition(".")[2])] for c in names]
        fits = (
            counts.ndim == 2
            and counts.dtype == np.int16
            and scale.shape == (len(names),)
            and counts.shape[1] == len(names) <= _MAX_CHANNELS
            and len(counts)
            and np.issubdtype(scale.dtype, np.floating)
            and bool((np.abs(scale) <= _MAX_SCALE).all())
            and all(_SENSOR.fullmatch(c.partition(".")[0]) for c in names)
            and 1e-3 <= rate_hz <= 1e6
            and 0 <= start_utc_ns < 2**63
        )
    except (KeyError, TypeError, ValueError, OverflowError, SignalError) as e:
        raise BundleError(f"{where}: no raw slice of this kinedge ({type(e).__name__}: {e})") from e
    if not fits:
        raise BundleError(f"{where}: no raw slice of this kinedge (its arrays do not fit together)")
    each = -(-len(counts) // max_points)
    low, high, missing = _extremes(counts, each)
    channels = []
    for i, name in enumerate(names):
        sensor, _, channel = name.partition(".")
        step = float(scale[i])
        channels.append({
            "sensor": sensor,
            "channel": channel,
            "unit": units[i],
            "low": _numbers(low[:, i] * step, missing[:, i] == 1),
            "high": _numbers(high[:, i] * step, missing[:, i] == 1),
            "missing": np.round(missing[:, i], _DIGITS).tolist(),
        })  # fmt: skip
    return {
        "start_utc_ns": start_utc_ns,
        "rate_hz": rate_hz,
        "n_samples": len(counts),
        "samples_per_point": each,
        "channels": channels,
    }


def _extremes(counts: NDArray[np.int16], each: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Return lowest and highest count, and the share that is missing, of every ``each`` samples."""
    edges = np.arange(0, len(counts), each)
    there = counts != _MISSING
    wide = counts.astype(np.int32)
    low = np.minimum.reduceat(np.where(there, wide, 1 << 16), edges, axis=0)
    high = np.maximum.reduceat(np.where(there, wide, -(1 << 16)), edges, axis=0)
    lengths = np.diff(np.append(edges, len(counts)))[:, None]
    missing = 1 - np.add.reduceat(there.astype(np.int64), edges, axis=0) / lengths
    return low, high, missing


def _numbers(values: NDArray[np.floating], gone: NDArray[np.bool_]) -> list[float | None]:
    rounded = np.round(values, _DIGITS).tolist()
    return [None if g else v for v, g in zip(rounded, gone.tolist(), strict=True)]
