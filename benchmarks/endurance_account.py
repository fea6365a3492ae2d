"""Who received what: the account of one device, sample by sample, held against what the device made.

Every sample received is compared with the value that the device measured, every gap with what the session said is lost,
and the common grid with both: at the rate of the device, each tick between the first and the last sample of a boot must
be valid where the sample was received, and masked where it was not.

A device that starts anew counts from nought. What it made between the last sample received of one boot and the first
of the next nobody can know who listens, and a session does not pretend to: it says that the device was restarted, and
counts from there. These samples are ``unknown``, and only the ledger of the device tells how many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from kinedge.benchmarks.endurance_devices import RATE_HZ, counts_at
from kinedge.edge.aligner import Aligner
from kinedge.firmware_bridge.emulator import make_hello
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import period_ns

__all__ = ["Account", "Boot"]

_INTERVAL_NS: Final = period_ns(RATE_HZ)


@dataclass(slots=True)
class Boot:
    """What was received of one boot."""

    boot_id: int
    first: int
    next_index: int
    received: int = 0
    lost: int = 0
    valid: int = 0
    next_tick: int | None = None
    first_tick: int = 0

    @property
    def masked(self) -> int:
        """Ticks of the grid without a value."""
        return (self.next_tick or 0) - self.first_tick - self.valid


@dataclass
class Account:
    """What was heard of one device.

    Parameters
    ----------
    sensor
        Its name.

    Attributes
    ----------
    boots
        In order.
    wrong
        Samples that the device did not measure so, or not then.
    misjudged
        Samples by which what the session said is lost differs from what is missing.
    """

    sensor: str
    boots: list[Boot] = field(default_factory=list)
    wrong: int = 0
    misjudged: int = 0

    def __post_init__(self) -> None:
        self._spec = SensorSpec(self.sensor)
        self._aligner = Aligner([self._spec], rate_hz=RATE_HZ)  # of the current boot
        self._scales = make_hello(self._spec, rate_hz=RATE_HZ).scales

    def take(self, chunk: ImuChunk) -> None:
        """Take in what the session gave."""
        index, rest = np.divmod(chunk.device_time_ns, _INTERVAL_NS)
        first, end = int(index[0]), int(index[-1]) + 1
        if not self.boots or self.boots[-1].boot_id != chunk.boot_id:
            self.close()
            self._aligner = Aligner([self._spec], rate_hz=RATE_HZ)
            self.boots.append(Boot(chunk.boot_id, first, next_index=first))
        boot = self.boots[-1]
        expected = counts_at(index, boot_id=chunk.boot_id) * self._scales
        right = (rest == 0) & (index >= boot.next_index) & (chunk.values == expected).all(axis=1)
        right &= chunk.valid.all(axis=1)
        self.wrong += int((~right).sum())
        self.misjudged += abs(end - boot.next_index - len(chunk) - chunk.lost)
        boot.received += len(chunk)
        boot.lost += chunk.lost
        boot.next_index = end
        self._aligner.push(
            self.sensor,
            chunk.device_time_ns,
            chunk.values,
            chunk.valid,
            chunk.saturated,
            interval_ns=chunk.interval_ns,
        )
        self._pull(flush=False)

    def close(self) -> None:
        """Let the grid of the current boot end with its last sample."""
        if self.boots:
            self._pull(flush=True)

    def balance(self, made: Sequence[tuple[int, int]]) -> dict[str, int]:
        """Compare with the ledger of the device.

        Parameters
        ----------
        made
            Boot id and samples made, boot by boot.

        Returns
        -------
        dict
            ``sent``; ``received``, ``masked`` and ``unknown``, which are its parts; ``restarts`` heard of; and
            ``unaccounted``: samples wrong, misjudged, masked otherwise than lost, or missing before the first sample
            of all or after the last one.
        """
        self.close()
        received, masked = sum(b.received for b in self.boots), sum(b.masked for b in self.boots)
        sent = sum(n for _, n in made)
        heard = {boot.boot_id: boot for boot in self.boots}
        unknown = 0
        for boot_id, n in made:
            boot = heard.get(boot_id)
            unknown += n if boot is None else n - (boot.next_index - boot.first)
        faults = [self.wrong, self.misjudged, abs(sent - received - masked - unknown)]
        faults += [abs(b.masked - b.lost) + abs(b.valid - b.received) for b in self.boots]
        faults += [n for n in (len(self.boots) - len(heard), len(set(heard) - {b for b, _ in made})) if n]
        # The first boot was heard from its first sample on, and the last one to its end.
        first, last = heard.get(made[0][0]), heard.get(made[-1][0])
        faults.append(made[0][1] if first is None else first.first)
        faults.append(made[-1][1] if last is None else made[-1][1] - last.next_index)
        return {
            "sent": sent,
            "received": received,
            "masked": masked,
            "unknown": unknown,
            "unaccounted": sum(faults),
            "restarts": len(self.boots) - 1,
        }

    def _pull(self, *, flush: bool) -> None:
        boot, block = self.boots[-1], self._aligner.pull(flush=flush)
        if not len(block):
            return
        if boot.next_tick is None:
            boot.first_tick = block.first_tick
        boot.next_tick = block.first_tick + len(block)
        boot.valid += int(block.valid.all(axis=1).sum())
