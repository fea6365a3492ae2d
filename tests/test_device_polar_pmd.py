from __future__ import annotations

import struct

import numpy as np
import pytest
from device_checks import chunks, commands, doubts, events, feed, hostile_payloads, survives, together
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, DeviceInfo, Doubt, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices import polar_pmd as pmd
from kinedge.firmware_bridge.devices._pmd_frame import pack_differences, unpack_differences
from kinedge.firmware_bridge.devices.polar_pmd import Measurement, Setting
from kinedge.units import NS_PER_S

ACC_RAW = "02009435770000000001f7ffffffe703f8fffeffe503"
ACC_81 = "02650000000000000081f1ff1400f00306017b0f08"
GYR_80 = "05ffffffffffffff7f80eaff08000d000301df00"
GYR_81 = "050094357700000000810000803f000020410000a0411c010000a001000008cdccec0d"
MAG_80 = "06009435770000000080e2e6fa15490a06017f20fc"
ACC_80 = (
    "7107f06a9e8d0a38be5cbeba2f96b3ee4be5adfb42b9ebbe4cfeba2f92bfee4be4b1fb12b9ecbd3c3ebb2f8fd3de4be3b5f7d2b8edbd307e7b"
    "2f8be3ce8be2baf7a2b8eebc20be7b2f88f3cecbe1bdef52f8efbc18fe3b2f8403bfcbe0c2ef32b8f0bb044ebc2e8113af0be0c6eff2f7f1b9"
    "fc7dbc2e7d279f4bdfcaebc2f7f2b8eccd7c2e7b378f4bdecee392f7f3b8e00dfd2d774b7fcbddd2df6237f5b7d44dbd2d745b6fcbdcd7d732"
    "37f6b5c88d7d2d716b4f4bdcdcd3f236f7b4bcddfd2c6f7b3f4bdbe0cfd236f8b2b02dbe2c6c8f1fcbdae3c7a276f9"
)
ACC_SETTINGS = "000134000101100002040200040008001000040103"  # 52 Hz, 16 bit, 2 4 8 16 g, 3 channels
GYR_SETTINGS = "00013400010110000204f500f401e803d007040103"  # 52 Hz, 16 bit, 245 500 1000 2000 deg/s, 3 channels
H10_SETTINGS = "0004190032006400c80001011000020302000400" + "0800"


def factor(value: float) -> bytes:
    return bytes([5, 1]) + struct.pack("<f", value)


def answer(op: int, measurement: int, parameters: bytes = b"", error: int = 0) -> bytes:
    return bytes([0xF0, op, measurement, error, 0]) + parameters


def acc_frame(t_ns: int, rows: np.ndarray) -> bytes:
    return struct.pack("<BQB", 2, t_ns, 1) + np.asarray(rows, "<i2").tobytes()


def compressed(measurement: int, t_ns: int, rows: np.ndarray, *, bits: int = 12, split: int = 1000) -> bytes:
    rows = np.asarray(rows, np.int64)
    out = struct.pack("<BQB", measurement, t_ns, 0x80) + rows[:1].astype("<i2").tobytes()
    steps = np.diff(rows, axis=0)
    for start in range(0, len(steps), split):
        block = steps[start : start + split]
        out += bytes([bits, len(block)]) + pack_differences(block.reshape(-1), bits=bits)
    return out


def session(rate_hz: float = 50.0, **options: str) -> pmd.PolarPmdSession:
    return pmd.PolarPmdDriver().open(SessionConfig("chest", rate_hz, options=options), transport="ble")


def talk(opened: pmd.PolarPmdSession, answers: list[bytes]) -> list[str]:
    """Give one answer to each command; return the commands."""
    said = [c.data.hex() for c in commands(opened)]
    for one in answers:
        opened.receive_data(one, channel=pmd.CONTROL)
        said += [c.data.hex() for c in commands(opened)]
    return said


def h10(rate_hz: float = 200.0) -> pmd.PolarPmdSession:
    opened = session(rate_hz, streams="acc")
    talk(opened, [answer(1, 2, bytes.fromhex(H10_SETTINGS)), answer(2, 2)])
    return opened


def verity() -> pmd.PolarPmdSession:
    opened = session(52.0)
    talk(
        opened,
        [
            answer(1, 2, bytes.fromhex(ACC_SETTINGS)),
            answer(2, 2, factor(2.44e-4)),
            answer(1, 5, bytes.fromhex(GYR_SETTINGS)),
            answer(2, 5, factor(0.07)),
        ],
    )
    return opened


@pytest.mark.parametrize(
    ("text", "time_ns", "raw"),
    [
        (ACC_RAW, 2_000_000_000, [(-9, -1, 999), (-8, -2, 997)]),
        (ACC_81, 101, [(-15, 20, 1008), (-20, 17, 1008)]),
        (GYR_80, 2**63 - 1, [(-22, 8, 13), (-23, 11, 16)]),
        (MAG_80, 2_000_000_000, [(-6430, 5626, 2633), (-6431, 5627, 2635)]),
    ],
)
def test_frames_of_the_vendors_tests_decode_to_their_values(text: str, time_ns: int, raw: list) -> None:
    frame = pmd.parse_frame(bytes.fromhex(text))
    assert frame.time_ns == time_ns
    assert frame.raw.tolist() == [list(row) for row in raw]


def test_float_differences_add_up_as_bit_patterns() -> None:
    frame = pmd.parse_frame(bytes.fromhex(GYR_81))
    first = np.array([1, 10, 20], np.float32)
    second = (first.view(np.uint32) + np.array([0x01A00000, 0x00800000, 0xFDECCCCD], np.uint32)).view(np.float32)
    np.testing.assert_array_equal(frame.raw, [first, second])
    np.testing.assert_allclose(frame.values, np.deg2rad(frame.raw), rtol=1e-6)


def test_a_frame_of_57_compressed_samples_decodes_with_its_factor() -> None:
    frame = pmd.parse_frame(bytes([2, *bytes(8), 0x80]) + bytes.fromhex(ACC_80), factor=2.44e-4)
    assert frame.raw.shape == (57, 3)
    assert frame.raw[0].tolist() == [1905, 27376, -29282]
    assert (frame.raw[1] - frame.raw[0]).tolist() == [190, -105, -85]
    np.testing.assert_allclose(frame.values[0], np.array([1905, 27376, -29282]) * 2.44e-4 * 9.80665, rtol=1e-5)


def test_units_follow_measurement_and_frame_type() -> None:
    acc_mg, mag_gauss = pmd.parse_frame(bytes.fromhex(ACC_81)), pmd.parse_frame(bytes.fromhex(MAG_80), factor=1e-4)
    np.testing.assert_allclose(acc_mg.values[0], np.array([-15, 20, 1008]) * 9.80665e-3, rtol=1e-6)
    np.testing.assert_allclose(mag_gauss.values[0], [-64.30, 56.26, 26.33], rtol=1e-5)
    mag_4 = struct.pack("<BQB4h", 6, 1, 0x81, 480, -200, 10, 3)
    np.testing.assert_allclose(pmd.parse_frame(mag_4).values, [[48, -20, 1]], rtol=1e-5)


def test_raw_acceleration_of_all_widths_is_read() -> None:
    for frame_type, width in ((0, 1), (1, 2), (2, 3)):
        body = b"".join(v.to_bytes(width, "little", signed=True) for v in (-100, 5, 100, 1, -1, 0))
        frame = pmd.parse_frame(struct.pack("<BQB", 2, 7, frame_type) + body)
        assert frame.raw.tolist() == [[-100, 5, 100], [1, -1, 0]]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 32), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=60))
def test_packed_differences_unpack_to_the_same(bits: int, values: list[int]) -> None:
    fit = np.array([(v + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for v in values], np.int64)
    packed = pack_differences(fit, bits=bits)
    assert len(packed) == -(-bits * len(fit) // 8)
    np.testing.assert_array_equal(unpack_differences(packed, bits=bits, n=len(fit)), fit)


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=30, max_size=30), st.integers(1, 7), st.integers(8, 11))
def test_compressed_frames_decode_to_what_was_compressed(seed: bytes, split: int, bits: int) -> None:
    rows = np.frombuffer(seed, np.int8).reshape(10, 3).astype(np.int64) // 2 + 900
    np.testing.assert_array_equal(pmd.parse_frame(compressed(2, 5, rows, bits=bits, split=split)).raw, rows)


@pytest.mark.parametrize("text", [ACC_RAW, ACC_81, GYR_80, GYR_81, MAG_80])
def test_cut_and_prolonged_frames_are_refused(text: str) -> None:
    whole = bytes.fromhex(text)
    for n in range(len(whole)):
        if whole[9] & 0x80 and n == len(whole) - len(whole[10:]) + 6 + 6 * (text == GYR_81):
            continue  # a lone reference sample is a whole frame
        if not whole[9] & 0x80 and n == 16:
            continue  # a whole number of raw samples is, too
        with pytest.raises(ProtocolError):
            pmd.parse_frame(whole[:n])
    with pytest.raises(ProtocolError):
        pmd.parse_frame(whole + b"\0")


@pytest.mark.parametrize("block", [b"\0\5", b"\x21\1" + bytes(13), b"\6\0", b"\1\xff" * 60])
def test_blocks_that_cannot_be_are_refused(block: bytes) -> None:
    with pytest.raises(ProtocolError):
        pmd.parse_frame(struct.pack("<BQB", 2, 5, 0x80) + bytes(6) + block)


def test_settings_of_the_vendors_tests_are_read() -> None:
    found = pmd.parse_settings(bytes.fromhex(GYR_SETTINGS))
    assert found == {0: (52,), 1: (16,), 2: (245, 500, 1000, 2000), 4: (3,)}
    assert pmd.parse_settings(factor(0.25)) == {Setting.FACTOR: (0.25,)}
    for bad in ("0002", "000134", "09010000", "00"):
        with pytest.raises(ProtocolError):
            pmd.parse_settings(bytes.fromhex(bad))


def test_the_start_of_an_h10_is_the_documented_bytes() -> None:
    opened = session(190.0, streams="acc")
    said = talk(opened, [answer(1, 2, bytes.fromhex(H10_SETTINGS)), answer(2, 2)])
    assert said == ["0102", "02020001c8000101100002010800"]
    assert [c.data.hex() for c in opened.stop_commands()] == ["0302"]
    (info,) = events(opened)
    assert isinstance(info, DeviceInfo)
    assert (info.rate_hz, info.spec.channels) == (200, ("acc_x", "acc_y", "acc_z"))


def test_the_wanted_range_is_asked_for() -> None:
    opened = pmd.PolarPmdDriver().open(SessionConfig("chest", 25, acc_range_g=4), transport="ble")
    said = talk(opened, [answer(1, 2, bytes.fromhex(H10_SETTINGS))])
    assert said[-1] == "0202000119000101100002010400"


def test_a_sensor_without_gyroscope_goes_on_with_acceleration_alone() -> None:
    opened = session(200.0)
    said = talk(opened, [answer(1, 2, bytes.fromhex(H10_SETTINGS)), answer(2, 2), answer(1, 5, error=3)])
    assert said[-1] == "0105"
    doubt, info = events(opened)
    assert isinstance(doubt, Doubt)
    assert "not supported" in doubt.text
    assert isinstance(info, DeviceInfo)
    assert info.spec.n_channels == 3


def test_a_stream_left_running_is_stopped_and_started_once_more() -> None:
    opened = session(200.0, streams="acc")
    said = talk(opened, [answer(1, 2, bytes.fromhex(H10_SETTINGS)), answer(2, 2, error=6)])
    assert said[-2:] == ["0302", said[1]]
    opened.receive_data(answer(3, 2), channel=pmd.CONTROL)
    with pytest.raises(ProtocolError, match="already running"):
        opened.receive_data(answer(2, 2, error=6), channel=pmd.CONTROL)


def test_a_device_in_its_charger_is_an_error_that_says_so() -> None:
    opened = session(streams="acc")
    with pytest.raises(ProtocolError, match="charger"):
        talk(opened, [answer(1, 2, error=13)])


def test_settings_in_two_responses_are_put_together() -> None:
    opened = session(streams="acc")
    whole = bytes.fromhex(H10_SETTINGS)
    said = talk(opened, [bytes([0xF0, 1, 2, 0, 1]) + whole[:7], b"\0" + whole[7:]])
    assert said[-1].startswith("0202000132")


def test_samples_stand_back_from_the_stamp_of_the_last_one() -> None:
    opened = h10(200.0)
    (chunk,) = feed(opened, [acc_frame(NS_PER_S, [[0, 0, 1000]] * 16)], channel=pmd.DATA)
    assert chunk.device_time_ns.tolist() == [NS_PER_S - i * 5_000_000 for i in range(15, -1, -1)]
    np.testing.assert_allclose(chunk.values, np.tile([0, 0, 9.80665], (16, 1)), rtol=1e-6)


def test_a_lost_frame_stays_a_gap_although_the_rate_is_off() -> None:
    opened = h10(200.0)
    interval = NS_PER_S / 201.5  # of the real crystal
    sent = [acc_frame(round((16 * k + 15) * interval) + NS_PER_S, [[0, 0, 1000]] * 16) for k in range(40)]
    del sent[20:22]
    found = feed(opened, sent, channel=pmd.DATA)
    times, _ = together(found)
    assert [c.lost for c in found] == [0] * 20 + [32] + [0] * 17
    true = NS_PER_S + np.array([i * interval for i in range(640) if not 320 <= i < 352])
    assert np.abs(times - true)[16:].max() < 100_000  # the first frame has the nominal rate alone
    assert int(np.argmax(np.diff(times))) == 319
    assert np.diff(times)[319] == pytest.approx(33 * interval, rel=1e-3)


def test_acceleration_and_angular_rate_become_one_sample_at_one_time() -> None:
    opened = verity()
    (info,) = events(opened)
    assert isinstance(info, DeviceInfo)
    assert info.spec.n_channels == 6
    interval = NS_PER_S / 52
    n, k = 26, 12
    t = np.arange(n * k) * interval
    acc = np.stack([1000 * np.sin(t * 2e-9), 0 * t, 4096 + 0 * t], axis=1).round()
    gyr = np.stack([500 * np.cos(t * 2e-9), 200 + 0 * t, 0 * t], axis=1).round()
    found = []
    for i in range(k):
        rows = slice(n * i, n * (i + 1))
        stamp = round(t[rows][-1]) + NS_PER_S
        opened.receive_data(compressed(2, stamp, acc[rows]), channel=pmd.DATA)
        opened.receive_data(compressed(5, stamp + 4_000_000, gyr[rows]), channel=pmd.DATA)
        found += chunks(opened)
    times, values = together(found)
    valid = np.concatenate([c.valid for c in found])
    assert len(times) == n * k
    inner = slice(n, -n)
    assert valid[inner].all()
    np.testing.assert_allclose(values[:, :3], acc * 2.44e-4 * 9.80665, rtol=1e-5)
    at = times - NS_PER_S - 4e6
    np.testing.assert_allclose(values[inner, 3], np.deg2rad(500 * np.cos(at * 2e-9) * 0.07)[inner], atol=3e-3)


def test_lost_angular_rate_is_a_mask_and_not_a_bridge() -> None:
    opened = verity()
    n, interval = 26, NS_PER_S / 52
    found = []
    for i in range(10):
        stamp = round((n * i + n - 1) * interval) + NS_PER_S
        opened.receive_data(compressed(2, stamp, [[0, 0, 4098]] * n), channel=pmd.DATA)
        if i != 5:
            opened.receive_data(compressed(5, stamp, [[100, 0, 0]] * n), channel=pmd.DATA)
        found += chunks(opened)
    valid = np.concatenate([c.valid for c in found])
    masked = np.flatnonzero(~valid[:, 3])
    assert masked.min() in (5 * n, 5 * n - 1)
    assert n - 2 <= len(masked) <= n + 2
    assert valid[:, :3].all()
    assert opened.counters["lost_gyr"] == n


def test_the_range_asked_for_says_what_is_saturated() -> None:
    opened = h10()
    (chunk,) = feed(opened, [acc_frame(NS_PER_S, [[8000, 7000, -8001]])], channel=pmd.DATA)
    assert chunk.saturated.tolist() == [[True, False, True]]


def test_frames_before_the_start_was_confirmed_are_counted() -> None:
    opened = session()
    assert feed(opened, [acc_frame(5, [[0, 0, 1]])], channel=pmd.DATA) == []
    assert opened.counters["undescribed"] == 1


def test_a_clock_that_begins_anew_is_a_new_boot() -> None:
    opened = h10()
    frames = [acc_frame(10**17 + k * 80_000_000, [[0, 0, 1000]] * 16) for k in range(4)]
    frames += [acc_frame(10**15 + k * 80_000_000, [[0, 0, 1000]] * 16) for k in range(6)]
    found = feed(opened, frames, channel=pmd.DATA)
    assert [c.boot_id for c in found] == [0] * 4 + [1] * 4
    assert opened.counters["lost"] == 32


def test_after_a_reconnection_all_is_asked_again_and_the_gap_is_counted() -> None:
    opened = h10()
    feed(opened, [acc_frame(NS_PER_S, [[0, 0, 1000]] * 16)], channel=pmd.DATA)
    opened.link_reopened()
    said = talk(opened, [answer(1, 2, bytes.fromhex(H10_SETTINGS)), answer(2, 2)])
    assert said == ["0102", "02020001c8000101100002010800"]
    (chunk,) = feed(opened, [acc_frame(2 * NS_PER_S, [[0, 0, 1000]] * 16)], channel=pmd.DATA)
    assert chunk.lost == 200 - 16


def test_a_wrong_factor_raises_a_doubt() -> None:
    opened = session(52.0, streams="acc")
    talk(opened, [answer(1, 2, bytes.fromhex(ACC_SETTINGS)), answer(2, 2, factor(1.22e-4))])
    texts = []
    for k in range(60):
        opened.receive_data(compressed(2, NS_PER_S + k * NS_PER_S // 2, [[0, 0, 4098]] * 26), channel=pmd.DATA)
        texts += doubts(opened)
    assert len(texts) == 1
    assert "factor" in texts[0]


def test_driver_is_registered_and_recognises_its_devices() -> None:
    family = driver("polar_pmd")
    assert family.recognise(Advertisement("a", name="Polar H10 9A8B7C6D"))
    assert family.recognise(Advertisement("a", service_uuids=(pmd.SERVICE,)))
    assert not family.recognise(Advertisement("a", name="Movesense 1"))
    with pytest.raises(ConfigError, match="streams"):
        session(streams="ecg")


_HOSTILE = [bytes.fromhex(t) for t in (ACC_RAW, ACC_81, GYR_80, GYR_81, MAG_80)] + [
    acc_frame(NS_PER_S, [[0, 0, 1000]] * 3),
    answer(1, 2, bytes.fromhex(H10_SETTINGS)),
    answer(2, 2, factor(1.0)),
    answer(1, 5, error=3),
    bytes([0xF0, 1, 2, 0, 1, 0]),
]


@settings(deadline=None, max_examples=60)
@given(hostile_payloads(_HOSTILE), st.booleans())
def test_no_bytes_break_a_session(payloads: list[bytes], started: bool) -> None:
    opened = verity() if started else session()
    events(opened)
    survives(opened, payloads, channels=[pmd.DATA, pmd.CONTROL, pmd.DATA, "elsewhere"])


def test_measurements_have_their_codes() -> None:
    assert [int(m) for m in (Measurement.ACC, Measurement.GYR, Measurement.MAG)] == [2, 5, 6]
