"""Packets of a device whose samples tell their number, and what a wire decoder makes of them."""

from __future__ import annotations

import numpy as np

from kinedge.firmware_bridge.decoder import Event, HelloReceived, WireDecoder
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import Channel, Hello, SampleFlags, Samples
from kinedge.signals import IMU6, ImuChunk

INTERVAL_NS = 10_000_000
ACC_SCALE, GYR_SCALE = 0.0048828125, 0.0009765625
CHANNELS = tuple(Channel(n, ACC_SCALE if n[0] == "a" else GYR_SCALE, 160.0 if n[0] == "a" else 32.0) for n in IMU6)


def hello(*, stream_id: int = 1, boot_id: int = 7, sensor: str = "wrist_left", serial: str = "SN1") -> Hello:
    return Hello(stream_id, boot_id, INTERVAL_NS, sensor, serial, CHANNELS)


def counts_of(index: int, n: int) -> np.ndarray:
    """Counts that tell which sample they are."""
    k = np.arange(index, index + n)[:, None] * 7 + np.arange(6) * 1009
    return (k % 40_000 - 20_000).astype(np.int16)


def packet(index: int, n: int = 10, *, stream_id: int = 1, flags: SampleFlags = SampleFlags.NONE) -> bytes:
    """SAMPLES with samples ``[index, index + n)`` of a device that was switched on at 1 s."""
    return Samples.from_counts(
        counts_of(index, n),
        stream_id=stream_id,
        sequence=index % 65536,
        t_us=1_000_000 + index * INTERVAL_NS // 1000,
        interval_ns=INTERVAL_NS,
        flags=flags,
    ).to_bytes()


def events_of(decoder: WireDecoder) -> list[Event]:
    found = []
    while (event := decoder.next_event()) is not None:
        found.append(event)
    return found


def chunks_of(decoder: WireDecoder) -> list[ImuChunk]:
    return [e for e in events_of(decoder) if isinstance(e, ImuChunk)]


def described(*, framed: bool = False) -> WireDecoder:
    decoder = WireDecoder(framed=framed)
    payload = hello().to_bytes()
    decoder.receive_data(encode_frame(payload) if framed else payload)
    assert isinstance(decoder.next_event(), HelloReceived)
    return decoder


def indices(chunks: list[ImuChunk]) -> list[int]:
    """Which samples were delivered, by their time; values must be those of these samples."""
    found: list[int] = []
    for chunk in chunks:
        index = (chunk.device_time_ns - 1_000_000_000) // INTERVAL_NS
        for i, values in zip(index.tolist(), chunk.values, strict=True):
            np.testing.assert_array_equal(values, counts_of(i, 1)[0] * np.array([ACC_SCALE] * 3 + [GYR_SCALE] * 3))
        found += index.tolist()
    return found
