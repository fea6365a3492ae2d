"""Packets on a serial line: COBS(payload + CRC-16/CCITT-FALSE, little-endian), then 0x00.

COBS (Cheshire and Baker, IEEE/ACM Trans. Networking 7(2), 1999) takes every zero out of a frame, so that a
zero always ends one: a reader that lost its place is back at the next zero, whatever happened before.
"""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from typing import Final

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.packets import MAX_PAYLOAD

__all__ = ["MAX_FRAME", "FrameCounters", "FrameSplitter", "cobs_decode", "cobs_encode", "encode_frame"]

_BLOCK: Final = 254
_CRC_START: Final = 0xFFFF
_MIN_DECODED: Final = 4  # two bytes of packet, two of CRC
MAX_FRAME: Final = MAX_PAYLOAD + 2 + (MAX_PAYLOAD + 2) // _BLOCK + 1
"""Bytes of the longest frame without its zero."""


def cobs_encode(data: bytes) -> bytes:
    """Encode without zeros; no delimiter is added."""
    out = bytearray()
    runs = data.split(b"\0")
    last = len(runs) - 1
    for i, run in enumerate(runs):
        start = 0
        while len(run) - start >= _BLOCK:
            out.append(0xFF)
            out += run[start : start + _BLOCK]
            start += _BLOCK
        if i == last and start and start == len(run):
            break  # a full block at the very end stands for itself
        out.append(len(run) - start + 1)
        out += run[start:]
    return bytes(out)


def cobs_decode(frame: bytes) -> bytes:
    """Decode one frame, without its delimiter.

    Raises
    ------
    ProtocolError
        The frame is empty, holds a zero, or ends inside a block.
    """
    decoded = _unstuff(frame) if frame and 0 not in frame else None
    if decoded is None:
        raise ProtocolError(f"{len(frame)} bytes are no COBS frame: empty, with a zero, or ending inside a block")
    return bytes(decoded)


def _unstuff(frame: bytes) -> bytearray | None:
    """Decode a frame that is not empty and has no zero, None where it ends inside a block.

    A code byte stands where a zero was: decoding in place costs one step per zero, not one per byte.
    """
    out = bytearray(frame)
    n = len(frame)
    at = code = frame[0]
    if n <= _BLOCK + 1:  # too short to hold anything behind a full block
        while at < n:
            out[at] = 0
            at += frame[at]
    else:
        full_blocks = []
        while at < n:
            if code == 0xFF:
                full_blocks.append(at)
            code = frame[at]
            out[at] = 0
            at += code
        for block_end in reversed(full_blocks):  # no zero follows a full block: the next code byte goes
            del out[block_end]
    del out[0]
    return out if at == n else None


def encode_frame(payload: bytes) -> bytes:
    """Return what goes on the line for a payload: COBS, CRC and the final zero."""
    return cobs_encode(payload + crc_hqx(payload, _CRC_START).to_bytes(2, "little")) + b"\0"


@dataclass
class FrameCounters:
    """What came over a line.

    Parameters
    ----------
    frames
        Whole frames with the right CRC.
    bad_crc
        Frames whose CRC was wrong.
    bad_frame
        Frames that were no COBS, too short, or longer than any packet.
    bytes_skipped
        Bytes of all bad frames.
    """

    frames: int = 0
    bad_crc: int = 0
    bad_frame: int = 0
    bytes_skipped: int = 0


class FrameSplitter:
    """Cut a byte stream into payloads; bad frames are counted, never raised.

    Parameters
    ----------
    counters
        Where to count; a new one when not given.
    max_frame
        Longer frames are skipped up to the next zero; also the bound of the buffer, in bytes.
    """

    def __init__(self, counters: FrameCounters | None = None, *, max_frame: int = MAX_FRAME) -> None:
        self.counters = FrameCounters() if counters is None else counters
        self._max_frame = max_frame
        self._tail = b""
        self._skipped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in, return the payloads that they complete."""
        parts = data.split(b"\0")
        if len(parts) == 1:
            self._keep(self._tail + data)
            return []
        parts[0] = self._tail + parts[0]
        tail = parts.pop()
        payloads = []
        if self._skipped:
            self._reject(self._skipped + len(parts.pop(0)))
        for frame in parts:
            if not frame:
                continue
            decoded = _unstuff(frame) if len(frame) <= self._max_frame else None
            if decoded is None or len(decoded) < _MIN_DECODED:
                self._reject(len(frame))
                continue
            crc = decoded[-2] | decoded[-1] << 8
            payload = bytes(decoded)[:-2]
            if crc_hqx(payload, _CRC_START) == crc:
                payloads.append(payload)
            else:
                self.counters.bad_crc += 1
                self.counters.bytes_skipped += len(frame)
        self.counters.frames += len(payloads)
        self._skipped = 0
        self._keep(tail)
        return payloads

    def reset(self) -> None:
        """Forget the unfinished frame, as when a port was opened anew."""
        if self._skipped or self._tail:
            self._reject(self._skipped + len(self._tail))
        self._tail, self._skipped = b"", 0

    def _keep(self, tail: bytes) -> None:
        if self._skipped or len(tail) > self._max_frame:
            self._skipped += len(tail)
            tail = b""
        self._tail = bytes(tail)

    def _reject(self, n_bytes: int) -> None:
        self.counters.bad_frame += 1
        self.counters.bytes_skipped += n_bytes
