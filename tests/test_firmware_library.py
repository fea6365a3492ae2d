"""The firmware library as it is shipped: its header, its needs, its example device and its page."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from firmware_program import STRICT, TIMEOUT_S, compile_c

from kinedge.errors import ConfigError
from kinedge.firmware_bridge import emulator, framing, packets
from kinedge.firmware_bridge.decoder import HelloReceived, TimeSyncReceived, WireDecoder
from kinedge.firmware_bridge.devices import kinedge_imu
from kinedge.firmware_bridge.firmware_header import HEADER, SOURCES, read_constants
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.links_serial import LinkData, LinkOpened, SerialLink
from kinedge.firmware_bridge.packets import HelloRequest, PacketType, SampleFlags, TimeSync
from kinedge.signals import IMU6, ImuChunk, Quantity

C = read_constants()
CHANNEL_NAMES = [f"{q}_{a}" for q in ("acc", "gyr", "mag") for a in "xyz"]


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
