"""Sessions of serial devices that stamp every sample with a clock of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.device import SessionConfig
from kinedge.firmware_bridge.devices._common import QueueSession
from kinedge.firmware_bridge.devices._timing import Samples, StampClock
from kinedge.units import period_ns

__all__ = ["StampedSession"]


class StampedSession(QueueSession):
    """Base of a session whose samples each carry a time stamp, already unwrapped.

    Loss, repetitions and restarts are judged by ``StampClock``, sample for sample, so that a burst and its samples
    one by one come to the same.
    """

    def __init__(self, config: SessionConfig, *, rate_hz: float, doubtful: str = "") -> None:
        self._clock = StampClock(interval_ns=period_ns(rate_hz))
        super().__init__(config, rate_hz=rate_hz, doubtful=doubtful)

    def set_rate(self, rate_hz: float) -> None:
        """Go on at the rate that the device turned out to have; the clock goes on as well."""
        if rate_hz == self.rate_hz:
            return
        self.rate_hz, self.interval_ns = rate_hz, period_ns(rate_hz)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start a new timeline: what comes has another rate or origin of time."""
        boot_id = self._clock.boot_id + 1
        self._clock = StampClock(interval_ns=self.interval_ns)
        self._clock.boot_id = boot_id

    def deliver_stamped(
        self,
        stamps_ns: Sequence[int],
        values: NDArray[np.floating],
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        *,
        host_time_ns: int | None,
    ) -> None:
        """Deliver what is new of samples in order of arrival.

        Parameters
        ----------
        stamps_ns : n ints
            Device clock.
        values, valid, saturated : (n, n_channels)
            SI units; where ``valid`` is False, the value is replaced by 0.
        host_time_ns
            When they arrived.
        """
        clock = self._clock
        repeated, implausible = clock.repeated, clock.implausible
        rows: list[int] = []
        times: list[int] = []
        lost, boot_id = 0, clock.boot_id
        if not valid.all():
            values, saturated = np.where(valid, values, 0), saturated & valid
        values = values.astype(np.float32)

        def deliver_run() -> None:
            at = slice(None) if len(rows) == len(values) else np.array(rows, dtype=np.intp)
            samples = Samples(np.array(times, np.int64), values[at], valid[at], saturated[at])
            self.deliver(samples, lost=lost, boot_id=boot_id, host_time_ns=host_time_ns)

        for row, stamp_ns in enumerate(stamps_ns):
            placed = clock.place_last(stamp_ns, 1, host_time_ns=host_time_ns)
            if placed is None:
                continue
            if clock.boot_id != boot_id:
                deliver_run()
                rows, times, lost, boot_id = [], [], 0, clock.boot_id
            rows.append(row)
            times.append(stamp_ns)
            lost += placed[1]
        deliver_run()
        self.counters["duplicates"] += clock.repeated - repeated
        self.counters["implausible"] += clock.implausible - implausible
