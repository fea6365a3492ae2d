"""What decoding a packet costs, beside the straightforward decoder: a struct per sample, a loop per byte stuffed.

Both give the same samples, times, validity, saturation and losses; that they do is checked before anything is timed.
"""

from __future__ import annotations

import json
import struct
import sys
from binascii import crc_hqx
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.harness import interleaved, result, timing_row
from kinedge.errors import SignalError
from kinedge.firmware_bridge.decoder import WireDecoder
from kinedge.firmware_bridge.emulator import make_hello
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import Hello, Samples
from kinedge.signals import ImuChunk, SensorSpec

__all__ = ["bench_decode", "main"]

_INTERVAL_NS: Final = 10_000_000
_N_BURSTS: Final = 100

_Decoded: TypeAlias = tuple[list[int], list[list[float]], list[list[bool]], list[list[bool]], int]


def bench_decode(
    *, packets: int = 64, samples: int = 10, n_rounds: int = 15, round_s: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    """Time SAMPLES packets from the bytes of a serial line to samples in SI units.

    Parameters
    ----------
    packets
        In a burst: what one read brings when the host was busy, or many sensors share a line.
    samples
        Of six channels in a packet.
    n_rounds, round_s
        See ``interleaved``.

    Returns
    -------
    dict
        Rows with ``what`` one of ``burst`` (one read of all packets), ``single`` (a read per packet), ``struct loop``
        (the same outputs) and ``struct loop, values only``; ``ratio`` says how many times ``burst`` is faster.

    Raises
    ------
    SignalError
        The two decoders do not agree.
    """
    hello = make_hello(SensorSpec("wrist_left"), rate_hz=1e9 / _INTERVAL_NS)
    bursts = _bursts(hello, packets=packets, samples=samples, seed=seed)
    lines = [b"".join(frames) for frames in bursts]
    _require_agreement(hello, lines)
    scales, limits = hello.scales.tolist(), hello.saturation_counts.tolist()
    at = 0

    def next_line() -> bytes:
        nonlocal at
        at = (at + 1) % len(lines)
        return lines[at]

    timings = interleaved(
        {
            "burst": _reader(hello, [[line] for line in lines]),
            "single": _reader(hello, bursts),
            "struct loop": lambda: _struct_loop(next_line(), scales, limits, whole=True),
            "struct loop, values only": lambda: _struct_loop(next_line(), scales, limits, whole=False),
        },
        n_rounds=n_rounds,
        round_s=round_s,
    )
    rows = [
        timing_row(
            what,
            timing,
            us_per_packet=round(timing.median_us / packets, 3),
            ratio=round(timing.median_us / timings["burst"].median_us, 2),
        )
        for what, timing in timings.items()
    ]
    settings = {"packets": packets, "samples": samples, "channels": len(hello.channels), "n_rounds": n_rounds}
    return result("decode", rows, settings=settings)


def _bursts(hello: Hello, *, packets: int, samples: int, seed: int) -> list[list[bytes]]:
    rng = np.random.default_rng(seed)
    bursts = []
    for b in range(_N_BURSTS):
        frames = []
        for k in range(b * packets, (b + 1) * packets):
            counts = rng.normal(0, 3000, (samples, len(hello.channels))).astype(np.int16)
            packet = Samples.from_counts(
                counts,
                stream_id=hello.stream_id,
                sequence=k * samples % (1 << 16),
                t_us=1000 + k * samples * _INTERVAL_NS // 1000,
                interval_ns=_INTERVAL_NS,
            )
            frames.append(encode_frame(packet.to_bytes()))
        bursts.append(frames)
    return bursts


def _greeted(hello: Hello) -> WireDecoder:
    decoder = WireDecoder()
    decoder.receive_data(encode_frame(hello.to_bytes()))
    decoder.next_event()
    return decoder


def _reader(hello: Hello, bursts: list[list[bytes]]) -> Callable[[], None]:
    """Return what decodes the next burst, read by read; a new decoder after the last one, since time goes on."""
    decoder, at = _greeted(hello), 0

    def read() -> None:
        nonlocal decoder, at
        for data in bursts[at]:
            decoder.receive_data(data, host_time_ns=at)
            while decoder.next_event() is not None:
                pass
        at += 1
        if at == len(bursts):
            decoder, at = _greeted(hello), 0

    return read


def _struct_loop(line: bytes, scales: list[float], limits: list[int], *, whole: bool) -> _Decoded:
    """Decode as one would at first: byte by byte, sample by sample."""
    times: list[int] = []
    values: list[list[float]] = []
    valid: list[list[bool]] = []
    saturated: list[list[bool]] = []
    lost, expected = 0, None
    body = struct.Struct(f"<{len(scales)}h")
    for frame in line.split(b"\0"):
        if not frame:
            continue
        out, i = bytearray(), 0
        while i < len(frame):
            code = frame[i]
            out += frame[i + 1 : i + code]
            i += code
            if code < 255 and i < len(frame):
                out.append(0)
        payload = bytes(out[:-2])
        if crc_hqx(payload, 0xFFFF) != out[-2] | out[-1] << 8:
            continue
        _, _, sequence, t_us, interval_ns, count, _ = struct.unpack_from("<BBHQIBB", payload)
        if expected is not None:
            lost += (sequence - expected) % 65536
        expected = sequence + count
        for k in range(count):
            counts = body.unpack_from(payload, 18 + body.size * k)
            times.append(t_us * 1000 + k * interval_ns)
            values.append([c * s for c, s in zip(counts, scales, strict=True)])
            if whole:
                valid.append([c != -32768 for c in counts])
                saturated.append([abs(c) >= limit for c, limit in zip(counts, limits, strict=True)])
    return times, values, valid, saturated, lost


def _require_agreement(hello: Hello, lines: list[bytes]) -> None:
    decoder = _greeted(hello)
    for line in lines[:3]:
        decoder.receive_data(line)
        chunk = decoder.next_event()
        times, values, valid, saturated, lost = _struct_loop(
            line, hello.scales.tolist(), hello.saturation_counts.tolist(), whole=True
        )
        if not isinstance(chunk, ImuChunk):
            raise SignalError("the decoder gave no samples for a burst; a benchmark of it would mean nothing")
        pairs: list[tuple[NDArray[Any], list[Any]]] = [
            (chunk.device_time_ns, times),
            (chunk.valid, valid),
            (chunk.saturated, saturated),
        ]
        same = all(np.array_equal(ours, theirs) for ours, theirs in pairs) and chunk.lost == lost
        if not same or not np.allclose(chunk.values, values, rtol=1e-6):
            raise SignalError("the decoder and the struct loop do not agree; one of them is wrong")


def main(argv: list[str] | None = None) -> int:
    """Print the result as JSON."""
    _ = argv
    print(json.dumps(bench_decode(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
