"""The gateway's own recording: whole whatever the disk does, and whatever is heard while it is written."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sent_packets import packets

from kinedge.edge.hostclock import HostClock
from kinedge.edge.tape import Tape
from kinedge.firmware_bridge.device import DeviceInfo
from kinedge.firmware_bridge.recorded import read_session
from kinedge.firmware_bridge.session_log import SessionLog
from kinedge.signals import SensorSpec
from kinedge.training.scenario import demo_recording

pytest.importorskip("pyarrow", reason="the extra 'record' is not installed")

TIMEOUT_S = 90.0


def test_a_recording_waits_for_a_disk_that_refuses_and_is_whole_once_it_takes(tmp_path: Path) -> None:
    notes: list[str] = []
    clock = HostClock()
    tape = Tape(tmp_path, {"p": {}}, segment_s=0.5, clock=clock, note=notes.append)
    chunks = packets(demo_recording(seed=1, duration_s=8, events=()))

    async def run() -> None:
        taping = asyncio.create_task(tape.run())
        for sensor in ("wrist_left", "wrist_right"):
            tape.put("p", sensor, DeviceInfo(SensorSpec(sensor), 50.0))
        tape.folder.rename(tmp_path / "away")
        for chunk in chunks[:40]:
            tape.put("p", chunk.sensor, chunk)
            tape.tick(clock.now_ns())
        async with asyncio.timeout(TIMEOUT_S) if sys.version_info >= (3, 11) else contextlib.nullcontext():
            while not notes:
                tape.tick(clock.now_ns())
                await asyncio.sleep(0.01)
        (tmp_path / "away").rename(tape.folder)
        for chunk in chunks[40:]:
            tape.put("p", chunk.sensor, chunk)
        tape.end()
        await taping

    asyncio.run(run())
    assert len(notes) == 1
    assert "cannot be written" in notes[0]
    session = read_session(tape.folder / "p")
    assert session.complete
    assert [(c.sensor, c.host_time_ns) for c in session.chunks()] == [(c.sensor, c.host_time_ns) for c in chunks]
    assert session.scored


def test_what_is_heard_while_the_last_is_being_written_is_in_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HostClock()
    tape = Tape(tmp_path, {"p": {}}, segment_s=0.5, clock=clock, note=lambda text: None)
    chunks = packets(demo_recording(seed=1, duration_s=8, events=()))
    writing, go_on = threading.Event(), threading.Event()
    take = SessionLog.take

    def slowly(*args: Any, **more: Any) -> None:
        writing.set()
        go_on.wait(TIMEOUT_S)
        take(*args, **more)

    monkeypatch.setattr(SessionLog, "take", slowly)

    async def run() -> None:
        taping = asyncio.create_task(tape.run())
        for sensor in ("wrist_left", "wrist_right"):
            tape.put("p", sensor, DeviceInfo(SensorSpec(sensor), 50.0))
        await asyncio.to_thread(writing.wait, TIMEOUT_S)
        for chunk in chunks:
            tape.put("p", chunk.sensor, chunk)
        tape.end()
        go_on.set()
        await taping

    asyncio.run(run())
    session = read_session(tape.folder / "p")
    assert [c.host_time_ns for c in session.chunks()] == [c.host_time_ns for c in chunks]
