"""The firmware library, compiled with every warning and sanitizer, and Python: each understands the other."""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge import emulator, framing, packets
from kinedge.firmware_bridge.decoder import HelloReceived, TimeSyncReceived, WireDecoder
from kinedge.firmware_bridge.devices import kinedge_imu
from kinedge.firmware_bridge.firmware_header import FIRMWARE_FOLDER, HEADER, SOURCES, read_constants
from kinedge.firmware_bridge.framing import FrameSplitter, encode_frame
from kinedge.firmware_bridge.links_serial import LinkData, LinkOpened, SerialLink
from kinedge.firmware_bridge.packets import (
    ALL_STREAMS,
    Channel,
    Hello,
    HelloRequest,
    PacketType,
    SampleFlags,
    Samples,
    Status,
    TimeSync,
    parse_packet,
)
from kinedge.signals import IMU6, ImuChunk, Quantity

C = read_constants()
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZED = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
TIMEOUT_S = 20.0
EXAMPLES = settings(deadline=None, max_examples=100)
CHANNEL_NAMES = [f"{q}_{a}" for q in ("acc", "gyr", "mag") for a in "xyz"]


def compile_c(out: Path, *sources: Path, flags: Sequence[str] = ()) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here: install gcc to check the firmware library")
    probe = subprocess.run(
        [compiler, *SANITIZED, "-x", "c", "-", "-o", str(out.with_suffix(".probe"))],
        input=b"int main(void) { return 0; }",
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("this C compiler has no address and undefined-behaviour sanitizers")
    options = [*STRICT, *SANITIZED, *flags, f"-I{FIRMWARE_FOLDER}"]
    command = [compiler, *options, *map(str, sources), "-lm", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


class Firmware:
    """The C library behind a pipe."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, operation: str, body: bytes, *, size: int = 5000) -> tuple[int, bytes]:
        assert self.process.stdin is not None and self.process.stdout is not None
        body = struct.pack("<H", size) + body
        self.process.stdin.write(struct.pack("<cI", operation.encode(), len(body)) + body)
        self.process.stdin.flush()
        head = self.process.stdout.read(8)
        assert len(head) == 8, "the C program ended: see what its sanitizer printed"
        result, n = struct.unpack("<iI", head)
        return result, self.process.stdout.read(n)

    def encoded(self, operation: str, body: bytes, *, size: int = 5000) -> bytes:
        result, data = self.ask(operation, body, size=size)
        assert result == len(data) > 0
        return data

    def decode(self, line: bytes, *, size: int) -> tuple[list[bytes | int], int, int]:
        """Return payloads and error codes in order, then the counts of good and bad frames."""
        n_results, data = self.ask("d", line, size=size)
        found: list[bytes | int] = []
        for _ in range(n_results):
            (result,) = struct.unpack_from("<i", data)
            n = max(result, 0)
            found.append(data[4 : 4 + n] if result > 0 else result)
            data = data[4 + n :]
        good, bad = struct.unpack("<II", data)
        return found, good, bad


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firmware]:
    folder = tmp_path_factory.mktemp("firmware")
    program = compile_c(folder / "filter", Path(__file__).with_name("firmware_filter.c"), SOURCES[0])
    firmware = Firmware(program)
    yield firmware
    firmware.process.communicate(timeout=TIMEOUT_S)
    assert firmware.process.returncode == 0, "the sanitizers found leaks or worse"


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def hello_fields(hello: Hello, *, sensor: bytes | None = None, serial: bytes | None = None) -> bytes:
    channels = b"".join(
        struct.pack("<Bff", c.quantity << 4 | "xyz".index(c.name[-1]), c.scale, c.full_scale) for c in hello.channels
    )
    return b"".join(
        [
            struct.pack("<BII", hello.stream_id, hello.boot_id, hello.interval_ns),
            text(hello.sensor.encode() if sensor is None else sensor),
            text(hello.serial.encode() if serial is None else serial),
            bytes([len(hello.channels)]),
            channels,
        ]
    )


def samples_fields(s: Samples, *, n_channels: int) -> bytes:
    head = struct.pack("<BHQIBBB", s.stream_id, s.sequence, s.t_us, s.interval_ns, s.count, n_channels, s.flags)
    return head + s.body


def status_fields(s: Status) -> bytes:
    battery = 255 if s.battery_percent is None else s.battery_percent
    temperature = -32768 if s.temperature_c is None else round(s.temperature_c * 100)
    return struct.pack("<BIBBhIQ", s.stream_id, s.boot_id, battery, s.charging, temperature, s.dropped, s.uptime_us)


u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
stream_ids = st.integers(0, 254)
scales = st.floats(2**-39, 2**39, width=32)
hellos = st.builds(
    Hello,
    stream_id=stream_ids,
    boot_id=u32,
    interval_ns=st.integers(100_000, 1_000_000_000),
    sensor=st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True),
    serial=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64),
    channels=st.lists(
        st.builds(Channel, st.sampled_from(CHANNEL_NAMES), scales, scales),
        min_size=1,
        max_size=9,
        unique_by=lambda c: c.name,
    ).map(tuple),
)


@st.composite
def sample_packets(draw: st.DrawFn) -> tuple[Samples, int]:
    n_channels, count = draw(st.integers(1, 9)), draw(st.integers(1, 255))
    body = np.random.default_rng(draw(u32)).integers(-32768, 32768, (count, n_channels)).astype(np.int16)
    packet = Samples.from_counts(
        body,
        stream_id=draw(stream_ids),
        sequence=draw(u16),
        t_us=draw(u64),
        interval_ns=draw(u32),
        flags=SampleFlags(draw(st.integers(0, 7))),
    )
    return packet, n_channels


statuses = st.builds(
    Status,
    stream_id=stream_ids,
    boot_id=u32,
    battery_percent=st.none() | st.integers(0, 100),
    charging=st.booleans(),
    temperature_c=st.none() | st.integers(-32767, 32767).map(lambda centi: centi / 100),
    dropped=u32,
    uptime_us=u64,
)


def test_every_constant_of_the_header_is_that_of_python() -> None:
    python = {
        "VERSION": packets.VERSION,
        **{kind.name: kind.value for kind in PacketType},
        "ALL_STREAMS": packets.ALL_STREAMS,
        "INVALID_COUNT": packets.INVALID_COUNT,
        "BATTERY_UNKNOWN": packets.BATTERY_UNKNOWN,
        "TEMPERATURE_UNKNOWN": packets._TEMPERATURE_UNKNOWN,
        **{f"FLAG_{flag.name}": flag.value for flag in SampleFlags if flag},
        "STATUS_CHARGING": packets._CHARGING,
        **{quantity.name: quantity.value for quantity in Quantity},
        **{axis.upper(): i for i, axis in enumerate(packets._AXES)},
        "MAX_CHANNELS": len(CHANNEL_NAMES),
        "MAX_SAMPLES": 255,
        "MAX_SENSOR_BYTES": 31,
        "MAX_SERIAL_BYTES": packets._MAX_SERIAL_BYTES,
        "MIN_INTERVAL_NS": packets._MIN_INTERVAL_NS,
        "MAX_INTERVAL_NS": packets._MAX_INTERVAL_NS,
        "HELLO_EVERY_US": emulator._HELLO_EVERY_NS // 1000,
        "STATUS_EVERY_US": emulator._STATUS_EVERY_NS // 1000,
        "SAMPLES_HEADER_SIZE": packets.SAMPLES_HEADER.size,
        "TIME_SYNC_SIZE": packets._TIME_SYNC.size,
        "STATUS_SIZE": packets._STATUS.size,
        "HELLO_REQUEST_SIZE": len(HelloRequest().to_bytes()),
        "HELLO_HEADER_SIZE": packets._HELLO_HEADER.size,
        "HELLO_CHANNEL_SIZE": packets._HELLO_CHANNEL.size,
        "CRC_SIZE": framing._MIN_DECODED - 2,
        "COBS_BLOCK": framing._BLOCK,
        "CRC_START": framing._CRC_START,
        "MAX_PAYLOAD": packets.MAX_PAYLOAD,
        "REQUEST_BUFFER_SIZE": packets._TIME_SYNC.size + framing._MIN_DECODED - 2,
    }
    assert {name: value for name, value in C.items() if not name.startswith("ERROR_")} == python
    assert all(packets._UNIT_CODE[quantity] == quantity for quantity in Quantity)  # as the C encoder takes for granted


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("#define KINEDGE_A 1 + 1", "one decimal"),
        ("#define KINEDGE_A", "one decimal"),
        ("#define KINEDGE_A 010", "one decimal"),
        ("#define KINEDGE_A 1\n#define KINEDGE_A 2", "twice"),
        ("/* \u00b5 */", "cannot be read"),
    ],
)
def test_a_header_that_cannot_be_read_for_sure_is_refused(tmp_path: Path, line: str, says: str) -> None:
    header = tmp_path / "x.h"
    header.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        read_constants(header)


def test_the_header_is_read_past_comments_and_macros_with_parameters(tmp_path: Path) -> None:
    header = tmp_path / "x.h"
    header.write_text(
        "#define KINEDGE_WIRE_H\n/* #define KINEDGE_OLD 1 */\n  #  define KINEDGE_A 0x1Fu /* a\n comment */\n"
        "#define KINEDGE_B (-3)\n#define KINEDGE_SIZE(n) \\\n ((n) + 2)\n#define OTHER 5\n"
    )
    assert read_constants(header) == {"A": 31, "B": -3}


def test_the_library_needs_nothing_of_libc_but_memcpy(tmp_path: Path) -> None:
    compiler, nm = shutil.which("gcc"), shutil.which("nm")
    if compiler is None or nm is None:
        pytest.skip("no gcc and nm here")
    made = tmp_path / "wire.o"
    flags = ["-Os", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-Wconversion", "-Wcast-align=strict"]
    subprocess.run([compiler, *STRICT, *flags, "-c", SOURCES[0], "-o", made], check=True, timeout=60)
    wanted = subprocess.run([nm, "-u", made], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert set(wanted) <= {"U", "memcpy", "memset"}
    data = subprocess.run([nm, made], check=True, capture_output=True, text=True, timeout=60).stdout
    assert not [line for line in data.splitlines() if line.split()[-2] in "bBdDC"], "it keeps state of its own"


@EXAMPLES
@given(hello=hellos)
def test_hello_of_the_firmware_is_that_of_python(firmware: Firmware, hello: Hello) -> None:
    payload = firmware.encoded("h", hello_fields(hello))
    assert payload == hello.to_bytes()
    assert parse_packet(payload) == hello


@EXAMPLES
@given(drawn=sample_packets())
def test_samples_of_the_firmware_are_those_of_python(firmware: Firmware, drawn: tuple[Samples, int]) -> None:
    packet, n_channels = drawn
    payload = firmware.encoded("s", samples_fields(packet, n_channels=n_channels))
    assert payload == packet.to_bytes()
    assert parse_packet(payload) == packet


@EXAMPLES
@given(status=statuses)
def test_status_of_the_firmware_is_that_of_python(firmware: Firmware, status: Status) -> None:
    payload = firmware.encoded("t", status_fields(status))
    assert payload == status.to_bytes()
    assert parse_packet(payload) == status


@EXAMPLES
@given(stream_id=stream_ids, asked=st.integers(0, 255), sequence=u16, times=st.tuples(u64, u64, u64))
def test_time_request_of_python_is_answered_by_the_firmware(
    firmware: Firmware, stream_id: int, asked: int, sequence: int, times: tuple[int, int, int]
) -> None:
    t1_us, t2_us, t3_us = times[0], min(times[1:]), max(times[1:])
    body = struct.pack("<BQQ", stream_id, t2_us, t3_us) + TimeSync(asked, sequence, t1_us).to_bytes()
    kind, data = firmware.ask("r", body)
    assert kind == PacketType.TIME_SYNC
    assert struct.unpack_from("<BHQB", data) == (asked, sequence, t1_us, asked in (stream_id, ALL_STREAMS))
    answer = TimeSync(stream_id, sequence, t1_us, t2_us, t3_us, is_response=True)
    assert data[12:] == answer.to_bytes()
    assert parse_packet(data[12:]) == answer


@pytest.mark.parametrize(("asked", "meant"), [(3, 1), (4, 0), (ALL_STREAMS, 1)])
def test_hello_request_of_python_is_understood_by_the_firmware(firmware: Firmware, asked: int, meant: int) -> None:
    kind, data = firmware.ask("r", struct.pack("<BQQ", 3, 0, 0) + HelloRequest(asked).to_bytes())
    assert kind == PacketType.HELLO_REQUEST
    assert struct.unpack("<BHQB", data) == (asked, 0, 0, meant)


@EXAMPLES
@given(
    payload=st.one_of(
        st.binary(max_size=40),
        st.builds(lambda head, rest: head + rest, st.sampled_from([b"\x13\1\0", b"\x15"]), st.binary(max_size=30)),
        st.builds(lambda s: TimeSync(1, s, 5, 6, 7, is_response=bool(s % 2)).to_bytes(), u16),
    )
)
def test_the_firmware_takes_for_a_request_what_python_does(firmware: Firmware, payload: bytes) -> None:
    kind, data = firmware.ask("r", struct.pack("<BQQ", 1, 0, 0) + payload)
    try:
        packet = parse_packet(payload)
    except ProtocolError:
        packet = None
    if isinstance(packet, HelloRequest):
        assert (kind, data[0]) == (PacketType.HELLO_REQUEST, packet.stream_id)
    elif isinstance(packet, TimeSync) and not packet.is_response:
        assert kind == PacketType.TIME_SYNC
        assert struct.unpack_from("<BHQ", data) == (packet.stream_id, packet.sequence, packet.t1_us)
    else:
        assert (kind, data) == (C["ERROR_PACKET"], b"")


RUNS = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"\0", b"\1" * 251, b"\2" * 252, b"\3" * 254, b"\4" * 508])),
    max_size=6,
).map(b"".join)


@EXAMPLES
@given(data=st.binary(max_size=300))
def test_crc_of_the_firmware_is_that_of_python(firmware: Firmware, data: bytes) -> None:
    whole = encode_frame(data)
    crc, _ = firmware.ask("c", data)
    assert framing.cobs_decode(whole[:-1])[-2:] == crc.to_bytes(2, "little")


@EXAMPLES
@given(payload=RUNS.filter(len))
def test_frame_of_the_firmware_is_that_of_python_and_needs_no_more_room_than_the_macro_says(
    firmware: Firmware, payload: bytes
) -> None:
    frame = encode_frame(payload)
    assert firmware.encoded("f", payload) == frame
    assert len(frame) <= len(payload) + 2 + (len(payload) + 2) // 254 + 2
    assert firmware.encoded("f", payload, size=len(frame)) == frame
    for size in {0, 1, len(frame) // 2, len(frame) - 2, len(frame) - 1}:
        assert firmware.ask("f", payload, size=size) == (C["ERROR_SPACE"], b"")


def test_encoders_stop_at_the_end_of_every_too_small_buffer(firmware: Firmware) -> None:
    hello = emulator.make_hello(Hello(1, 1, 10**7, "wrist_left", "SN", (Channel("acc_x", 1, 1),)).spec, rate_hz=50)
    samples = Samples.from_counts(np.ones((3, 2), np.int16), stream_id=1, sequence=0, t_us=0, interval_ns=1)
    cases = [
        ("h", hello_fields(hello), hello.to_bytes()),
        ("s", samples_fields(samples, n_channels=2), samples.to_bytes()),
        ("t", status_fields(Status(1, 1, 50, True, 20.0, 0, 0)), Status(1, 1, 50, True, 20.0, 0, 0).to_bytes()),
    ]
    for operation, body, whole in cases:
        assert firmware.encoded(operation, body, size=len(whole)) == whole
        for size in range(len(whole)):
            assert firmware.ask(operation, body, size=size) == (C["ERROR_SPACE"], b"")
    request = struct.pack("<BQQ", 1, 0, 0) + TimeSync(1, 0, 0).to_bytes()
    for size in range(C["TIME_SYNC_SIZE"]):
        assert firmware.ask("r", request, size=size)[0] == C["ERROR_SPACE"]


HELLO = Hello(3, 7, 10_000_000, "wrist_left", "SN", (Channel("acc_x", 0.5, 16384.0),))


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("h", hello_fields(HELLO, sensor=b"")),
        ("h", hello_fields(HELLO, sensor=b"Wrist")),
        ("h", hello_fields(HELLO, sensor=b"wrist left")),
        ("h", hello_fields(HELLO, sensor=b"a" * 32)),
        ("h", hello_fields(HELLO, sensor=b"a" * 250)),
        ("h", hello_fields(HELLO, serial=b"")),
        ("h", hello_fields(HELLO, serial=b"\x7f")),
        ("h", hello_fields(HELLO, serial=b"\xc3\xa9")),
        ("h", hello_fields(HELLO, serial=b"9" * 65)),
        ("h", b"\xff" + hello_fields(HELLO)[1:]),
        ("h", hello_fields(HELLO)[:5] + struct.pack("<I", 99_999) + hello_fields(HELLO)[9:]),
        ("h", hello_fields(HELLO)[:5] + struct.pack("<I", 1_000_000_001) + hello_fields(HELLO)[9:]),
        ("h", hello_fields(HELLO)[:-10] + b"\0"),
        ("h", hello_fields(HELLO)[:-9] + b"\x13" + hello_fields(HELLO)[-8:]),
        ("h", hello_fields(HELLO)[:-9] + b"\x40" + hello_fields(HELLO)[-8:]),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", float("nan"), 1)),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", 1, float("inf"))),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", 0, 1)),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", np.float32(1e-12), 1)),
        ("h", hello_fields(HELLO)[:-10] + b"\2" + 2 * hello_fields(HELLO)[-9:]),
        ("s", struct.pack("<BHQIBBB", 255, 0, 0, 1, 1, 1, 0) + bytes(2)),
        ("s", struct.pack("<BHQIBBB", 1, 0, 0, 1, 0, 1, 0)),
        ("s", struct.pack("<BHQIBBB", 1, 0, 0, 1, 1, 0, 0)),
        ("s", struct.pack("<BHQIBBB", 1, 0, 0, 1, 1, 10, 0) + bytes(20)),
        ("t", struct.pack("<BIBBhIQ", 255, 0, 0, 0, 0, 0, 0)),
        ("t", struct.pack("<BIBBhIQ", 1, 0, 101, 0, 0, 0, 0)),
        ("t", struct.pack("<BIBBhIQ", 1, 0, 0, 2, 0, 0, 0)),
        ("f", b""),
        ("f", bytes(C["MAX_PAYLOAD"] + 1)),
        ("r", struct.pack("<BQQ", 255, 0, 0) + TimeSync(1, 0, 0).to_bytes()),
        ("r", struct.pack("<BQQ", 1, 1, 0) + TimeSync(1, 0, 0).to_bytes()),
    ],
)
def test_the_firmware_refuses_what_no_host_would_take(firmware: Firmware, operation: str, body: bytes) -> None:
    assert firmware.ask(operation, body)[0] == C["ERROR_VALUE"]


requests = st.one_of(
    st.builds(HelloRequest, st.integers(0, 255)),
    st.builds(TimeSync, st.integers(0, 255), u16, u64),
).map(lambda packet: packet.to_bytes())


@EXAMPLES
@given(payloads=st.lists(requests, max_size=8))
def test_framed_requests_of_python_reach_the_firmware_whole(firmware: Firmware, payloads: list[bytes]) -> None:
    found, good, bad = firmware.decode(b"".join(map(encode_frame, payloads)), size=C["REQUEST_BUFFER_SIZE"])
    assert found == payloads
    assert (good, bad) == (len(payloads), 0)


@settings(deadline=None, max_examples=250)
@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=60),
            requests.map(encode_frame),
            RUNS.filter(lambda p: len(p) > 1).map(encode_frame),
            RUNS.map(lambda p: framing.cobs_encode(p) + b"\0"),
        ),
        max_size=6,
    ),
    flip=st.none() | st.tuples(st.integers(0, 2000), st.integers(1, 255)),
)
def test_any_bytes_give_the_firmware_the_same_payloads_as_python(
    firmware: Firmware, parts: list[bytes], flip: tuple[int, int] | None
) -> None:
    line = bytearray(b"".join(parts))
    if flip is not None and line:
        line[flip[0] % len(line)] ^= flip[1]
    splitter = FrameSplitter()
    expected = splitter.feed(bytes(line))
    found, good, bad = firmware.decode(bytes(line), size=4610)
    assert [f for f in found if isinstance(f, bytes)] == expected
    errors = [f for f in found if isinstance(f, int)]
    assert (good, bad) == (splitter.counters.frames, len(errors))
    assert errors.count(C["ERROR_CRC"]) == splitter.counters.bad_crc
    assert errors.count(C["ERROR_FRAME"]) == splitter.counters.bad_frame


@settings(deadline=None, max_examples=100)
@given(line=st.binary(max_size=3000), size=st.integers(0, 64))
def test_random_bytes_and_small_buffers_cost_the_decoder_nothing_but_the_frame(
    firmware: Firmware, line: bytes, size: int
) -> None:
    whole = TimeSync(1, 2, 3).to_bytes()
    found, _, _ = firmware.decode(line + b"\0" + encode_frame(whole), size=size)
    assert found[-1] == (whole if size >= len(whole) + 2 else C["ERROR_FRAME"])


def test_example_device_is_heard_over_its_own_tty_and_answers(tmp_path: Path) -> None:
    program = compile_c(tmp_path / "example", SOURCES[1], SOURCES[0])
    port = tmp_path / "wrist_right"

    async def listen() -> tuple[WireDecoder, dict[str, list[object]]]:
        decoder, link = WireDecoder(), SerialLink(port)
        events: dict[str, list[object]] = {"HelloReceived": [], "TimeSyncReceived": [], "ImuChunk": []}
        try:
            async for event in link.events():
                if isinstance(event, LinkOpened):
                    # a HELLO beyond those that come by themselves, and the time
                    asked = encode_frame(HelloRequest().to_bytes()) + encode_frame(TimeSync(1, 9, 1234).to_bytes())
                    assert link.write(asked)
                elif isinstance(event, LinkData):
                    decoder.receive_data(event.data, host_time_ns=event.host_time_ns)
                while (found := decoder.next_event()) is not None:
                    events.setdefault(type(found).__name__, []).append(found)
                enough = sum(len(c) for c in events["ImuChunk"] if isinstance(c, ImuChunk)) >= 50
                if enough and len(events["HelloReceived"]) >= 2 and events["TimeSyncReceived"]:
                    return decoder, events
        finally:
            await link.close()
        raise AssertionError("the link ended")

    with subprocess.Popen([program, port, "wrist_right"]) as process:
        try:
            decoder, events = asyncio.run(asyncio.wait_for(listen(), TIMEOUT_S))
        finally:
            process.kill()
    assert decoder.counters.bad_crc == decoder.counters.malformed == decoder.counters.implausible == 0
    assert decoder.counters.lost == 0
    (hello, *_), (answer, *_) = events["HelloReceived"], events["TimeSyncReceived"]
    assert isinstance(hello, HelloReceived) and hello.hello.spec.channels == IMU6
    assert hello.hello.sensor == "wrist_right"
    assert isinstance(answer, TimeSyncReceived)
    assert (answer.time_sync.sequence, answer.time_sync.t1_us) == (9, 1234)
    assert 0 < answer.time_sync.t2_us <= answer.time_sync.t3_us
    values = np.concatenate([c.values for c in events["ImuChunk"] if isinstance(c, ImuChunk)])
    assert np.abs(np.linalg.norm(values[:, :3], axis=1) - 9.80665).max() < 0.01
    assert np.ptp(values[:, 4]) > 1  # it swings


def test_header_and_sources_are_where_the_package_says() -> None:
    assert all(path.is_file() for path in (HEADER, *SOURCES))


def test_the_page_for_firmware_engineers_says_what_is_so(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "firmware.md").read_text(encoding="utf-8")
    for uuid in (kinedge_imu.SERVICE_UUID, kinedge_imu.DATA_UUID, kinedge_imu.CONTROL_UUID):
        assert uuid in page
    (snippet,) = re.findall(r"^```c\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    source = tmp_path / "snippet.c"
    source.write_text(
        '#include "kinedge_wire.h"\n#define STREAM_ID 1\nvoid uart_write(const uint8_t *, int);\n'
        "uint64_t clock_us(void);\n"
        "void answer(const uint8_t *, int, uint64_t);\nkinedge_decoder decoder;\n"
        "void send_packet(const int16_t *, uint64_t, uint64_t);\nvoid on_uart_byte(uint8_t);\n"
        f"{snippet}"
        "void uart_write(const uint8_t *f, int n) { (void)f, (void)n; }\nuint64_t clock_us(void) { return 0; }\n"
        "void answer(const uint8_t *p, int n, uint64_t t) { (void)p, (void)n, (void)t; }\n"
        "int main(void) { uint8_t buffer[KINEDGE_REQUEST_BUFFER_SIZE]; int16_t counts[60] = {0};\n"
        "kinedge_decoder_init(&decoder, buffer, sizeof buffer); send_packet(counts, 0, 0);\n"
        "on_uart_byte(0); return 0; }\n"
    )
    subprocess.run([compile_c(tmp_path / "snippet", source, SOURCES[0])], check=True, timeout=TIMEOUT_S)
