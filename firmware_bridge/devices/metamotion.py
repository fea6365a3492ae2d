"""MbientLab MetaMotion (R, RL and C: boards with a Bosch BMI160) over BLE.

Acceleration and angular rate come in notifications of their own: ``03 04`` and ``13 05`` with one sample, ``03 1C`` and
``13 07`` with three. They carry neither a time stamp nor a sequence number; this session asks for the packed
ones, both at one rate.

**Pairing.** Both come from one chip with one sampling clock, so the k-th sample of one belongs to the k-th of the
other. The two do not start together, and a board whose radio is busy drops notifications without a word, so the count
is held to the order in which they arrive:

* when the second stream speaks for the first time, the newest packet of the first was full none to three samples
  before: none where both are full at once and the second is sent last, three where it is sent first. One or two is
  assumed, by the times of arrival: right to within one sample where these are good, to within two always. What is
  older goes out alone, with the other three channels masked;
* from then on the difference of the two counts stays within the same bounds, second for second (learned when two
  seconds agree). When for one second it kept within bounds that are m higher or lower, m samples of one were lost,
  and the next m of the other go out alone: up to two seconds are paired wrongly by m samples;
* no stream waits for more than 48 samples.

Time is the count of rows, held to the host clock by ``CountClock``. Boards with a BMI270 (MetaMotion S) have another
gyroscope register map, which is not published: a doubt says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Battery, Command, SessionConfig
from kinedge.firmware_bridge.devices._common import BleOnlyDriver, QueueSession, check_options, nearest
from kinedge.firmware_bridge.devices._timing import CountClock, Samples
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["NOTIFY", "SERVICE", "WRITE", "MetaMotionDriver", "MetaMotionSession", "parse_notification"]

SERVICE: Final = "326a9000-85cb-9195-d9dd-464cfbbae75a"
WRITE: Final = "326a9001-85cb-9195-d9dd-464cfbbae75a"
NOTIFY: Final = "326a9006-85cb-9195-d9dd-464cfbbae75a"

_ACC, _GYR = 0, 1
_N_SAMPLES_OF: Final = {
    b"\x03\x04": (_ACC, 1),
    b"\x03\x1c": (_ACC, 3),
    b"\x13\x05": (_GYR, 1),
    b"\x13\x07": (_GYR, 3),
}
_ODR_CODES: Final = {25.0: 6, 50.0: 7, 100.0: 8, 200.0: 9}
_NORMAL_FILTER: Final = 0x20
_ACC_RANGES: Final = {2.0: (0x03, 16384.0), 4.0: (0x05, 8192.0), 8.0: (0x08, 4096.0), 16.0: (0x0C, 2048.0)}
_GYR_RANGES: Final = {
    125.0: (4, 262.4),
    250.0: (3, 131.2),
    500.0: (2, 65.6),
    1000.0: (1, 32.8),
    2000.0: (0, 16.4),
}
_DEFAULT_ACC_G: Final = 8.0
_DEFAULT_GYR_DEG_S: Final = 2000.0
_GYR_INFO: Final = b"\x13\x80"
_BATTERY: Final = b"\x11\x8c"
_BMI160: Final = 0
_MAX_WAITING: Final = 48
_NONE: Final = np.empty((0, 3), np.int16)


def parse_notification(data: bytes) -> tuple[str, NDArray[np.int16]]:
    """Read samples.

    Returns
    -------
    quantity
        ``acc`` or ``gyr``.
    counts : (1 or 3, 3) int16
        Their scale depends on the range that was set.

    Raises
    ------
    ProtocolError
        Not a notification of samples, or of the wrong length.
    """
    kind = _N_SAMPLES_OF.get(data[:2])
    if kind is None:
        raise ProtocolError(f"the notification {data[:2].hex()} holds no samples of acceleration or angular rate")
    if len(data) != 2 + 6 * kind[1]:
        raise ProtocolError(f"the notification {data[:2].hex()} has {len(data)} bytes, expected {2 + 6 * kind[1]}")
    return ("acc", "gyr")[kind[0]], np.frombuffer(data, "<i2", offset=2).reshape(-1, 3)


class MetaMotionSession(QueueSession):
    """One board."""

    subscriptions = (NOTIFY,)

    def __init__(self, config: SessionConfig) -> None:
        self._acc_g = nearest(tuple(_ACC_RANGES), config.acc_range_g or _DEFAULT_ACC_G)
        self._gyr_deg_s = nearest(tuple(_GYR_RANGES), config.gyr_range_deg_s or _DEFAULT_GYR_DEG_S)
        rate_hz = nearest(tuple(_ODR_CODES), config.rate_hz)
        self._odr = _ODR_CODES[rate_hz]
        self._boot_id = 0
        super().__init__(
            config, rate_hz=rate_hz, doubtful=f"the board perhaps did not take the range of {self._acc_g:g} g"
        )
        acc_m_s2 = STANDARD_GRAVITY_M_S2 / _ACC_RANGES[self._acc_g][1]
        self._scales = np.repeat([acc_m_s2, float(np.deg2rad(1 / _GYR_RANGES[self._gyr_deg_s][1]))], 3)
        self._begin()

    def start_commands(self) -> Sequence[Command]:
        """Return: identify, configure, subscribe to packed data, sample, power; the gyroscope is slower to start."""
        acc_range, gyr_range = _ACC_RANGES[self._acc_g][0], _GYR_RANGES[self._gyr_deg_s][0]
        odr = _NORMAL_FILTER | self._odr
        return _writes(
            _GYR_INFO,
            _BATTERY,
            bytes([0x03, 0x03, odr, acc_range]),
            bytes([0x13, 0x03, odr, gyr_range]),
            b"\x03\x1c\x01",
            b"\x13\x07\x01",
            b"\x13\x02\x01\x00",
            b"\x03\x02\x01\x00",
            b"\x13\x01\x01",
            b"\x03\x01\x01",
        )

    def stop_commands(self) -> Sequence[Command]:
        """Return: power off, no sampling, no subscriptions."""
        return _writes(
            b"\x03\x01\x00",
            b"\x13\x01\x00",
            b"\x03\x02\x00\x01",
            b"\x13\x02\x00\x01",
            b"\x03\x1c\x00",
            b"\x13\x07\x00",
        )

    def link_reopened(self) -> None:
        """Forget what waits; nothing tells how many samples were missed, so that time starts anew."""
        super().link_reopened()
        self._boot_id += 1
        self._begin()

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take one notification."""
        self.counters["packets"] += 1
        if data[:2] == _GYR_INFO:
            if len(data) > 2 and data[2] != _BMI160:
                self.doubt("this board has another gyroscope than a BMI160; its angular rate may be missing or wrong")
            return
        if data[:2] == _BATTERY and len(data) >= 3:
            self._put(Battery(min(data[2], 100)))
            return
        try:
            quantity, counts = parse_notification(data)
        except ProtocolError as error:
            self.reject(str(error))
            return
        self._take(_ACC if quantity == "acc" else _GYR, counts, host_time_ns)

    def _begin(self) -> None:
        self._clock = CountClock(interval_ns=self.interval_ns)
        self._waiting = [_NONE, _NONE]
        self._spoken = [False, False]
        self._arrived_ns: list[int | None] = [None, None]
        self._alone = [0, 0]  # samples to go out alone, because their partners were lost
        self._usual: tuple[int, int] | None = None
        self._last_bounds: tuple[int, int] | None = None
        self._begin_window()

    def _begin_window(self) -> None:
        self._n_rows = 0
        self._low, self._high = _MAX_WAITING, -_MAX_WAITING

    def _take(self, stream: int, counts: NDArray[np.int16], host_time_ns: int | None) -> None:
        waiting, other = self._waiting, 1 - stream
        waiting[stream] = np.concatenate([waiting[stream], counts])
        if not self._spoken[stream]:
            self._spoken[stream] = True
            overlap = len(counts) - self._lag(len(counts), self._arrived_ns[other], host_time_ns)
            self._deliver_alone(other, len(waiting[other]) - overlap, host_time_ns)
        self._arrived_ns[stream] = host_time_ns
        if self._alone[stream]:
            n = min(self._alone[stream], len(waiting[stream]))
            self._alone[stream] -= n
            self._deliver_alone(stream, n, host_time_ns)
        n = min(len(waiting[_ACC]), len(waiting[_GYR]))
        if n:
            self._deliver(waiting[_ACC][:n], waiting[_GYR][:n], host_time_ns)
            waiting[_ACC], waiting[_GYR] = waiting[_ACC][n:], waiting[_GYR][n:]
        self._deliver_alone(stream, len(waiting[stream]) - _MAX_WAITING, host_time_ns)
        self._balance(n)

    def _lag(self, n_each: int, other_ns: int | None, now_ns: int | None) -> int:
        """Return how many samples before this packet the newest of the other stream is taken to have been full."""
        later = other_ns is not None and now_ns is not None and 2 * (now_ns - other_ns) >= n_each * self.interval_ns
        return n_each // 2 + (later and n_each > 1)

    def _balance(self, n_paired: int) -> None:
        """Compare the bounds of the difference, second for second, with the usual ones."""
        if not all(self._spoken):
            return
        difference = len(self._waiting[_ACC]) - len(self._waiting[_GYR])
        self._low, self._high = min(self._low, difference), max(self._high, difference)
        self._n_rows += n_paired
        if self._n_rows < self.rate_hz:
            return
        bounds = (self._low, self._high)
        if self._usual is None:
            self._usual = bounds if bounds == self._last_bounds else None
        elif bounds[1] - bounds[0] == self._usual[1] - self._usual[0]:
            ahead = bounds[0] - self._usual[0]
            self._alone = [max(ahead, 0), max(-ahead, 0)]
        self._last_bounds = bounds
        self._begin_window()

    def _deliver_alone(self, stream: int, n: int, host_time_ns: int | None) -> None:
        """Deliver the ``n`` samples of one stream that have waited longest, the other masked."""
        if n <= 0:
            return
        rows, self._waiting[stream] = self._waiting[stream][:n], self._waiting[stream][n:]
        self.counters["unpaired"] += n
        self._deliver(rows if stream == _ACC else None, rows if stream == _GYR else None, host_time_ns)

    def _deliver(self, acc: NDArray[np.int16] | None, gyr: NDArray[np.int16] | None, host_time_ns: int | None) -> None:
        n = len(acc) if acc is not None else len(gyr) if gyr is not None else 0
        counts = np.zeros((n, 6), np.int16)
        valid = np.zeros((n, 6), dtype=bool)
        for columns, part in ((slice(0, 3), acc), (slice(3, 6), gyr)):
            if part is not None:
                counts[:, columns], valid[:, columns] = part, True
        times, lost = self._clock.place(n, host_time_ns=host_time_ns)
        saturated = (counts == 32767) | (counts == -32768)
        values = (counts * self._scales).astype(np.float32)
        self.deliver(
            Samples(times, values, valid, saturated), lost=lost, boot_id=self._boot_id, host_time_ns=host_time_ns
        )


class MetaMotionDriver(BleOnlyDriver[MetaMotionSession]):
    """MetaMotion boards."""

    name = "metamotion"

    def recognise(self, advertisement: Advertisement) -> bool:
        """Whether the service is theirs, or the name as delivered."""
        return SERVICE in advertisement.service_uuids or advertisement.name in ("MetaWear", "MetaMotion")

    def make_session(self, config: SessionConfig) -> MetaMotionSession:
        """Start a session; the nearest ranges and rate that the chip has are used.

        Raises
        ------
        ConfigError
            An option, or a range that is not positive.
        """
        check_options(self.name, config.options, {})
        if any(r is not None and not r > 0 for r in (config.acc_range_g, config.gyr_range_deg_s)):
            raise ConfigError(
                f"{self.name}: ranges must be positive, got {config.acc_range_g}, {config.gyr_range_deg_s}"
            )
        return MetaMotionSession(config)


def _writes(*commands: bytes) -> tuple[Command, ...]:
    return tuple(Command(WRITE, data, response=False, pause_s=0.02) for data in commands)
