"""An IMU that speaks the reference protocol and does not exist: the firmware's behaviour, sans-IO.

``EmulatedImu`` is told how much time has passed and returns the payloads that a device would have sent by then,
with its own clock (offset and skew) and losses on the way. ``FaultyWire`` frames payloads for a serial line and
damages bytes. Nothing here reads a clock; ``emulator_pty`` lets it run in real time on a real pty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, ProtocolError, SignalError
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import (
    ALL_STREAMS,
    INVALID_COUNT,
    Channel,
    Hello,
    HelloRequest,
    SampleFlags,
    Samples,
    Status,
    TimeSync,
    parse_packet,
)
from kinedge.signals import Quantity, SensorSpec, quantity_of
from kinedge.units import NS_PER_S, NS_PER_US, STANDARD_GRAVITY_M_S2, period_ns

__all__ = ["EmulatedImu", "Faults", "FaultyWire", "counts_from_si", "make_hello"]

_HELLO_EVERY_NS: Final = 2 * NS_PER_S
_STATUS_EVERY_NS: Final = 5 * NS_PER_S
_MAX_REPLIES: Final = 64
_CLIP_FLAG: Final = {Quantity.ACC: SampleFlags.ACC_CLIPPED, Quantity.GYR: SampleFlags.GYR_CLIPPED}


@dataclass(frozen=True)
class Faults:
    """What goes wrong between device and host.

    Parameters
    ----------
    loss
        Share of packets lost.
    mean_burst
        Mean number of packets lost in a row (Gilbert's two-state model: nothing is lost in the good
        state, everything in the bad one); 1 makes losses nearly independent.
    corruption
        Probability, per byte on a wire, that it is flipped, lost or doubled.
    duplication
        Probability that a packet comes twice.
    reordering
        Probability that a packet comes after the one that follows it.
    """

    loss: float = 0.0
    mean_burst: float = 1.0
    corruption: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.corruption, self.duplication, self.reordering)
        if not (0 <= self.loss < 1 and all(0 <= share <= 1 for share in shares) and self.mean_burst >= 1):
            raise ConfigError(f"faults: loss in [0, 1), other shares in [0, 1], mean_burst at least 1; got {self}")
        if self._bad_per_good > 1:
            raise ConfigError(f"faults: a loss of {self.loss} needs bursts of more than {self.mean_burst} packets")

    @property
    def _bad_per_good(self) -> float:
        return self.loss / ((1 - self.loss) * self.mean_burst)

    def becomes_bad(self, bad: bool, draw: float) -> bool:
        """Return the next state of the channel for a uniform draw in [0, 1)."""
        return draw >= 1 / self.mean_burst if bad else draw < self._bad_per_good


def make_hello(
    spec: SensorSpec,
    *,
    rate_hz: float,
    stream_id: int = 1,
    boot_id: int = 1,
    serial: str = "EMULATED",
    acc_range_m_s2: float = 16 * STANDARD_GRAVITY_M_S2,
    gyr_range_rad_s: float = float(np.deg2rad(2000)),
    mag_range_ut: float = 4900.0,
) -> Hello:
    """Describe a device whose 16-bit counts cover these ranges."""
    ranges = {Quantity.ACC: acc_range_m_s2, Quantity.GYR: gyr_range_rad_s, Quantity.MAG: mag_range_ut}
    channels = tuple(
        Channel(name, scale=ranges[quantity_of(name)] / 32768, full_scale=ranges[quantity_of(name)])
        for name in spec.channels
    )
    return Hello(stream_id, boot_id, period_ns(rate_hz), spec.name, serial, channels)


def counts_from_si(
    values: NDArray[np.floating], *, hello: Hello, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.int16]:
    """Quantise as the sensor would.

    Parameters
    ----------
    values : (n, n_channels)
        SI units.
    hello
        Gives scale and range; values beyond the range are clipped to it.
    valid : (n, n_channels) bool
        Where False, or where the value is no number, the count is the marker of an invalid sample.

    Returns
    -------
    counts : (n, n_channels) int16

    Raises
    ------
    SignalError
        The shape does not fit the channels.
    """
    if (
        values.ndim != 2
        or values.shape[1] != len(hello.channels)
        or (valid is not None and valid.shape != values.shape)
    ):
        raise SignalError(f"{hello.sensor}: values and valid must be (n, {len(hello.channels)}), got {values.shape}")
    usable = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    limit = hello.saturation_counts
    counts = np.rint(np.where(usable, values, 0) / hello.scales.astype(np.float64))
    return np.where(usable, np.clip(counts, -limit, limit), INVALID_COUNT).astype(np.int16)


class EmulatedImu:
    """One device, one stream.

    Parameters
    ----------
    hello
        What it is; gives rate and boot id.
    counts : (n, n_channels) int16, or blocks of such
        What it measures; the device falls silent when they run out.
    packet_samples
        Samples per packet, 1 to 255.
    faults
        Loss on the way; ``FaultyWire`` adds corruption.
    seed
        Of the faults.
    skew_ppm
        How much faster than true time its clock runs, and with it its sampling.
    start_ns
        Its clock when it was switched on.
    battery_percent
        At the start; falls by one percent in ten minutes.

    Attributes
    ----------
    faults
        As given; may be set to others at any time.
    n_sent
        Samples in packets returned by ``advance``, copies included.
    n_lost
        Samples in packets lost on the way.
    n_dropped
        Samples dropped by the device, as told by ``drop``.
    """

    def __init__(
        self,
        hello: Hello,
        counts: NDArray[np.int16] | Iterable[NDArray[np.int16]],
        *,
        packet_samples: int = 10,
        faults: Faults | None = None,
        seed: int = 0,
        skew_ppm: float = 0.0,
        start_ns: int = 0,
        battery_percent: int = 100,
    ) -> None:
        if not 1 <= packet_samples <= 255:
            raise ConfigError(f"packet_samples must be 1 to 255, got {packet_samples}")
        if start_ns < 0 or abs(skew_ppm) > 10_000:
            raise ConfigError(f"start_ns must not be negative and skew_ppm within 1 %, got {start_ns}, {skew_ppm}")
        self.hello = hello
        self.faults = Faults() if faults is None else faults
        self.seed = seed
        self.n_sent = self.n_lost = self.n_dropped = 0
        self._packet_samples = packet_samples
        self._rng = np.random.default_rng(seed)
        self._bad_channel = False
        self._skew = skew_ppm * 1e-6
        self._start_ns = start_ns
        self._battery_percent = battery_percent
        self._blocks: Iterator[NDArray[np.int16]] = iter([counts] if isinstance(counts, np.ndarray) else counts)
        self._held = np.empty((0, len(hello.channels)), np.int16)
        self._index = 0
        self._now_ns = 0  # device clock since power on
        self._next_hello_ns = 0
        self._next_status_ns = 0
        self._overflowed = False
        self._overtaken: tuple[bytes, int] | None = None
        self._replies: deque[bytes] = deque(maxlen=_MAX_REPLIES)
        self._pending_sync: deque[tuple[TimeSync, int]] = deque(maxlen=_MAX_REPLIES)
        self._packet = self._measure()

    @property
    def finished(self) -> bool:
        """Whether everything measured has been sent."""
        return self._packet is None

    @property
    def n_made(self) -> int:
        """Samples measured and packed so far, whatever became of them: the index of the next one."""
        return self._index

    @property
    def next_due_ns(self) -> int | None:
        """True time since power on at which something is due, None when finished."""
        if self._packet is None:
            return None
        due_ns = min(self._next_hello_ns, self._next_status_ns, self._packet_due_ns())
        return max(0, int(np.ceil(due_ns / (1 + self._skew))))

    def receive_data(self, payload: bytes, *, elapsed_ns: int | None = None) -> None:
        """Take a packet from the host; the answer comes with the next ``advance``.

        Parameters
        ----------
        payload
            One payload; what is none, or for another stream, is ignored, as a device would.
        elapsed_ns
            True time since power on; that of the last ``advance`` when not given.
        """
        try:
            packet = parse_packet(payload)
        except ProtocolError:
            return
        if packet.stream_id not in (self.hello.stream_id, ALL_STREAMS):
            return
        if isinstance(packet, HelloRequest):
            self._replies.append(self.hello.to_bytes())
        elif isinstance(packet, TimeSync) and not packet.is_response:
            now_ns = self._now_ns if elapsed_ns is None else max(self._now_ns, self._device_ns(elapsed_ns))
            self._pending_sync.append((packet, (self._start_ns + now_ns) // NS_PER_US))

    def advance(self, elapsed_ns: int) -> list[bytes]:
        """Let time pass.

        Parameters
        ----------
        elapsed_ns
            True time since power on, not falling.

        Returns
        -------
        payloads
            What arrives of all that was due, in order.
        """
        self._now_ns = max(self._now_ns, self._device_ns(elapsed_ns))
        due = list(self._replies)
        self._replies.clear()
        t3_us = (self._start_ns + self._now_ns) // NS_PER_US
        for request, t2_us in self._pending_sync:
            due.append(
                TimeSync(
                    self.hello.stream_id, request.sequence, request.t1_us, t2_us, t3_us, is_response=True
                ).to_bytes()
            )
        self._pending_sync.clear()
        arrived = [payload for reply in due for payload in self._on_the_way(reply, 0)]
        while self._packet is not None:
            packet_due_ns = self._packet_due_ns()
            if min(self._next_hello_ns, self._next_status_ns, packet_due_ns) > self._now_ns:
                break
            n = 0
            if self._next_hello_ns <= packet_due_ns:
                payload = self.hello.to_bytes()
                self._next_hello_ns += _HELLO_EVERY_NS
            elif self._next_status_ns <= packet_due_ns:
                payload = self._status(self._next_status_ns).to_bytes()
                self._next_status_ns += _STATUS_EVERY_NS
            else:
                n = len(self._packet)
                payload = self._samples(self._packet).to_bytes()
                self._index += n
                self._packet = self._measure()
            arrived += self._on_the_way(payload, n)
        if self._packet is None and self._overtaken is not None:
            payload, n = self._overtaken
            self._overtaken = None
            self.n_sent += n
            arrived.append(payload)
        return arrived

    def drop(self, payload: bytes) -> None:
        """Note that a payload returned by ``advance`` found no room and was thrown away by the device."""
        packet = parse_packet(payload)
        if isinstance(packet, Samples):
            self.n_sent -= packet.count
            self.n_dropped += packet.count
            self._overflowed = True

    def _device_ns(self, elapsed_ns: int) -> int:
        return elapsed_ns + round(elapsed_ns * self._skew)

    def _packet_due_ns(self) -> int:
        n = 0 if self._packet is None else len(self._packet)
        return (self._index + n - 1) * self.hello.interval_ns

    def _measure(self) -> NDArray[np.int16] | None:
        """Take the counts of the next packet, None at the end."""
        while len(self._held) < self._packet_samples:
            block = next(self._blocks, None)
            if block is None:
                break
            if block.dtype != np.int16 or block.ndim != 2 or block.shape[1] != len(self.hello.channels):
                raise SignalError(
                    f"{self.hello.sensor}: counts must be (n, {len(self.hello.channels)}) int16, "
                    f"got {block.shape} {block.dtype}; see counts_from_si"
                )
            self._held = np.concatenate([self._held, block]) if len(self._held) else block
        packet, self._held = self._held[: self._packet_samples], self._held[self._packet_samples :]
        return packet if len(packet) else None

    def _samples(self, counts: NDArray[np.int16]) -> Samples:
        flags = SampleFlags.OVERFLOWED if self._overflowed else SampleFlags.NONE
        self._overflowed = False
        clipped = np.abs(counts) >= self.hello.saturation_counts
        for at in np.flatnonzero(clipped.any(axis=0)).tolist():
            flags |= _CLIP_FLAG.get(self.hello.channels[at].quantity, SampleFlags.NONE)
        return Samples.from_counts(
            counts,
            stream_id=self.hello.stream_id,
            sequence=self._index % (1 << 16),
            t_us=(self._start_ns + self._index * self.hello.interval_ns) // NS_PER_US,
            interval_ns=self.hello.interval_ns,
            flags=flags,
        )

    def _status(self, at_ns: int) -> Status:
        return Status(
            self.hello.stream_id,
            self.hello.boot_id,
            battery_percent=max(0, self._battery_percent - at_ns // (600 * NS_PER_S)),
            charging=False,
            temperature_c=30.0,
            dropped=self.n_dropped,
            uptime_us=at_ns // NS_PER_US,
        )

    def _on_the_way(self, payload: bytes, n: int) -> list[bytes]:
        """Return what arrives now when a payload with ``n`` samples is sent."""
        if self._is_lost():
            self.n_lost += n
            return []
        faults, coming = self.faults, [(payload, n)]
        if faults.duplication and self._rng.random() < faults.duplication:
            coming *= 2
        if self._overtaken is not None:
            coming.append(self._overtaken)
            self._overtaken = None
        elif faults.reordering and self._rng.random() < faults.reordering:
            self._overtaken = coming.pop()
        self.n_sent += sum(n for _, n in coming)
        return [payload for payload, _ in coming]

    def _is_lost(self) -> bool:
        self._bad_channel = self.faults.becomes_bad(self._bad_channel, self._rng.random())
        return self._bad_channel


class FaultyWire:
    """A serial line that damages bytes.

    Attributes
    ----------
    faults
        As given; may be set to others at any time.
    n_damaged
        Bytes damaged so far.
    """

    def __init__(self, *, faults: Faults | None = None, seed: int = 0) -> None:
        self.faults = Faults() if faults is None else faults
        self.n_damaged = 0
        self._rng = np.random.default_rng((seed, 1))

    def carry(self, payload: bytes) -> bytes:
        """Frame a payload and return what arrives of it."""
        frame = encode_frame(payload)
        corruption = self.faults.corruption
        n = int(self._rng.binomial(len(frame), corruption)) if corruption else 0
        if not n:
            return frame
        self.n_damaged += n
        damaged = bytearray(frame)
        for at in np.sort(self._rng.choice(len(frame), size=n, replace=False))[::-1].tolist():
            kind = self._rng.integers(3)
            if kind == 0:
                damaged[at] ^= 1 << int(self._rng.integers(8))
            elif kind == 1:
                del damaged[at]
            else:
                damaged.insert(at, damaged[at])
        return bytes(damaged)
