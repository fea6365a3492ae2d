"""MetaMotion: packed and single notifications, and two streams without numbers as rows of one sensor."""

from __future__ import annotations

import numpy as np
import pytest
from device_talk import START_NS, BleTalk, events_of, join, movement
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Battery, DeviceInfo, Doubt, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices.emulated_metamotion import EmulatedMetaMotion
from kinedge.firmware_bridge.devices.metamotion import (
    NOTIFY,
    SERVICE,
    WRITE,
    MetaMotionDriver,
    MetaMotionSession,
    parse_notification,
)
from kinedge.signals import ImuChunk
from kinedge.units import STANDARD_GRAVITY_M_S2 as G


def open_session(**config: object) -> MetaMotionSession:
    return MetaMotionDriver().open(SessionConfig("wrist_left", **config), transport="ble")  # type: ignore[arg-type]


def packed(kind: str, *counts: int) -> bytes:
    """Three samples whose x is the count, as often as there are counts divided by three."""
    rows = np.zeros((3, 3), "<i2")
    rows[:, 0] = counts
    return (b"\x03\x1c" if kind == "acc" else b"\x13\x07") + rows.tobytes()


def take(session: MetaMotionSession, *notifications: bytes, at_ns: int | None = None) -> list:  # type: ignore[type-arg]
    for data in notifications:
        session.receive_data(data, channel=NOTIFY, host_time_ns=at_ns)
    return events_of(session)


@pytest.mark.parametrize(
    ("data", "acc_g", "expected"),
    [
        ("030416c494a22ad0", 4, [[-1.872, -2.919, -1.495]]),
        (
            "031c62b7530de9fd16d04d0e57028affa1050a01",
            8,
            [[-4.539, 0.833, -0.131], [-2.995, 0.894, 0.146], [-0.029, 0.352, 0.065]],
        ),
    ],
)
def test_published_acceleration_decodes_to_si_units(data: str, acc_g: float, expected: list[list[float]]) -> None:
    session = open_session(acc_range_g=acc_g)
    silent = b"\x13\x05" if data.startswith("0304") else b"\x13\x07"
    joined = join(take(session, bytes.fromhex(data), silent + bytes(6 * len(expected))))
    np.testing.assert_allclose(joined.values[:, :3], np.array(expected) * G, atol=0.001 * G)
    assert joined.valid[:, :3].all()


@pytest.mark.parametrize(
    ("data", "deg_s", "expected"),
    [
        ("13053e43ff7f0080", 500, [[262.409, 499.497, -499.512]]),
        (
            "13070915ad2608de8a1a0d2665e48d20ac2773ec",
            1000,
            [[164.177, 301.860, -265.122], [207.134, 296.982, -215.457], [254.055, 309.634, -152.591]],
        ),
    ],
)
def test_published_angular_rate_decodes_to_si_units(data: str, deg_s: float, expected: list[list[float]]) -> None:
    session = open_session(gyr_range_deg_s=deg_s)
    joined = join(take(session, bytes.fromhex(data), b"\x03\x04" + bytes(6), *[b"\x03\x04" + bytes(6)] * 2))
    np.testing.assert_allclose(joined.values[: len(expected), 3:], np.deg2rad(expected), atol=np.deg2rad(0.001))
    ends = np.isclose(np.abs(expected), 499.5, atol=0.02)
    np.testing.assert_array_equal(joined.saturated[: len(expected), 3:], ends)


def test_commands_configure_subscribe_enable_and_power() -> None:
    session = open_session(rate_hz=100, acc_range_g=8, gyr_range_deg_s=2000)
    commands = list(iter(session.next_command, None))
    assert {c.channel for c in commands} == {WRITE} and not any(c.response for c in commands)
    assert [c.data.hex() for c in commands] == [
        "1380", "118c", "03032808", "13032800", "031c01", "130701", "13020100", "03020100", "130101", "030101",
    ]  # fmt: skip
    assert [c.data.hex() for c in session.stop_commands()] == [
        "030100", "130100", "03020001", "13020001", "031c00", "130700",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "acc", "gyr"),
    [
        ({"rate_hz": 25, "acc_range_g": 2, "gyr_range_deg_s": 125}, "03032603", "13032604"),
        ({"rate_hz": 50, "acc_range_g": 4, "gyr_range_deg_s": 250}, "03032705", "13032703"),
        ({"rate_hz": 999, "acc_range_g": 16, "gyr_range_deg_s": 500}, "0303290c", "13032902"),
    ],
)
def test_rates_and_ranges_have_their_codes(config: dict[str, float], acc: str, gyr: str) -> None:
    commands = [c.data.hex() for c in iter(open_session(**config).next_command, None)]
    assert commands[2:4] == [acc, gyr]


@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize("acc_is_sent_first", [True, False])
@pytest.mark.parametrize("from_s", [0.0, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("heard_from", range(6))
@pytest.mark.parametrize("on_time", [True, False])
def test_streams_are_paired_within_two_samples_however_their_packets_lie(
    phase: int, acc_is_sent_first: bool, from_s: float, heard_from: int, on_time: bool
) -> None:
    """Packets of the two end ``phase`` samples apart, one stream may speak alone for a while, times may say nothing."""
    order = ("acc", "gyr") if acc_is_sent_first else ("gyr", "acc")
    sent = sorted(
        (start + 2, order.index(kind), packed(kind, start, start + 1, start + 2))
        for kind in order
        for start in range(phase if kind == "gyr" else round(from_s * 100), 90, 3)
    )
    session, events = open_session(rate_hz=100), []
    for end, _, packet in sent[heard_from:]:
        events += take(session, packet, at_ns=START_NS + (end * 10_000_000 if on_time else 0))
    joined = join(events)
    both = joined.valid.all(axis=1)
    acc, gyr = np.rint(joined.values[:, 0] * 4096 / G), np.rint(np.rad2deg(joined.values[:, 3]) * 16.4)
    assert both.sum() > 60 and both[-50:].all()
    apart = acc[both] - gyr[both]
    assert np.ptp(apart) == 0 and abs(apart[0]) <= (1 if on_time else 2)
    assert (np.diff(joined.time_ns) > 0).all()


@pytest.mark.parametrize("lost", ["acc", "gyr"])
def test_a_dropped_notification_masks_samples_and_pairing_heals_within_two_seconds(lost: str) -> None:
    session = open_session(rate_hz=100)
    events = []
    for k in range(0, 900, 3):
        for kind in ("acc", "gyr"):
            if not (k == 300 and kind == lost):
                events += take(session, packed(kind, k, k + 1, k + 2))
    joined = join(events)
    acc, gyr = np.rint(joined.values[:, 0] * 4096 / G), np.rint(np.rad2deg(joined.values[:, 3]) * 16.4)
    both = joined.valid.all(axis=1)
    apart = np.where(both, acc - gyr, 0)
    usual = apart[100]
    n_first = session.counters["unpaired"] - 3
    assert abs(usual) <= 2 and 0 <= n_first <= 3 and (~both).sum() == 3 + n_first
    alone = np.flatnonzero(~both)[n_first:]
    column = 0 if lost == "acc" else 3
    assert not joined.valid[alone][:, column : column + 3].any()
    wrong = both & (apart != usual)
    assert 0 < wrong.sum() <= 200 and not wrong[510:].any()
    assert 897 <= len(joined.time_ns) <= 900 + n_first


def test_a_stream_whose_partner_is_silent_goes_on_alone() -> None:
    session = open_session(rate_hz=100)
    joined = join([e for k in range(0, 600, 3) for e in take(session, packed("acc", k, k, k))])
    assert 600 - 48 <= len(joined.time_ns) <= 600
    assert joined.valid[:, :3].all() and not joined.valid[:, 3:].any()


def test_reconnection_starts_a_new_timeline_without_old_halves() -> None:
    session = open_session(rate_hz=100)
    take(session, packed("acc", 1, 2, 3))
    session.link_reopened()
    joined = join(take(session, packed("acc", 7, 8, 9), packed("gyr", 7, 8, 9)))
    assert joined.boot_ids == [1] and len(joined.time_ns) == 3
    assert next(iter(session.next_command, None)).data == b"\x13\x80"  # type: ignore[union-attr]


def test_answers_become_battery_and_doubt() -> None:
    session = open_session()
    assert take(session, bytes.fromhex("118c633410")) == [Battery(99)]
    assert take(session, bytes.fromhex("13800001")) == []
    (doubt,) = take(session, bytes.fromhex("13800100"))
    assert isinstance(doubt, Doubt) and "BMI160" in doubt.text


@pytest.mark.parametrize("data", ["", "03", "0304", "030416c494a22a", "030416c494a22ad000", "031c00", "0b0700"])
def test_truncated_trailing_and_foreign_notifications_are_bad(data: str) -> None:
    with pytest.raises(ProtocolError):
        parse_notification(bytes.fromhex(data))
    session = open_session()
    assert take(session, bytes.fromhex(data)) == []
    assert session.counters["bad"] == 1


def test_driver_recognises_the_service_and_refuses_what_there_is_not() -> None:
    metamotion = driver("metamotion")
    assert metamotion.recognise(Advertisement("a", "anything", (SERVICE,)))
    assert metamotion.recognise(Advertisement("a", "MetaWear"))
    assert not metamotion.recognise(Advertisement("a", "Polar H10 123"))
    with pytest.raises(ConfigError, match="positive"):
        open_session(acc_range_g=-1)
    with pytest.raises(ConfigError, match="unknown option"):
        open_session(options={"x": "y"})


def test_conversation_streams_what_the_board_measured() -> None:
    values = movement(600)
    device = EmulatedMetaMotion(values, drop=frozenset({161}))
    assert driver("metamotion").recognise(device.advertisement)
    session = open_session(rate_hz=100)
    talk = BleTalk(session, device)
    events = talk.run(5.5)
    info = next(e for e in events if isinstance(e, DeviceInfo))
    assert info.rate_hz == 100 and Battery(99) in events
    joined = join(events)
    assert joined.lost == 0
    n = len(joined.values)
    assert n >= 500 and device.n_dropped_samples == 3
    healed = slice(450, n)
    acc, gyr = joined.values[healed, :3], joined.values[healed, 3:]
    np.testing.assert_allclose(acc, values[450:n, :3], atol=0.003)
    assert any(np.allclose(gyr, values[450 + by : n + by, 3:], atol=0.003) for by in range(-2, 3))
    assert joined.valid[healed].all()
    for command in session.stop_commands():
        device.write(command.channel, command.data, elapsed_ns=talk.elapsed_ns)
    sent = device.source.n_sent
    talk.run(0.2)
    assert device.source.n_sent == sent


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.builds(
                lambda h, b: h + b, st.sampled_from([b"\x03\x1c", b"\x13\x07"]), st.binary(min_size=18, max_size=18)
            ),
            st.builds(
                lambda h, b: h + b, st.sampled_from([b"\x03\x04", b"\x13\x05", b"\x13\x80"]), st.binary(max_size=6)
            ),
        ),
        max_size=60,
    )
)
def test_any_notifications_raise_nothing_and_every_sample_is_delivered_once(parts: list[bytes]) -> None:
    session = open_session()
    n_sent = [0, 0]
    events = []
    for i, part in enumerate(parts):
        events += take(session, part, at_ns=START_NS + i * 30_000_000)
        for quantity, head, n in ((0, b"\x03\x1c", 3), (1, b"\x13\x07", 3), (0, b"\x03\x04", 1), (1, b"\x13\x05", 1)):
            n_sent[quantity] += n * (part[:2] == head and len(part) == 2 + 6 * n)
    valid = join(events).valid
    waiting = [len(w) for w in session._waiting]
    assert max(waiting) <= 48
    assert [int(valid[:, 0].sum()) + waiting[0], int(valid[:, 3].sum()) + waiting[1]] == n_sent
    for event in events:
        if isinstance(event, ImuChunk):
            assert (np.diff(event.device_time_ns) > 0).all()
