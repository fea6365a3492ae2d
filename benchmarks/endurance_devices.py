"""Emulated devices that misbehave for as long as they are watched, each on a tty, in a process of their own.

They connect and disconnect, stall, start anew, and damage, lose, repeat and reorder what they send, each at times of
its own that a seed decides. What they made stands in a ledger: how many samples, boot by boot.

The process prints ``quiet`` when the misbehaving is over and all devices speak clearly again; told ``end`` by a line
on its input, it lets them finish, prints the ledger as JSON, and waits for its input to be closed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.signals import SensorSpec

__all__ = ["RATE_HZ", "UnrulyDevice", "counts_at"]

RATE_HZ: Final = 100.0
_PACKET_SAMPLES: Final = 10
_N_COUNTS: Final = 60_001
_ACTIONS: Final = ("faults", "unplug", "stall", "restart", "power cycle")
_N_STEADY: Final = 3  # of these keep the device running
# Of a device that starts anew sooner, and whose HELLO nobody hears, the samples may pass for those of the boot before.
_LEAST_PAUSE_S: Final = 3.0
_MEAN_PAUSE_S: Final = 3.0
_LONGEST_S: Final = 4.0
_MOST: Final = Faults(loss=0.05, mean_burst=3.0, corruption=1e-3, duplication=0.05, reordering=0.05)


def counts_at(index: NDArray[np.int64], *, boot_id: int) -> NDArray[np.int16]:
    """Return what a device measures: counts that tell their sample, channel and boot.

    Parameters
    ----------
    index : (n,) int64
        Since boot.

    Returns
    -------
    counts : (n, 6) int16
        Within +-30000.
    """
    channel = np.arange(6, dtype=np.int64)
    return ((index[:, None] * 7 + channel * 1009 + boot_id * 7919) % _N_COUNTS - _N_COUNTS // 2).astype(np.int16)


class UnrulyDevice:
    """A device on a tty, and what happens to it.

    Parameters
    ----------
    number
        Of the device; its sensor is ``sensor_<number>``.
    link_path
        Of the tty.
    seed
        Of everything that happens.
    speed
        Device seconds per second; what happens comes so much faster too.
    restarts
        Whether it starts anew at times; then what it made around a restart while unheard, it alone knows.
    """

    def __init__(self, number: int, *, link_path: Path, seed: int, speed: float, restarts: bool = True) -> None:
        self.actions: Counter[str] = Counter()
        self._possible = _ACTIONS if restarts else _ACTIONS[:_N_STEADY]
        self._number = number
        self._speed = speed
        self._rng = np.random.default_rng((seed, number))
        self._ending = threading.Event()
        self._boots: list[tuple[int, int]] = []  # boot id and samples made, of those that are over
        self._imu = self._boot(Faults())  # it begins well: nothing is missing before the first sample of all
        self._pty = PtyDevice(self._imu, link_path=link_path, speed=speed, await_host=True)
        self._pty.start()

    @property
    def ledger(self) -> list[tuple[int, int]]:
        """Boot id and samples made, boot by boot."""
        return [*self._boots, (self._imu.hello.boot_id, self._imu.n_made)]

    def misbehave(self, over: threading.Event) -> None:
        """Go on until ``over`` is set, then speak clearly."""
        while not over.wait((_LEAST_PAUSE_S + self._rng.exponential(_MEAN_PAUSE_S)) / self._speed):
            action = str(self._rng.choice(self._possible))
            pause_s = self._rng.uniform(0.02, _LONGEST_S) / self._speed
            self.actions[action] += 1
            if action == "faults":
                self._pty.set_faults(self._faults())
            elif action == "stall":
                self._pty.stall()
                over.wait(pause_s)
                self._pty.resume()
            elif action == "restart":
                self._restart()
            else:
                self._pty.unplug()
                over.wait(pause_s)
                if action == "power cycle":
                    self._restart()
                self._pty.replug()
        self._pty.set_faults(Faults())

    def finish(self) -> None:
        """Send what has been measured, and measure no more."""
        self._ending.set()
        self._pty.wait_finished()

    def stop(self) -> None:
        """Switch off."""
        self._pty.stop()

    def _restart(self) -> None:
        before, self._imu = self._imu, self._boot(self._faults())
        self._pty.restart(self._imu)
        self._boots.append((before.hello.boot_id, before.n_made))

    def _boot(self, faults: Faults) -> EmulatedImu:
        boot_id = 1 + int(self._rng.integers(1 << 20))
        sensor = SensorSpec(f"sensor_{self._number}")
        hello = make_hello(sensor, rate_hz=RATE_HZ, boot_id=boot_id, serial=f"SN-{self._number}")
        seed = int(self._rng.integers(1 << 31))
        return EmulatedImu(hello, self._measure(boot_id), packet_samples=_PACKET_SAMPLES, faults=faults, seed=seed)

    def _faults(self) -> Faults:
        """Return none of them as often as some."""
        share = float(max(0.0, self._rng.uniform(-1, 1)))
        return Faults(
            loss=_MOST.loss * share,
            mean_burst=_MOST.mean_burst,
            corruption=_MOST.corruption * share,
            duplication=_MOST.duplication * share,
            reordering=_MOST.reordering * share,
        )

    def _measure(self, boot_id: int) -> Iterator[NDArray[np.int16]]:
        start = 0
        while not self._ending.is_set():
            yield counts_at(np.arange(start, start + _PACKET_SAMPLES), boot_id=boot_id)
            start += _PACKET_SAMPLES


def main(argv: list[str]) -> int:
    """Run devices: folder for the ttys, number of devices, seed, seconds, speed, whether they restart (0 or 1)."""
    folder, n_devices, seed, seconds, speed, restarts = argv
    over = threading.Event()
    devices = [
        UnrulyDevice(
            i,
            link_path=Path(folder) / f"sensor_{i}",
            seed=int(seed),
            speed=float(speed),
            restarts=bool(int(restarts)),
        )
        for i in range(int(n_devices))
    ]
    print("ready", flush=True)
    sys.stdin.readline()  # "begin": all of them are heard
    threads = [threading.Thread(target=device.misbehave, args=(over,)) for device in devices]
    for thread in threads:
        thread.start()
    over.wait(float(seconds))
    over.set()
    for thread in threads:
        thread.join()
    print("quiet", flush=True)
    sys.stdin.readline()  # "end"
    for device in devices:
        device.finish()
    actions = sum((device.actions for device in devices), Counter[str]())
    print(json.dumps({"boots": [device.ledger for device in devices], "actions": actions}), flush=True)
    sys.stdin.read()
    for device in devices:
        device.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
