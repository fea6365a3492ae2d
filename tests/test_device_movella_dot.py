from __future__ import annotations

import struct

import numpy as np
import pytest
from device_checks import chunks, commands, doubts, events, feed, hostile_payloads, infos, survives, together
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Battery, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices import movella_dot as dot
from kinedge.units import rad_s_from_deg_s

CAPTURED = [
    ("d8052244af9640406b2aa7405add14c000000000", 1143080408, (3.009197, 5.223928, -2.3260102)),
    ("f34622440da53c409c13a640f01009c000000000", 1143097075, (2.947574, 5.1898937, -2.1416588)),
]
ACC, GYR = (0.5, -1.25, 9.75), (90.0, -45.0, 0.5)


def mode_21(t_us: int, acc=ACC, gyr=GYR) -> bytes:
    return struct.pack("<I6f", t_us % 2**32, *acc, *gyr)


def session(rate_hz=60.0, **options: str) -> dot.MovellaDotSession:
    return dot.MovellaDotDriver().open(SessionConfig("shank_left", rate_hz, options=options), transport="ble")


@pytest.mark.parametrize(("text", "t_us", "acc"), CAPTURED)
def test_captured_payloads_read_as_their_source_says(text: str, t_us: int, acc: tuple[float, ...]) -> None:
    sample = dot.parse_payload(bytes.fromhex(text), mode=6)
    assert sample["t_us"] == t_us
    np.testing.assert_allclose(sample["free_acc_m_s2"], acc, rtol=1e-6)


def test_every_published_mode_has_its_documented_size() -> None:
    sizes = {mode: (payload.channel[4:8], payload.dtype.itemsize) for mode, payload in dot.PAYLOADS.items()}
    assert sizes == {
        **{2: ("2003", 36), 3: ("2003", 32), 4: ("2004", 16), 5: ("2004", 20), 6: ("2004", 16), 7: ("2003", 32)},
        **{16: ("2003", 28), 18: ("2003", 38), 19: ("2003", 32), 20: ("2003", 34), 21: ("2003", 28)},
        **{22: ("2003", 40), 23: ("2003", 34), 24: ("2003", 32), 26: ("2002", 44)},
    }


def test_commands_are_the_documented_bytes() -> None:
    assert dot.start_sync("D4:CA:6E:F1:69:3D").data.hex() == "0207013d69f16ecad453"
    assert dot.stop_sync().data.hex() == "020102fb"
    assert dot.message(0x02, bytes([3, 0])).hex() == "02020300f9"
    rate, start = commands(session(26.0, mode="20"))
    assert (rate.channel, rate.data) == (dot.DEVICE_CONTROL, bytes([0x10, *[0] * 23, 30, 0, *[0] * 6]))
    assert (start.channel, start.data) == (dot.CONTROL, bytes([1, 1, 20]))
    assert [c.data for c in session(mode="26").stop_commands()] == [bytes([1, 0, 26])]
    assert commands(session(profile="dynamic"))[0].data == bytes([0x30, *[0] * 23, 60, 0, 1, *[0] * 5])


def test_sync_comes_before_the_first_start_and_not_after_a_reconnection() -> None:
    dot_session = session(sync_root="D4:CA:6E:F1:69:3D")
    first = commands(dot_session)
    assert first[0] == dot.start_sync("d4:ca:6e:f1:69:3d")
    assert first[0].pause_s >= 14
    assert dot_session.sync_state is dot.DotSync.ASKED
    dot_session.link_reopened()  # they hang up while they sync
    again = commands(dot_session)
    assert [c.data for c in again] == [c.data for c in first[1:]]
    assert again[0].pause_s >= 14
    dot_session.receive_data(bytes.fromhex("02020300f9"), channel=dot.MESSAGE_ACK)
    assert dot_session.sync_state is dot.DotSync.ACKNOWLEDGED
    dot_session.link_reopened()
    assert commands(dot_session) == first[1:]


def test_mode_21_becomes_si_units_with_device_time() -> None:
    dot_session = session()
    found = feed(dot_session, [mode_21(1_000_000), mode_21(1_016_667)], channel=dot.MEDIUM)
    times, values = together(found)
    assert times.tolist() == [1_000_000_000, 1_016_667_000]
    np.testing.assert_allclose(values[0], [*ACC, *rad_s_from_deg_s(np.array(GYR))], rtol=1e-6)
    assert all(c.valid.all() and not c.saturated.any() and c.lost == 0 for c in found)


def test_mode_26_comes_on_the_long_characteristic() -> None:
    dot_session = session(mode="26")
    payload = struct.pack("<I10f", 5, 1, 0, 0, 0, *ACC, *GYR)
    assert feed(dot_session, [payload], channel=dot.MEDIUM) == []
    (chunk,) = feed(dot_session, [payload], channel=dot.LONG)
    np.testing.assert_allclose(chunk.values[0, :3], ACC)
    assert dot.LONG in dot_session.subscriptions


def test_mode_20_delivers_the_magnetometer_once_the_local_field_is_known() -> None:
    payload = struct.pack("<I6f3h", 5, *ACC, *GYR, 4096, -2048, 0)
    (chunk,) = feed(session(mode="20"), [payload], channel=dot.MEDIUM)
    assert chunk.values.shape == (1, 6)
    (chunk,) = feed(session(mode="20", field_ut="48"), [payload], channel=dot.MEDIUM)
    np.testing.assert_allclose(chunk.values[0, 6:], [48, -24, 0])


def test_a_gap_is_counted_and_time_goes_on_over_the_wrap_of_the_stamp() -> None:
    dot_session = session()
    period = 1_000_000 / 60
    stamps = [2**32 - 50_000 + round(i * period) for i in range(20) if i not in (7, 8, 9)]
    found = feed(dot_session, [mode_21(t) for t in stamps], channel=dot.MEDIUM)
    assert together(found)[0].tolist() == [t * 1000 for t in stamps]
    assert sum(c.lost for c in found) == dot_session.counters["lost"] == 3
    assert {c.boot_id for c in found} == {0}


def test_repeated_and_late_samples_are_dropped_and_counted() -> None:
    dot_session = session()
    packets = [mode_21(t) for t in (100_000, 116_667, 116_667, 100_000, 133_334)]
    assert together(feed(dot_session, packets, channel=dot.MEDIUM))[0].tolist() == [100000000, 116667000, 133334000]
    assert dot_session.counters["duplicates"] == 2


def test_a_restarted_device_gets_a_new_boot_and_no_hour_of_loss() -> None:
    dot_session = session()
    host, found = 10**12, []
    for t in [3_600_000_000 + i * 16_667 for i in range(5)] + [40_000 + i * 16_667 for i in range(8)]:
        host += 16_667_000
        dot_session.receive_data(mode_21(t), channel=dot.MEDIUM, host_time_ns=host)
        found += chunks(dot_session)
    assert [c.boot_id for c in found] == [0] * 5 + [1] * 6
    assert sum(c.lost for c in found) == 2


def test_values_at_the_end_of_range_are_saturated_and_impossible_ones_invalid() -> None:
    dot_session = session()
    end = 16 * 9.80665
    (a,) = feed(dot_session, [mode_21(0, acc=(end, -end, 1), gyr=(2000, 1, 1))], channel=dot.MEDIUM)
    assert a.saturated.tolist() == [[True, True, False, True, False, False]]
    (b,) = feed(dot_session, [mode_21(16_667, acc=(float("nan"), 1e30, 9.8))], channel=dot.MEDIUM)
    assert b.valid.tolist() == [[False, False, True, True, True, True]]
    assert b.values[0, :2].tolist() == [0, 0]


@pytest.mark.parametrize("payload", [b"", mode_21(1)[:-1], mode_21(1) + b"\1"])
def test_cut_or_prolonged_payloads_are_counted_as_bad(payload: bytes) -> None:
    dot_session = session()
    assert feed(dot_session, [payload], channel=dot.MEDIUM) == []
    assert dot_session.counters["bad"] == 1
    assert "28 bytes" in (dot_session.last_error or "")
    assert len(feed(dot_session, [mode_21(1) + bytes(12)], channel=dot.MEDIUM)) == 1


def test_an_unpublished_mode_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="not published"):
        dot.parse_payload(bytes(63), mode=17)


def test_battery_and_a_refused_sync_are_told() -> None:
    dot_session = session()
    dot_session.receive_data(bytes([80, 1]), channel=dot.BATTERY)
    assert events(dot_session) == [Battery(80, charging=True)]
    dot_session.receive_data(bytes.fromhex("02020300f9"), channel=dot.MESSAGE_ACK)
    assert doubts(dot_session) == []
    dot_session.receive_data(dot.message(2, bytes([3, 5])), channel=dot.MESSAGE_ACK)
    assert "refused with code 5" in doubts(dot_session)[0]
    assert dot_session.sync_state is dot.DotSync.REFUSED
    dot_session.receive_data(bytes.fromhex("02020300f8"), channel=dot.MESSAGE_ACK)
    assert dot_session.counters["bad"] == 1


def test_free_acceleration_taken_for_acceleration_raises_a_doubt() -> None:
    dot_session = session()
    texts = []
    for i in range(60 * 15):
        dot_session.receive_data(mode_21(i * 16_667, acc=(0.01, 0.02, -0.01)), channel=dot.MEDIUM)
        texts += doubts(dot_session)
    assert len(texts) == 1
    assert "at rest is 0.0" in texts[0]


def test_info_comes_first_and_tells_the_nearest_rate() -> None:
    dot_session = session(50.0)
    dot_session.receive_data(mode_21(0), channel=dot.MEDIUM)
    (info,) = infos(dot_session)
    assert info.rate_hz == 60
    assert info.spec.name == "shank_left"


def test_driver_is_registered_and_recognises_its_devices() -> None:
    family = driver("movella_dot")
    assert family.recognise(Advertisement("a", name="Movella DOT"))
    assert family.recognise(Advertisement("a", manufacturer_data={0x0886: b""}))
    assert not family.recognise(Advertisement("a", name="Polar H10 1234"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mode": "2"}, "mode"),
        ({"mood": "21"}, "unknown option"),
        ({"field_ut": "48"}, "mode 20"),
        ({"sync_root": "x"}, "address"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        session(**options)
    with pytest.raises(ConfigError, match="transport"):
        dot.MovellaDotDriver().open(SessionConfig("a"), transport="serial")


@settings(deadline=None, max_examples=60)
@given(hostile_payloads([mode_21(1000), mode_21(2**31), bytes([80, 1]), dot.message(2, bytes([3, 1]))]))
def test_no_bytes_break_a_session(payloads: list[bytes]) -> None:
    survives(session(), payloads, channels=[dot.MEDIUM, dot.MEDIUM, dot.BATTERY, dot.MESSAGE_ACK, "elsewhere"])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=2, max_size=200).filter(lambda kept: kept[0] and kept[-1]))
def test_received_and_lost_are_what_was_sent(kept: list[bool]) -> None:
    dot_session = session()
    feed(dot_session, [mode_21(round(i * 1e6 / 60)) for i, k in enumerate(kept) if k], channel=dot.MEDIUM)
    assert dot_session.counters["samples"] == sum(kept)
    assert dot_session.counters["lost"] == len(kept) - sum(kept)
