"""What the tests of all device families do alike: feed a session, take its events, and check what must always hold."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from hypothesis import strategies as st

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.device import Command, DeviceEvent, DeviceInfo, Doubt, Session
from kinedge.signals import ImuChunk


def commands(session: Session) -> list[Command]:
    found = []
    while (command := session.next_command()) is not None:
        found.append(command)
    return found


def events(session: Session) -> list[DeviceEvent]:
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def chunks(session: Session) -> list[ImuChunk]:
    return [event for event in events(session) if isinstance(event, ImuChunk)]


def feed(session: Session, packets: Iterable[bytes], *, channel: str) -> list[ImuChunk]:
    found = []
    for packet in packets:
        session.receive_data(packet, channel=channel)
        found += chunks(session)
    return found


def together(found: list[ImuChunk]) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of all chunks."""
    return np.concatenate([c.device_time_ns for c in found]), np.concatenate([c.values for c in found])


def doubts(session: Session) -> list[str]:
    return [event.text for event in events(session) if isinstance(event, Doubt)]


def infos(session: Session) -> list[DeviceInfo]:
    return [event for event in events(session) if isinstance(event, DeviceInfo)]


def hostile_payloads(real: list[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Lists of random bytes, and of real packets that were cut, prolonged or changed in some bytes."""

    @st.composite
    def damaged(draw: st.DrawFn) -> bytes:
        packet = bytearray(draw(st.sampled_from(real)))
        for _ in range(draw(st.integers(0, 3))):
            if packet:
                packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
        cut = draw(st.integers(0, len(packet)))
        tail = draw(st.binary(max_size=8))
        return bytes(packet[:cut] if draw(st.booleans()) else packet) + (tail if draw(st.booleans()) else b"")

    return st.lists(st.one_of(damaged(), st.binary(max_size=80)), max_size=30)


def survives(session: Session, payloads: list[bytes], *, channels: list[str]) -> None:
    """Feed anything: ``ProtocolError`` at most, and what comes out is well formed."""
    last: dict[int, int] = {}
    n_samples = 0
    for i, payload in enumerate(payloads):
        with suppress(ProtocolError):
            session.receive_data(payload, channel=channels[i % len(channels)], host_time_ns=1_000_000 * (i + 1))
        for chunk in chunks(session):
            assert np.isfinite(chunk.values).all()
            assert not (chunk.saturated & ~chunk.valid).any()
            assert (np.diff(chunk.device_time_ns) > 0).all()
            assert chunk.lost >= 0
            assert int(chunk.device_time_ns[0]) > last.get(chunk.boot_id, -(2**63))
            last[chunk.boot_id] = int(chunk.device_time_ns[-1])
            n_samples += len(chunk)
    assert session.counters.get("samples", 0) == n_samples
    commands(session)
