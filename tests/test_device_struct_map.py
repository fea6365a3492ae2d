from __future__ import annotations

import struct
from binascii import crc_hqx
from pathlib import Path

import numpy as np
import pytest
from device_checks import chunks, commands, doubts, feed, hostile_payloads, survives, together
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Advertisement, Driver, SessionConfig
from kinedge.firmware_bridge.devices.struct_map import StructMapDriver, StructMapSession
from kinedge.units import NS_PER_S

NOTIFY = "0000fff1-0000-1000-8000-00805f9b34fb"
WRITE = "0000fff2-0000-1000-8000-00805f9b34fb"
N = 5

# A board that does not exist: header a5 5a, number of the packet, microseconds of the first sample, five samples of
# gyr then acc, sum of all bytes before it.
ESP32 = f"""
name = "bench_esp32"
rate_hz = 100
packet_bytes = 68
samples_per_packet = {N}
samples_at = 7
sample_bytes = 12

[sequence]
at = 2
type = "u8"

[time]
at = 3
type = "u32"
unit = "us"

[checksum]
kind = "sum8"

[serial]
header = "a5 5a"
start = [{{ data = "73 01", pause_s = 0.1 }}]
stop = [{{ data = "73 00" }}]

[ble]
name = "Bench-"
notify = "{NOTIFY}"
start = [{{ channel = "{WRITE}", data = "01", response = false }}]
stop = [{{ channel = "{WRITE}", data = "00" }}]
""" + "".join(
    f"""
[[channels]]
name = "{quantity}_{axis}"
at = {at + 2 * i}
type = "i16"
scale = {scale}
unit = "{unit}"
full_scale = {full_scale}
invalid = -32768
"""
    for quantity, at, scale, unit, full_scale in (("gyr", 0, 0.0625, "deg/s", 2000), ("acc", 6, 0.25, "mg", 8000))
    for i, axis in enumerate("xyz")
)
ONE_G = (0, 0, 4000)


def packet(k: int, *, acc: tuple[int, ...] = ONE_G, gyr: tuple[int, ...] = (16, 32, 48)) -> bytes:
    """The ``k``-th packet since the start."""
    rows = np.tile([*gyr, *acc], (N, 1)).astype("<i2")
    body = b"\xa5\x5a" + struct.pack("<BI", k % 256, 50_000 * k % 2**32) + rows.tobytes()
    return body + bytes([sum(body) & 0xFF])


def described(tmp_path: Path, text: str = ESP32) -> StructMapDriver:
    path = tmp_path / "board.toml"
    path.write_text(text)
    return StructMapDriver.from_toml(path)


@pytest.fixture
def board(tmp_path: Path) -> StructMapDriver:
    return described(tmp_path)


def opened(driver: StructMapDriver, transport: str = "serial") -> StructMapSession:
    return driver.open(SessionConfig("lower_back", 50), transport=transport)


def without(text: str, section: str) -> str:
    """The description without one of its tables."""
    before, _, rest = text.partition(f"\n[{section}]\n")
    return before + "\n[" + rest.partition("\n[")[2]


def test_a_described_board_is_a_driver_like_any_other(board: StructMapDriver) -> None:
    family: Driver = board
    assert (family.name, family.transports) == ("bench_esp32", {"serial", "ble"})
    assert family.recognise(Advertisement("a", name="Bench-07"))
    assert not family.recognise(Advertisement("a", name="bench"))
    assert family.recognise_serial(b"\0\xa5" + packet(3) + b"\1")
    assert not family.recognise_serial(packet(3)[:-1] + b"\0")
    assert family.serial_probe() == b"\x73\x01"


def test_commands_are_the_described_bytes(board: StructMapDriver) -> None:
    serial, ble = opened(board), opened(board, "ble")
    (start,) = commands(serial)
    assert (start.channel, start.data, start.pause_s) == (SERIAL_CHANNEL, b"\x73\x01", 0.1)
    assert [c.data for c in serial.stop_commands()] == [b"\x73\x00"]
    (start,) = commands(ble)
    assert (start.channel, start.data, start.response) == (WRITE, b"\x01", False)
    assert ble.subscriptions == (NOTIFY,)
    assert serial.subscriptions == ()


def test_both_transports_give_the_same_samples_in_si_units(board: StructMapDriver) -> None:
    packets = [packet(k) for k in range(4)]
    over_ble = together(feed(opened(board, "ble"), packets, channel=NOTIFY))
    over_serial = together(feed(opened(board), packets, channel=SERIAL_CHANNEL))
    for a, b in zip(over_ble, over_serial, strict=True):
        np.testing.assert_array_equal(a, b)
    times, values = over_ble
    assert times.tolist() == [i * 10_000_000 for i in range(4 * N)]
    np.testing.assert_allclose(values[0], [0, 0, 9.80665, *np.deg2rad([1, 2, 3])], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 68, 100, 10_000])
def test_serial_bytes_in_any_chunking_give_the_same_samples(board: StructMapDriver, size: int) -> None:
    stream = b"\x5a\xa5" + b"".join(packet(k, acc=(k, 0, 4000)) for k in range(20)) + packet(20)[:30]
    session = opened(board)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    times, values = together(feed(session, pieces, channel=SERIAL_CHANNEL))
    assert len(times) == 20 * N
    np.testing.assert_allclose(values[::N, 0], np.arange(20) * 0.25e-3 * 9.80665, rtol=1e-5)
    assert session.counters["lost"] == 0
    assert session.counters["bytes_skipped"] == 2


def test_a_damaged_packet_is_skipped_and_its_samples_are_lost(board: StructMapDriver) -> None:
    packets = [packet(k) for k in range(10)]
    packets[4] = packets[4][:20] + b"\xff" + packets[4][21:]
    packets[7] = packets[7][:-5]
    session = opened(board)
    times, _ = together(feed(session, packets, channel=SERIAL_CHANNEL))
    assert len(times) == 8 * N
    assert session.counters["lost"] == 2 * N
    assert session.counters["bad"] >= 2
    over_ble = opened(board, "ble")
    assert len(together(feed(over_ble, packets, channel=NOTIFY))[0]) == 8 * N
    assert over_ble.counters["bad"] == 2


def test_a_burst_is_one_chunk(board: StructMapDriver) -> None:
    (chunk,) = feed(opened(board), [b"".join(packet(k) for k in range(50))], channel=SERIAL_CHANNEL)
    assert len(chunk) == 50 * N


def test_loss_of_more_than_the_number_can_count_is_known_from_time(board: StructMapDriver) -> None:
    session = opened(board)
    feed(session, [packet(0), packet(1), packet(2 + 3 * 256 + 7)], channel=SERIAL_CHANNEL)
    assert session.counters["lost"] == (3 * 256 + 7) * N


def test_repeated_packets_are_dropped(board: StructMapDriver) -> None:
    session = opened(board)
    feed(session, [packet(k) for k in (0, 1, 1, 0, 2)], channel=SERIAL_CHANNEL)
    assert (session.counters["samples"], session.counters["duplicates"], session.counters["lost"]) == (3 * N, 2 * N, 0)


def test_times_go_on_over_the_wrap_of_the_stamp(board: StructMapDriver) -> None:
    k = 2**32 // 50_000 - 3
    times, _ = together(feed(opened(board), [packet(i) for i in range(k, k + 10)], channel=SERIAL_CHANNEL))
    assert times.tolist() == [50_000_000 * k + 10_000_000 * i for i in range(10 * N)]


def test_a_restarted_board_is_a_new_boot(board: StructMapDriver) -> None:
    session = opened(board)
    stream = [packet(i) for i in (*range(9000, 9010), *range(8))]
    found = feed(session, [b"".join(stream)], channel=SERIAL_CHANNEL)
    assert [(c.boot_id, len(c), c.lost) for c in found] == [(0, 10 * N, 0), (1, 6 * N, 2 * N)]


def test_saturation_and_the_value_for_none_are_marked(board: StructMapDriver) -> None:
    (chunk,) = feed(opened(board, "ble"), [packet(0, acc=(32000, -32000, -32768))], channel=NOTIFY)
    assert chunk.saturated[0].tolist() == [True, True, False, False, False, False]
    assert chunk.valid[0].tolist() == [True, True, False, True, True, True]
    assert chunk.values[0, 2] == 0


def test_without_a_clock_samples_are_counted_and_held_to_the_host(tmp_path: Path) -> None:
    session = opened(described(tmp_path, without(ESP32, "time")), "ble")
    rng = np.random.default_rng(0)
    found = []
    for k in range(600):
        if not 300 <= k < 310:
            arrival = round(k * 0.05 * 1.01 * NS_PER_S + rng.exponential(0.01) * NS_PER_S)  # 1 % slower than it says
            session.receive_data(packet(k), channel=NOTIFY, host_time_ns=10**12 + arrival)
            found += chunks(session)
    times, _ = together(found)
    assert session.counters["lost"] == 10 * N
    assert session.counters["samples"] == 590 * N
    first = np.array([k for k in range(600) if not 300 <= k < 310])
    error = times[::N] - 10**12 - first * 0.05 * 1.01 * NS_PER_S
    assert np.abs(error[400:] - error[400:].mean()).max() < 3e6


def test_without_a_checksum_a_packet_with_a_missing_byte_is_not_used(tmp_path: Path) -> None:
    driver = described(tmp_path, without(ESP32, "checksum"))
    packets = [packet(k) for k in range(10)]
    packets[4] = packets[4][:40] + packets[4][41:]
    times, values = together(feed(opened(driver), [b"".join(packets)], channel=SERIAL_CHANNEL))
    assert len(times) == 8 * N  # the last one waits for the next to begin
    np.testing.assert_allclose(values[:, 2], 9.80665, rtol=1e-6)
    assert driver.recognise_serial(b"".join(packets[:2]))
    assert not driver.recognise_serial(packets[0] + b"\0" * 68)


def test_big_endian_ticks_of_the_last_sample_and_other_checksums(tmp_path: Path) -> None:
    text = """
name = "big"
rate_hz = 100
packet_bytes = 16
samples_per_packet = 2
samples_at = 6
sample_bytes = 4
endian = "big"
time = { at = 2, type = "u32", ticks_hz = 32768, of = "last" }
checksum = { kind = "crc16" }
serial = { header = "ff00" }
channels = [{ name = "acc_z", at = 0, type = "f32", unit = "g" }]
"""
    body = b"\xff\x00" + struct.pack(">I2f", 65536, 1.0, float("nan"))
    session = opened(described(tmp_path, text))
    (chunk,) = feed(session, [body + struct.pack(">H", crc_hqx(body, 0xFFFF))], channel=SERIAL_CHANNEL)
    assert chunk.device_time_ns.tolist() == [1_990_000_000, 2_000_000_000]
    assert chunk.valid.tolist() == [[True], [False]]
    np.testing.assert_allclose(chunk.values[0], 9.80665)
    body = b"\xff\x00" + struct.pack(">I2f", 0, 1, 2) + b"\0"
    xor = text.replace("crc16", "xor8").replace("packet_bytes = 16", "packet_bytes = 15")
    check = 0
    for byte in body[:14]:
        check ^= byte
    assert len(feed(opened(described(tmp_path, xor)), [body[:14] + bytes([check])], channel=SERIAL_CHANNEL)) == 1


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("rate_hz = 100", "rate_hz = 0", "rate_hz"),
        ("rate_hz = 100", "rate = 100", "did you mean 'rate_hz'"),
        ("packet_bytes = 68", "packet_bytes = 60", "samples end at byte 67"),
        ("sample_bytes = 12", "sample_bytes = 11", "acc_z ends behind"),
        ('name = "acc_y"', 'name = "acc_x"', "acc_x is described twice"),
        ('unit = "mg"', 'unit = "deg/s"', "unit of acc_x"),
        ('type = "u32"', 'type = "f32"', "time.type"),
        ('unit = "us"', "", "unit or ticks_hz"),
        ('header = "a5 5a"', 'header = "xy"', "serial.header"),
        (f'notify = "{NOTIFY}"', 'notify = "fff1"', "ble.notify"),
        ('name = "Bench-"', "", "advertised name"),
        ("scale = 0.25", "scale = 0", "scale"),
        ("[serial]", "[serial", "TOML"),
    ],
)
def test_a_description_that_cannot_be_says_where_it_is_wrong(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in ESP32
    with pytest.raises(ConfigError, match=r"board\.toml") as caught:
        described(tmp_path, ESP32.replace(old, new))
    assert why in str(caught.value)


def test_a_transport_or_option_that_is_not_described_is_refused(tmp_path: Path) -> None:
    driver = described(tmp_path, without(ESP32, "serial"))
    assert driver.transports == {"ble"}
    with pytest.raises(ConfigError, match="transport"):
        opened(driver)
    with pytest.raises(ConfigError, match="option"):
        driver.open(SessionConfig("a", options={"x": "1"}), transport="ble")
    with pytest.raises(ConfigError, match="serial, ble"):
        described(tmp_path, without(without(ESP32, "serial"), "ble"))


def test_a_wrong_scale_raises_a_doubt(board: StructMapDriver) -> None:
    session = opened(board, "ble")
    texts = []
    for k in range(300):
        session.receive_data(packet(k, acc=(0, 0, 2000)), channel=NOTIFY)
        texts += doubts(session)
    assert len(texts) == 1
    assert "scale" in texts[0]


def test_after_a_reconnection_half_a_packet_is_forgotten(board: StructMapDriver) -> None:
    session = opened(board)
    commands(session)
    feed(session, [packet(0), packet(1)[:40]], channel=SERIAL_CHANNEL)
    session.link_reopened()
    assert len(commands(session)) == 1
    feed(session, [packet(2)], channel=SERIAL_CHANNEL)
    assert session.counters["lost"] == N
    assert session.counters["bad"] == 0


_PACKETS = [packet(0), packet(1), packet(2), b"\xa5\x5a" * 40]


@settings(deadline=None, max_examples=60)
@given(hostile_payloads(_PACKETS), st.booleans(), st.sampled_from(["", "time", "sequence", "checksum"]))
def test_no_bytes_break_a_session(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], ble: bool, left_out: str
) -> None:
    text = without(ESP32, left_out) if left_out else ESP32
    session = opened(described(tmp_path_factory.mktemp("board"), text), "ble" if ble else "serial")
    survives(session, payloads, channels=[NOTIFY if ble else SERIAL_CHANNEL])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=2, max_size=100).filter(lambda kept: kept[0] and kept[-1]), st.booleans())
def test_received_and_lost_are_what_was_sent(
    tmp_path_factory: pytest.TempPathFactory, kept: list[bool], numbered: bool
) -> None:
    text = ESP32 if numbered else without(ESP32, "sequence")
    session = opened(described(tmp_path_factory.mktemp("board"), text))
    feed(session, [packet(k) for k, keep in enumerate(kept) if keep], channel=SERIAL_CHANNEL)
    assert session.counters["samples"] == N * sum(kept)
    assert session.counters["lost"] == N * (len(kept) - sum(kept))
