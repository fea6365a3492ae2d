"""A recording as devices would send it, packet by packet, for tests of recordings and of the gateway's tape."""

from __future__ import annotations

import numpy as np

from kinedge.recording import Recording
from kinedge.signals import ImuChunk

__all__ = ["INTERVAL_NS", "PACKET", "START_NS", "packets"]

INTERVAL_NS = 20_000_000
PACKET = 10
START_NS = 10**12


def packets(recording: Recording, *, start_ns: int = START_NS) -> list[ImuChunk]:
    """Return a recording as two devices with clocks of their own would send it, in order of arrival."""
    rng = np.random.default_rng(5)
    chunks = []
    for spec in recording.sensors:
        columns = recording.columns(spec.name)
        offset_ns = int(rng.integers(10**9, 10**12))
        for first in range(0, len(recording) - PACKET + 1, PACKET):
            at = np.arange(first, first + PACKET, dtype=np.int64) * INTERVAL_NS
            rows = slice(first, first + PACKET)
            values, valid = recording.values[rows, columns], recording.valid[rows, columns]
            arrival_ns = start_ns + int(at[-1]) + int(rng.integers(1_000_000, 30_000_000))
            none = np.zeros_like(valid)
            chunks.append(
                ImuChunk(spec.name, at + offset_ns, values, valid, none, INTERVAL_NS, host_time_ns=arrival_ns)
            )
    return sorted(chunks, key=lambda c: c.host_time_ns or 0)
