"""The reference protocol as a device family: the same session over BLE, bare, and over serial, framed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import (
    SERIAL_CHANNEL,
    Advertisement,
    AsksTime,
    Battery,
    ClockExchange,
    Command,
    DeviceEvent,
    DeviceInfo,
    Doubt,
    Session,
    SessionConfig,
)
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices.kinedge_imu import (
    CONTROL_UUID,
    DATA_UUID,
    SERVICE_UUID,
    KinedgeDriver,
    KinedgeSession,
)
from kinedge.firmware_bridge.emulator import EmulatedImu, counts_from_si, make_hello
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import HelloRequest, Samples, Status, TimeSync
from kinedge.signals import IMU6, ImuChunk, SensorSpec

# HELLO: stream 1, boot 7, 20 ms, "wrist_left", serial "A1", acc_x alone with 0.5 m/s^2 a count up to 16
HELLO = bytes.fromhex(
    "11010700000000 2d3101 01 0a 77726973745f6c656674 02 4131 10 01 0000003f 00008041".replace(" ", "")
)
# SAMPLES: stream 1, sequence 5, 1000 us, 20 ms, counts 2, -4, 32 (the end of the range), -32768 (invalid)
SAMPLES = bytes.fromhex("12010500e803000000000000002d31010400 0200 fcff 2000 0080".replace(" ", ""))


def open_session(transport: str = "ble", *, sensor: str = "wrist_left", **options: str) -> KinedgeSession:
    return KinedgeDriver().open(SessionConfig(sensor, options=options), transport=transport)


def events_of(session: KinedgeSession) -> list[DeviceEvent]:
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


def ble_events(session: KinedgeSession, *payloads: bytes, at_ns: int | None = 5_000) -> list[DeviceEvent]:
    events = []
    for payload in payloads:
        session.receive_data(payload, channel=DATA_UUID, host_time_ns=at_ns)
        events += events_of(session)
    return events


def stream(*, n: int = 200, sensor: str = "wrist_left", stream_id: int = 1) -> list[bytes]:
    """Payloads of a device that runs for two seconds."""
    counts = np.arange(n * 6).reshape(n, 6).astype(np.int16)
    return EmulatedImu(make_hello(SensorSpec(sensor), rate_hz=100, stream_id=stream_id), counts).advance(3_000_000_000)


def chunks_in(events: Sequence[DeviceEvent]) -> list[ImuChunk]:
    return [e for e in events if isinstance(e, ImuChunk)]


def test_family_is_registered_and_fits_the_interface() -> None:
    found = driver("kinedge")
    assert isinstance(found, KinedgeDriver)
    session: Session = open_session()
    assert isinstance(session, AsksTime)
    assert list(session.subscriptions) == [DATA_UUID]
    assert not open_session("serial").subscriptions


def test_device_is_recognised_by_its_service() -> None:
    ours = KinedgeDriver()
    assert ours.recognise(Advertisement("A", service_uuids=("0000180f-0000-1000-8000-00805f9a34fb", SERVICE_UUID)))
    assert not ours.recognise(Advertisement("A", name="kinedge", service_uuids=(DATA_UUID,)))


def test_port_is_recognised_by_a_whole_packet_alone() -> None:
    ours = KinedgeDriver()
    frame = encode_frame(HELLO)
    assert ours.recognise_serial(b"boot: ok\r\n\0" + frame)
    assert ours.recognise_serial(frame[5:] + frame)
    assert not ours.recognise_serial(frame[:-1])
    assert not ours.recognise_serial(frame[:9] + bytes([frame[9] ^ 1]) + frame[10:])
    assert not ours.recognise_serial(b"")
    assert not any(ours.recognise_serial(random.Random(i).randbytes(4096)) for i in range(50))


def test_commands_are_these_bytes() -> None:
    assert KinedgeDriver().serial_probe() == bytes.fromhex("000515ff79ff00")
    ble, serial = open_session("ble"), open_session("serial")
    assert ble.next_command() == Command("26ef0003-4d11-4aac-9fef-a9743db42cf7", b"\x15\xff", response=True)
    assert ble.next_command() is None
    assert serial.next_command() == Command("serial", bytes.fromhex("0515ff79ff00"))
    assert not ble.stop_commands() and not serial.stop_commands()


@pytest.mark.parametrize(
    ("config", "transport", "message"),
    [
        (SessionConfig("wrist_left"), "carrier pigeon", "carrier pigeon"),
        (SessionConfig("wrist_left", options={"color": "red"}), "ble", "unknown option 'color'"),
        (SessionConfig("wrist_left", options={"placement": "nowhere"}), "ble", "config, device"),
        (SessionConfig("wrist_left", acc_range_g=8), "ble", "set in the firmware"),
        (SessionConfig("wrist_left", gyr_range_deg_s=500), "serial", "set in the firmware"),
        (SessionConfig("Left Wrist"), "ble", "Left Wrist"),
    ],
)
def test_wish_that_cannot_be_met_is_refused(config: SessionConfig, transport: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KinedgeDriver().open(config, transport=transport)


def test_vector_is_decoded_to_si_with_validity_and_saturation() -> None:
    info, chunk = ble_events(open_session(), HELLO, SAMPLES)
    assert info == DeviceInfo(SensorSpec("wrist_left", ("acc_x",)), 50.0, serial="A1")
    assert isinstance(chunk, ImuChunk)
    assert chunk.sensor == "wrist_left" and chunk.boot_id == 7 and chunk.host_time_ns == 5_000
    assert chunk.device_time_ns.tolist() == [1_000_000, 21_000_000, 41_000_000, 61_000_000]
    assert chunk.values[:3, 0].tolist() == [1.0, -2.0, 16.0]
    assert chunk.valid[:, 0].tolist() == [True, True, True, False]
    assert chunk.saturated[:, 0].tolist() == [False, False, True, False]
    assert chunk.interval_ns == 20_000_000


def test_serial_in_any_chunking_gives_what_ble_gives() -> None:
    payloads = stream()
    wanted = chunks_in(ble_events(open_session(), *payloads))
    line = b"".join(map(encode_frame, payloads))
    for cuts in ([len(line)], [1] * len(line), [7, 1000, 3, 50] * 100):
        session = open_session("serial")
        got: list[DeviceEvent] = []
        at = 0
        for size in cuts:
            session.receive_data(line[at : at + size], channel=SERIAL_CHANNEL)
            got += events_of(session)
            at += size
        for field in ("device_time_ns", "values", "valid", "saturated"):
            joined = [np.concatenate([getattr(c, field) for c in chunks]) for chunks in (wanted, chunks_in(got))]
            np.testing.assert_array_equal(*joined)
        assert sum(c.lost for c in chunks_in(got)) == 0


def test_trailing_bytes_of_the_next_packet_wait_for_their_end() -> None:
    session = open_session("serial")
    line = encode_frame(HELLO) + encode_frame(SAMPLES)
    session.receive_data(line[:-3], channel=SERIAL_CHANNEL)
    assert [type(e) for e in events_of(session)] == [DeviceInfo]
    session.receive_data(line[-3:], channel=SERIAL_CHANNEL)
    assert [type(e) for e in events_of(session)] == [ImuChunk]


def test_truncated_and_corrupted_packets_are_counted_and_doubted_once() -> None:
    session = open_session()
    ble_events(session, HELLO)
    doubts = ble_events(session, *(SAMPLES[:n] for n in range(1, len(SAMPLES))), HELLO[:-1], b"\x99" + SAMPLES[1:])
    assert [type(e) for e in doubts] == [Doubt]
    assert session.counters["bad"] == len(SAMPLES) + 1
    assert chunks_in(ble_events(session, SAMPLES))[0].values.shape == (4, 1)
    framed = open_session("serial")
    frame = encode_frame(SAMPLES)
    for at in range(len(frame) - 1):
        framed.receive_data(frame[:at] + bytes([frame[at] ^ 0x40]) + frame[at + 1 :], channel=SERIAL_CHANNEL)
    assert not events_of(framed)
    assert framed.counters["bad"] >= len(frame) - 1


def test_other_channels_are_ignored() -> None:
    session = open_session()
    for payload in (HELLO, SAMPLES):
        session.receive_data(payload, channel=CONTROL_UUID)
        session.receive_data(payload, channel=SERIAL_CHANNEL)
    assert not events_of(session)
    assert session.counters["packets"] == 0


def test_description_comes_once_until_it_changes() -> None:
    session = open_session()
    assert len(ble_events(session, HELLO, HELLO, HELLO)) == 1
    restarted = HELLO[:2] + b"\x08" + HELLO[3:]
    assert [type(e) for e in ble_events(session, restarted, restarted)] == [DeviceInfo]
    assert chunks_in(ble_events(session, SAMPLES))[0].boot_id == 8


def test_configured_placement_rules_and_a_contradiction_is_said_once() -> None:
    session = open_session(sensor="ankle_left")
    events = ble_events(session, HELLO, SAMPLES, HELLO)
    doubts = [e for e in events if isinstance(e, Doubt)]
    assert [type(e) for e in events] == [Doubt, DeviceInfo, ImuChunk]
    assert "wrist_left; ankle_left is configured, and rules" in doubts[0].text
    (chunk,) = chunks_in(events)
    assert chunk.sensor == "ankle_left"
    (info,) = [e for e in events if isinstance(e, DeviceInfo)]
    assert info.spec.name == "ankle_left"


def test_second_sensor_behind_a_link_is_used_only_when_the_devices_place_themselves() -> None:
    wrist, ankle = stream(stream_id=1), stream(sensor="ankle_left", stream_id=2)
    mixed = [payload for pair in zip(wrist, ankle, strict=True) for payload in pair]
    one = open_session()
    events = ble_events(one, *mixed)
    assert {c.sensor for c in chunks_in(events)} == {"wrist_left"}
    assert sum(map(len, chunks_in(events))) == one.counters["samples"] == one.counters["foreign"] == 200
    assert [e for e in events if isinstance(e, Doubt) and "placement = device" in e.text]
    both = open_session(placement="device")
    events = ble_events(both, *mixed)
    assert {c.sensor: len(c) for c in chunks_in(events)}.keys() == {"wrist_left", "ankle_left"}
    assert sum(map(len, chunks_in(events))) == both.counters["samples"] == 400
    assert {e.spec.name for e in events if isinstance(e, DeviceInfo)} == {"wrist_left", "ankle_left"}
    assert not any(isinstance(e, Doubt) for e in events)


def test_sensor_that_moves_to_another_stream_is_still_ours() -> None:
    session = open_session()
    ble_events(session, *stream(stream_id=1))
    moved = ble_events(session, *stream(stream_id=2))
    assert sum(map(len, chunks_in(moved))) == 200
    assert session.counters["foreign"] == 0


def test_loss_and_repetition_are_counted() -> None:
    payloads = stream()
    samples = [p for p in payloads if p[0] == 0x12]
    session = open_session()
    hello = payloads[0]
    chunks = chunks_in(ble_events(session, hello, samples[0], samples[3], samples[3], samples[4]))
    assert [c.lost for c in chunks] == [0, 20, 0]
    assert session.counters["lost"] == 20 and session.counters["duplicates"] == 10
    assert session.counters["samples"] == 30


def test_battery_is_told() -> None:
    status = Status(1, 7, 83, True, 36.5, 0, 1_000).to_bytes()
    unknown = Status(1, 7, None, False, None, 0, 1_000).to_bytes()
    assert ble_events(open_session(), status, unknown) == [Battery(83, True, 36.5), Battery(None, False, None)]


def test_question_about_the_clock_is_these_bytes_and_its_answer_an_exchange() -> None:
    session = open_session()
    assert session.time_request(1_000) is None  # nobody there yet
    ble_events(session, HELLO)
    request = session.time_request(123_456_789)
    assert request == Command(
        CONTROL_UUID, bytes.fromhex("13ff0000 0100 40e2010000000000".replace(" ", "")) + bytes(16), response=False
    )
    answer = TimeSync(1, 1, 123_456, 900, 950, is_response=True).to_bytes()
    assert ble_events(session, answer, at_ns=130_000_000) == [
        ClockExchange("wrist_left", 123_456_789, 900_000, 950_000, 130_000_000)
    ]
    framed = open_session("serial")
    framed.receive_data(encode_frame(HELLO), channel=SERIAL_CHANNEL)
    events_of(framed)
    asked = framed.time_request(5_000)
    assert asked is not None and asked.channel == SERIAL_CHANNEL and asked.data[-1] == 0


@pytest.mark.parametrize(
    "answer",
    [
        TimeSync(1, 2, 123_456, 900, 950, is_response=True),  # to a question that was not asked
        TimeSync(1, 1, 123_457, 900, 950, is_response=True),  # echoes another time
        TimeSync(9, 1, 123_456, 900, 950, is_response=True),  # of a stream that nobody described
        TimeSync(1, 1, 123_456, 950, 900, is_response=True),  # sent before it was received
        TimeSync(1, 1, 123_456, 900, (1 << 64) - 1, is_response=True),
        TimeSync(1, 1, 123_456, 900, 950, is_response=False),
    ],
)
def test_answer_that_cannot_be_is_no_exchange(answer: TimeSync) -> None:
    session = open_session()
    ble_events(session, HELLO)
    session.time_request(123_456_789)
    assert not ble_events(session, answer.to_bytes())
    good = TimeSync(1, 1, 123_456, 900, 950, is_response=True).to_bytes()
    assert not ble_events(session, good, at_ns=None)  # in a replay nobody knows when it came
    assert len(ble_events(session, good)) == 1


def test_reopened_link_forgets_half_frames_and_asks_again() -> None:
    session = open_session("serial")
    assert session.next_command() is not None
    session.receive_data(encode_frame(HELLO), channel=SERIAL_CHANNEL)
    frame = encode_frame(SAMPLES)
    session.receive_data(frame[:10], channel=SERIAL_CHANNEL)
    session.link_reopened()
    session.receive_data(frame + encode_frame(HELLO), channel=SERIAL_CHANNEL)
    assert [type(e) for e in events_of(session)] == [DeviceInfo, ImuChunk]
    assert session.next_command() == Command(SERIAL_CHANNEL, encode_frame(HelloRequest().to_bytes()))
    assert session.next_command() is None


def test_counter_far_behind_makes_the_session_ask_who_is_there() -> None:
    session = open_session()
    counts = np.zeros((10, 1), np.int16)
    late, early = (
        Samples.from_counts(counts, stream_id=1, sequence=at, t_us=at * 20_000, interval_ns=20_000_000).to_bytes()
        for at in (1000, 0)
    )
    ble_events(session, HELLO, late)
    while session.next_command() is not None:
        pass
    assert not ble_events(session, early)
    asked = session.next_command()
    assert asked is not None and asked.data == HelloRequest().to_bytes()


@given(
    st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([HELLO, SAMPLES]))), st.sampled_from(["ble", "serial"])
)
@settings(deadline=None, max_examples=150)
def test_no_bytes_do_harm(packets: list[bytes], transport: str) -> None:
    session = open_session(transport)
    channel = SERIAL_CHANNEL if transport == "serial" else DATA_UUID
    for packet in packets:
        session.receive_data(packet if transport == "ble" else packet + b"\0", channel=channel)
        try:
            for event in events_of(session):
                assert isinstance(event, (ImuChunk, DeviceInfo, Battery, Doubt, ClockExchange))
        except ProtocolError:
            pass


@pytest.mark.parametrize(("scale", "says"), [(1.0, False), (0.5, True), (1 / 9.80665, True)])
def test_a_device_that_tells_a_wrong_scale_is_doubted_once(scale: float, says: bool) -> None:
    hello = make_hello(SensorSpec("wrist_left"), rate_hz=100)
    still = np.tile([0.0, 0.0, 9.80665 * scale, 0.0, 0.0, 0.0], (3000, 1))
    device = EmulatedImu(hello, counts_from_si(still, hello=hello))
    session, found = open_session(), []
    for second in range(1, 31):
        found += ble_events(session, *device.advance(second * 1_000_000_000))
    doubts = [e.text for e in found if isinstance(e, Doubt)]
    told = f"wrist_left: the acceleration at rest is {9.80665 * scale:.2f} m/s^2, expected about 9.81; check the scale"
    assert [told in text for text in doubts] == [True] * says


def test_hostile_device_does_not_make_the_session_grow() -> None:
    session = open_session(placement="device")
    rng = random.Random(3)
    for i in range(3000):
        spec = SensorSpec(f"s{i}", IMU6)
        hello = make_hello(spec, rate_hz=100, stream_id=i % 255, boot_id=i).to_bytes()
        ble_events(session, hello, rng.randbytes(100), HELLO[: rng.randrange(1, 30)])
        session.time_request(i)
    assert len(session._streams) <= 255
    assert len(session._questions) <= 16
    assert len(session._doubts) <= 16
    assert len(session._gravity) <= 255
    assert not session._events
