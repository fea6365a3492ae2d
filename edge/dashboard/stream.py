"""Server-Sent Events: what goes to whoever looks, at most ten times a second, always the newest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.http_server import Send

__all__ = ["Listener", "event_bytes", "signals_event"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_MAX_EVENTS: Final = 64
_MAX_SIGNALS: Final = 40  # some seconds of a person's sensors
_PING_S: Final = 2.0
_COMMENT: Final = b"retry: 2000\n\n"


def event_bytes(kind: str, content: Mapping[str, Any]) -> bytes:
    """Return one event with its time; JSON has no line breaks, so that it is one line."""
    text = json.dumps({"at_utc_ns": time.time_ns(), **content}, ensure_ascii=False, separators=(",", ":"))
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), text.encode())


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


class Listener:
    """One who listens: what waits for them is bounded, the oldest goes first.

    Parameters
    ----------
    subject
        Looked at in detail.
    newer_than
        Gives the state that is newer than a version.
    """

    def __init__(self, subject: str | None, newer_than: Callable[[int], tuple[int, bytes | None]]) -> None:
        self.subject = subject
        self.wake = asyncio.Event()
        self.events: deque[bytes] = deque(maxlen=_MAX_EVENTS)
        self.signals: deque[bytes] = deque(maxlen=_MAX_SIGNALS)
        self._newer_than = newer_than
        self._version = -1

    async def run(self, send: Send) -> None:
        """Send what there is until cancelled; while that takes, newer things replace what waits."""
        await send(_COMMENT)
        quiet_s = time.monotonic()
        while True:
            self.wake.clear()
            self._version, state = self._newer_than(self._version)
            waiting = [*([] if state is None else [state]), *self.signals, *self.events]
            self.signals.clear()
            self.events.clear()
            now_s = time.monotonic()
            if not waiting and now_s - quiet_s >= _PING_S:
                waiting.append(event_bytes("ping", {}))
            if waiting:
                quiet_s = now_s
                await send(b"".join(waiting))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), _PING_S)
