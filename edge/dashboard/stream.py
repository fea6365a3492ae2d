"""Server-Sent Events: what goes to whoever looks, at most ten times a second, always the newest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["signals_event"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def signals_event(
    subject: str, sensor: str, channels: Sequence[str], rate_hz: float, utc_ns: I64, values: F32
) -> dict[str, Any]:
    """Return samples (n, n_channels) at times (n,) as plain lists, a list for each channel; null where missing."""
    rounded = np.round(values.T.astype(np.float64), 3)
    columns = [[x if math.isfinite(x) else None for x in column] for column in rounded.tolist()]
    return {
        "subject": subject,
        "sensor": sensor,
        "channels": list(channels),
        "rate_hz": rate_hz,
        "t_utc_ns": utc_ns.tolist(),
        "values": columns,
    }
