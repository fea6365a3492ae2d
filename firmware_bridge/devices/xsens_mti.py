"""Xsens (Movella) MTi: Xbus messages with MTData2, over serial or USB.

A message is ``FA FF MID LEN [length u16 when LEN is FF] payload checksum``, big-endian; all bytes behind FA add up to
0 modulo 256. MTData2 holds items ``{XDI u16, size u8, data}``, of which the low nibble of XDI says the precision
(float32, fixed 12.20, fixed 16.32 or float64) and, for orientations alone, the frame. Units are SI as sent.

* Time is SampleTimeFine, ticks of 0.1 ms that wrap after 119 h. Loss is told from it, because the 16-bit packet
  counter counts the sensor's own 400 Hz in some recordings and sent messages in others; the counter is used only
  where there is no SampleTimeFine. A device that sends neither is timed by counting its samples.
* Ranges differ between models (50 to 200 m/s^2), so saturation is what the status word says of each axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Advertisement, Command, DeviceInfo, SessionConfig
from kinedge.firmware_bridge.devices._common import check_options, nearest, require_transport
from kinedge.firmware_bridge.devices._stamped import StampedSession
from kinedge.firmware_bridge.devices._timing import CountClock, Unwrapper

__all__ = ["MAX_PAYLOAD", "Message", "XsensMtiDriver", "XsensMtiSession", "encode_message", "parse_items", "split"]

MAX_PAYLOAD: Final = 512
"""Longer messages are taken for a false start: waiting for their end would stall the stream."""

_PREAMBLE: Final = b"\xfa\xff"
_REQ_DID, _DEVICE_ID, _INIT_RESULTS = 0x00, 0x01, 0x03
_GO_TO_MEASUREMENT, _REQ_FIRMWARE, _FIRMWARE = 0x10, 0x12, 0x13
_GO_TO_CONFIG, _MTDATA2, _ERROR = 0x30, 0x36, 0x42
_SET_OUTPUT, _SET_OUTPUT_ACK = 0xC0, 0xC1
_COUNTER, _TIME_FINE, _ACC, _GYR, _STATUS = 0x1020, 0x1060, 0x4020, 0x8020, 0xE020
_EVERY_MESSAGE: Final = 0xFFFF
_TICK_NS: Final = 100_000
_RATES_HZ: Final = (400.0, 200.0, 100.0, 80.0, 50.0, 40.0, 25.0, 20.0, 16.0, 10.0, 8.0, 5.0, 4.0, 2.0, 1.0)
_ITEM_BYTES: Final = {0: 4, 1: 4, 2: 6, 3: 8}
_CLIP_ACC_X: Final = 8
_CLIP_ANY: Final = 1 << 19
_PATIENCE: Final = 200  # messages without samples, sent before the configuration was taken
_IMPOSSIBLE: Final = np.array([4000.0] * 3 + [200.0] * 3)  # of no device; m/s^2 and rad/s


@dataclass(frozen=True)
class Message:
    """One Xbus message."""

    mid: int
    payload: bytes


def encode_message(mid: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    length = bytes([len(payload)]) if len(payload) < 0xFF else b"\xff" + len(payload).to_bytes(2, "big")
    body = bytes([0xFF, mid]) + length + payload
    return b"\xfa" + body + bytes([-sum(body) & 0xFF])


def split(data: bytes) -> tuple[list[Message], int, int]:
    """Cut bytes into messages.

    Returns
    -------
    messages
        With the right checksum, in order.
    consumed
        Bytes not needed any more; what follows is the start of a message.
    skipped
        How many of them belong to none.
    """
    messages: list[Message] = []
    at, skipped, n = 0, 0, len(data)
    while True:
        start = data.find(_PREAMBLE, at)
        if start < 0:
            start = n - 1 if data.endswith(b"\xfa") and n > at else n
            return messages, start, skipped + start - at
        skipped += start - at
        at = start
        if n - at < 4:
            return messages, at, skipped
        header, length = 4, data[at + 3]
        if length == 0xFF:
            if n - at < 6:
                return messages, at, skipped
            header, length = 6, int.from_bytes(data[at + 4 : at + 6], "big")
        end = at + header + length + 1
        if length <= MAX_PAYLOAD and end > n:
            return messages, at, skipped
        if length <= MAX_PAYLOAD and sum(data[at + 1 : end]) & 0xFF == 0:
            messages.append(Message(data[at + 2], data[at + header : end - 1]))
            at = end
        else:
            at += 1
            skipped += 1


def parse_items(payload: bytes) -> dict[int, tuple[int, int, int]]:
    """Return where the items of an MTData2 payload are.

    Returns
    -------
    items
        XDI without its low nibble -> (low nibble, offset of the data, size).

    Raises
    ------
    ProtocolError
        The last item goes beyond the payload.
    """
    items: dict[int, tuple[int, int, int]] = {}
    at, n = 0, len(payload)
    while at < n:
        end = at + 3 + payload[at + 2] if at + 3 <= n else n + 1
        if end > n:
            raise ProtocolError(f"MTData2: the item at byte {at} goes beyond the {n} bytes of the payload")
        xdi = payload[at] << 8 | payload[at + 1]
        items[xdi & 0xFFF0] = (xdi & 0xF, at + 3, end - at - 3)
        at = end
    return items


def _columns(rows: NDArray[np.uint8], item: tuple[int, int, int]) -> NDArray[np.float64] | None:
    """Return the (n, 3) numbers of an item, None where its size does not fit its precision."""
    precision, offset, size = item[0] & 3, item[1], item[2]
    if size != 3 * _ITEM_BYTES[precision]:
        return None
    raw = np.ascontiguousarray(rows[:, offset : offset + size])
    if precision == 0:
        return raw.view(">f4").astype(np.float64)
    if precision == 1:
        return raw.view(">i4") / float(1 << 20)
    if precision == 3:
        return raw.view(">f8").astype(np.float64)
    # 16.32 comes as its 32 bits of fraction, then its 16 bits of integer
    parts = raw.reshape(len(rows), 3, 6)
    fraction = np.ascontiguousarray(parts[:, :, :4]).view(">u4")[:, :, 0] / float(1 << 32)
    whole: NDArray[np.float64] = np.ascontiguousarray(parts[:, :, 4:]).view(">i2")[:, :, 0] + fraction
    return whole


def _unsigned(rows: NDArray[np.uint8], item: tuple[int, int, int] | None, *, size: int) -> NDArray[np.int64] | None:
    if item is None or item[2] != size:
        return None
    raw = np.ascontiguousarray(rows[:, item[1] : item[1] + size])
    return raw.view(f">u{size}")[:, 0].astype(np.int64)


class _Layout:
    """Where the items of payloads like this one are."""

    def __init__(self, payload: bytes) -> None:
        self.items = parse_items(payload)
        self._n_bytes = len(payload)
        self._heads = [at for _, offset, _ in self.items.values() for at in range(offset - 3, offset)]
        self._head = np.frombuffer(payload, np.uint8)[self._heads]

    def fits(self, rows: NDArray[np.uint8]) -> int:
        """Return how many payloads, from the first on, are laid out like this."""
        if rows.shape[1] != self._n_bytes:
            return 0
        alike = (rows[:, self._heads] == self._head).all(axis=1)
        return len(rows) if alike.all() else int(np.argmin(alike))


class XsensMtiSession(StampedSession):
    """One MTi; see the module for what is assumed."""

    def __init__(self, config: SessionConfig) -> None:
        rate_hz = nearest(_RATES_HZ, config.rate_hz)
        self._configured_hz = rate_hz
        super().__init__(config, rate_hz=rate_hz)
        self._buffer = b""
        self._time = Unwrapper(bits=32)
        self._count = Unwrapper(bits=16)
        self._counted = CountClock(interval_ns=self.interval_ns)
        self._timed_by = ""
        self._layout: _Layout | None = None
        self._serial = self._firmware = ""
        self._without = 0

    def start_commands(self) -> Sequence[Command]:
        """Return: to configuration, who are you, what to send, to measurement."""
        output = b"".join(
            xdi.to_bytes(2, "big") + rate.to_bytes(2, "big")
            for xdi, rate in (
                (_COUNTER, _EVERY_MESSAGE),
                (_TIME_FINE, _EVERY_MESSAGE),
                (_ACC, round(self._configured_hz)),
                (_GYR, round(self._configured_hz)),
                (_STATUS, _EVERY_MESSAGE),
            )
        )
        return (
            _command(_GO_TO_CONFIG, pause_s=0.1),
            _command(_REQ_DID, pause_s=0.02),
            _command(_REQ_FIRMWARE, pause_s=0.02),
            _command(_SET_OUTPUT, output, pause_s=0.1),
            _command(_GO_TO_MEASUREMENT),
        )

    def stop_commands(self) -> Sequence[Command]:
        """Return: to configuration, where the device is silent."""
        return (_command(_GO_TO_CONFIG),)

    def link_reopened(self) -> None:
        """Forget half a message, and configure anew."""
        self._buffer = b""
        super().link_reopened()

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take bytes in any chunking.

        Raises
        ------
        ProtocolError
            The device answers that it cannot do what it was told; it goes on with what it did before.
        """
        messages, consumed, skipped = split(self._buffer + data)
        self._buffer = (self._buffer + data)[consumed:]
        self.counters["packets"] += len(messages)
        if skipped:
            self.reject(f"{skipped} bytes belong to no message")
            self.counters["bytes_skipped"] += skipped
        refusal: int | None = None
        run: list[bytes] = []
        for message in messages:
            if message.mid == _MTDATA2:
                if run and len(run[0]) != len(message.payload):
                    self._decode(run, host_time_ns)
                    run = []
                run.append(message.payload)
                continue
            self._decode(run, host_time_ns)
            run = []
            if message.mid == _ERROR and message.payload:
                refusal = message.payload[0]
            else:
                self._answered(message)
        self._decode(run, host_time_ns)
        if refusal is not None:
            raise ProtocolError(
                f"{self.config.sensor}: the MTi answers with error 0x{refusal:02x}; check that it offers "
                f"acceleration and rate of turn at {self._configured_hz:g} Hz"
            )

    def _answered(self, message: Message) -> None:
        payload = message.payload
        if _tells_id(message):
            self._serial = _device_id(payload)
        elif message.mid == _FIRMWARE and len(payload) >= 3:
            self._firmware = f"{payload[0]}.{payload[1]}.{payload[2]}"
        elif message.mid == _SET_OUTPUT_ACK and len(payload) % 4 == 0:
            rates = {
                int.from_bytes(payload[i : i + 2], "big") & 0xFFF0: int.from_bytes(payload[i + 2 : i + 4], "big")
                for i in range(0, len(payload), 4)
            }
            acc_hz, gyr_hz = rates.get(_ACC, 0), rates.get(_GYR, 0)
            if not 1 <= acc_hz <= 2000 or acc_hz != gyr_hz:
                self.reject(f"acceleration at {acc_hz} Hz and rate of turn at {gyr_hz} Hz make no samples")
                return
            if acc_hz != self.rate_hz:
                self.set_rate(float(acc_hz))
                self._counted = CountClock(interval_ns=self.interval_ns)
            self.describe(DeviceInfo(self.spec, self.rate_hz, self._serial, self._firmware))

    def _decode(self, payloads: Sequence[bytes], host_time_ns: int | None) -> None:
        """Decode MTData2 payloads of one length; those laid out alike in one pass."""
        while payloads:
            rows = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), -1)
            layout = self._layout
            n = layout.fits(rows) if layout is not None else 0
            if layout is None or not n:
                try:
                    layout = self._layout = _Layout(payloads[0])
                except ProtocolError as error:
                    self.reject(str(error))
                    payloads = payloads[1:]
                    continue
                n = layout.fits(rows)
            self._decode_alike(rows[:n], layout.items, host_time_ns)
            payloads = payloads[n:]

    def _decode_alike(
        self, rows: NDArray[np.uint8], items: Mapping[int, tuple[int, int, int]], host_time_ns: int | None
    ) -> None:
        values = np.full((len(rows), 6), np.nan)
        for first, xdi in ((0, _ACC), (3, _GYR)):
            found = _columns(rows, items[xdi]) if xdi in items else None
            if found is not None:
                values[:, first : first + 3] = found
            elif xdi in items:
                self.reject(f"MTData2: item {xdi:04X} has {items[xdi][2]} bytes, which does not fit its precision")
        if _ACC not in items and _GYR not in items:
            before, self._without = self._without, self._without + len(rows)
            if before < _PATIENCE <= self._without:
                self.doubt("the MTi sends neither acceleration nor rate of turn; was its configuration refused?")
            return
        with np.errstate(invalid="ignore"):
            valid = np.abs(values) <= _IMPOSSIBLE
        saturated = np.zeros(values.shape, dtype=bool)
        status = _unsigned(rows, items.get(_STATUS), size=4)
        if status is not None:
            saturated = (status[:, None] >> np.arange(_CLIP_ACC_X, _CLIP_ACC_X + 6) & 1).astype(bool)
            of_mag = status >> (_CLIP_ACC_X + 6) & 7
            hidden = ((status & _CLIP_ANY) != 0) & ~saturated.any(axis=1) & (of_mag == 0)
            saturated[hidden] = True  # something clipped, and no axis says that it did
        self.deliver_stamped(
            self._stamps(rows, items, host_time_ns), values, valid, saturated, host_time_ns=host_time_ns
        )

    def _stamps(
        self, rows: NDArray[np.uint8], items: Mapping[int, tuple[int, int, int]], host_time_ns: int | None
    ) -> list[int]:
        ticks = _unsigned(rows, items.get(_TIME_FINE), size=4)
        counts = _unsigned(rows, items.get(_COUNTER), size=2)
        by = "time" if ticks is not None else "counter" if counts is not None else "samples"
        if self._timed_by and by != self._timed_by:
            self.restart_clock()
        self._timed_by = by
        if ticks is not None:
            return [self._time.unwrap(tick) * _TICK_NS for tick in ticks.tolist()]
        if counts is not None:
            return [self._count.unwrap(count) * self.interval_ns for count in counts.tolist()]
        times, _ = self._counted.place(len(rows), host_time_ns=host_time_ns)
        return [int(time) for time in times]


class XsensMtiDriver:
    """The MTi family (1-, 10-, 100- and 600-series) in its Xbus protocol."""

    name = "xsens_mti"
    transports = frozenset({"serial"})
    bauds = (115_200, 921_600, 460_800, 230_400, 57_600, 2_000_000)

    def recognise(self, advertisement: Advertisement) -> bool:
        """No radio."""
        return False

    def recognise_serial(self, data: bytes) -> bool:
        """Whether there is a message with the right checksum of a kind that an MTi sends."""
        known = {_MTDATA2, _DEVICE_ID, _INIT_RESULTS, _GO_TO_CONFIG + 1, _GO_TO_MEASUREMENT + 1, _ERROR, 0x3E}
        return any(message.mid in known for message in split(data)[0])

    def serial_probe(self) -> bytes:
        """Ask for the device id: answered in configuration, needless in measurement, where the device speaks."""
        return encode_message(_REQ_DID)

    def identity_commands(self) -> Sequence[Command]:
        """Ask for the device id, which is told in configuration alone: the device is silent until a session starts."""
        return (_command(_GO_TO_CONFIG, pause_s=0.1), _command(_REQ_DID))

    def identities_in(self, data: bytes) -> Sequence[str]:
        """Return the device ids told, in hexadecimal digits as on the label."""
        return [_device_id(message.payload) for message in split(data)[0] if _tells_id(message)]

    def open(self, config: SessionConfig, *, transport: str) -> XsensMtiSession:
        """Start a session; ranges are those of the model and cannot be asked for."""
        require_transport(self.name, transport, self.transports)
        check_options(self.name, config.options, {})
        return XsensMtiSession(config)


def _tells_id(message: Message) -> bool:
    return message.mid in (_DEVICE_ID, _INIT_RESULTS) and len(message.payload) in (4, 8)


def _device_id(payload: bytes) -> str:
    return payload.hex().upper()


def _command(mid: int, payload: bytes = b"", *, pause_s: float = 0.0) -> Command:
    return Command(SERIAL_CHANNEL, encode_message(mid, payload), pause_s=pause_s)
