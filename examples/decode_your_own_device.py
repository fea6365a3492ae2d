"""Decode the bytes of a board of your own, described in a TOML file: no code, no port, any chunking.

    python examples/decode_your_own_device.py [capture.bin]

The description is examples/bench_esp32.toml. Without a capture, bytes are made as that board would send them, with one
packet lost and one damaged.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

from kinedge.firmware_bridge.device import SERIAL_CHANNEL, SessionConfig
from kinedge.firmware_bridge.devices.struct_map import StructMapDriver
from kinedge.signals import ImuChunk

DESCRIPTION = Path(__file__).with_name("bench_esp32.toml")


def packet(number: int) -> bytes:
    """Return what the board sends: at rest, z up (4000 counts of 0.25 mg), turning slowly about z."""
    samples = struct.pack("<6h", 0, 0, 4000, 0, 0, 80) * 2
    body = b"\xa5\x5a" + struct.pack("<BI", number % 256, number * 20_000) + samples
    return body + bytes([sum(body) & 0xFF])


def main(argv: list[str]) -> int:
    sent = [packet(k) for k in range(50) if k != 20]
    sent[30] = sent[30][:-1] + b"\x00"
    stream = Path(argv[0]).read_bytes() if argv else b"".join(sent)
    session = StructMapDriver.from_toml(DESCRIPTION).open(SessionConfig("wrist_left"), transport="serial")
    chunks: list[ImuChunk] = []
    for at in range(0, len(stream), 37):  # a port returns what it has, not packets
        session.receive_data(stream[at : at + 37], channel=SERIAL_CHANNEL)
        while (event := session.next_event()) is not None:
            if isinstance(event, ImuChunk):
                chunks.append(event)
            else:
                print(f"told: {event}")
    values = np.concatenate([c.values for c in chunks])
    print(f"{len(values)} samples, {sum(c.lost for c in chunks)} lost")
    print("mean", np.array2string(values.mean(axis=0), precision=2, suppress_small=True), "m/s² and rad/s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
