"""What it costs to listen: many emulated sensors on real ttys, read and decoded by one process.

The sensors run in a process of their own, so that the CPU time measured is the listener's alone. Each begins when
the listener first speaks to it, so that every sample it makes can be received or must be counted as lost.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kinedge.benchmarks.harness import result
from kinedge.errors import LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.open_device import DeviceConfig, open_device
from kinedge.signals import ImuChunk, SensorSpec

__all__ = ["bench_links"]

_GRACE_S = 3.0


def bench_links(*, n_sensors: int = 30, rate_hz: float = 200.0, seconds: float = 20.0) -> dict[str, Any]:
    """Listen to many sensors and count what arrives and what it costs.

    Returns
    -------
    dict
        One row: samples sent, received, lost (counted by the listener) and unaccounted for (sent, and neither), and the
        listener's CPU time, opening the ports included, as a share of one core.

    Raises
    ------
    LinkError
        The emulated sensors did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kinedge.benchmarks.links", folder, str(n_sensors), str(rate_hz), str(seconds)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            end = time.monotonic() + 60
            while len(list(Path(folder).iterdir())) < n_sensors:
                if process.poll() is not None or time.monotonic() > end:
                    raise LinkError("the emulated sensors did not start; is there room for so many ttys?")
                time.sleep(0.05)
            ports = sorted(Path(folder).iterdir())
            sent = n_sensors * round(rate_hz * seconds)
            received, lost, cpu_s, wall_s = asyncio.run(_listen(ports, seconds, sent))
        finally:
            process.terminate()
            process.wait()
    row = {
        "what": f"{n_sensors} sensors x {rate_hz:g} Hz",
        "sent": sent,
        "received": received,
        "lost": lost,
        "unaccounted": sent - received - lost,
        "cpu_share": round(cpu_s / wall_s, 4),
        "us_per_sample": round(cpu_s / max(received, 1) * 1e6, 3),
    }
    return result("links", [row], settings={"n_sensors": n_sensors, "rate_hz": rate_hz, "seconds": seconds})


async def _listen(ports: list[Path], seconds: float, sent: int) -> tuple[int, int, float, float]:
    radio = BleRadio()
    links = [open_device(DeviceConfig(port=str(p)), radio=radio) for p in ports]
    received = lost = 0
    last_s = time.monotonic()

    async def follow(link: Any) -> None:
        nonlocal received, lost, last_s
        async for event in link.events():
            if isinstance(event, ImuChunk):
                received += len(event)
                lost += event.lost
                last_s = time.monotonic()

    start_s, start_cpu_s = time.monotonic(), time.process_time()
    tasks = [asyncio.create_task(follow(link)) for link in links]
    while received + lost < sent and time.monotonic() - max(last_s, start_s + seconds) < _GRACE_S:
        await asyncio.sleep(0.2)
    cpu_s, wall_s = time.process_time() - start_cpu_s, last_s - start_s
    for link in links:
        await link.close()
    await asyncio.gather(*tasks)
    return received, lost, cpu_s, wall_s


def _emulate(folder: Path, n_sensors: int, rate_hz: float, seconds: float) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(-8000, 8000, (round(rate_hz * seconds), 6)).astype(np.int16)
    devices = []
    for i in range(n_sensors):
        hello = make_hello(SensorSpec(f"sensor_{i}"), rate_hz=rate_hz, serial=f"SN-{i}")
        imu = EmulatedImu(hello, counts, seed=i)
        devices.append(PtyDevice(imu, link_path=folder / f"sensor_{i:03}", await_host=True))
    for device in devices:
        device.start()
    sys.stdin.buffer.read()  # the ttys stay until the listener has read all and ends this process, or has ended itself


if __name__ == "__main__":
    _emulate(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
