"""A recording played by emulated devices over real ttys: the same bytes, clocks and losses as the real thing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, counts_from_si, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.recording import Recording
from kinedge.units import NS_PER_S

__all__ = ["play_on_ptys"]


def play_on_ptys(
    recording: Recording,
    folder: Path,
    *,
    speed: float = 1.0,
    packet_samples: int = 10,
    faults: Faults | None = None,
    faults_at: Mapping[str, Faults] | None = None,
    seed: int = 0,
    held: bool = False,
) -> dict[str, PtyDevice]:
    """Make one device per sensor of a recording, each on a tty at ``folder/<sensor>``; start them yourself.

    Every device has a clock of its own: an offset of hours and a skew within +-40 ppm, drawn from ``seed``.

    Parameters
    ----------
    recording
        Samples that are missing in it are sent as invalid.
    speed
        Device seconds per second.
    faults
        Of every device's link.
    faults_at
        Of single sensors, in place of ``faults``.
    held
        Each waits for its ``switch_on``; see `PtyDevice`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    devices = {}
    for spec in recording.sensors:
        rng = np.random.default_rng((seed, zlib.crc32(spec.name.encode())))
        hello = make_hello(
            spec,
            rate_hz=recording.rate_hz,
            boot_id=int(rng.integers(1, 2**32)),
            serial=f"EMU-{seed:04}-{spec.name}",
        )
        columns = recording.columns(spec.name)
        counts = counts_from_si(recording.values[:, columns], hello=hello, valid=recording.valid[:, columns])
        imu = EmulatedImu(
            hello,
            counts,
            packet_samples=packet_samples,
            faults=(faults_at or {}).get(spec.name, faults),
            seed=int(rng.integers(2**31)),
            skew_ppm=float(rng.uniform(-40, 40)),
            start_ns=int(rng.integers(0, 10_000)) * NS_PER_S,
            battery_percent=int(rng.integers(60, 101)),
        )
        devices[spec.name] = PtyDevice(imu, link_path=folder / spec.name, speed=speed, held=held)
    return devices
