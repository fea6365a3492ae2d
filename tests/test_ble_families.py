"""Every family of Bluetooth devices end to end: found on the radio, recognised, started, heard, lost, back, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from virtual_ble import Room, wait_until
from virtual_devices import (
    DevicePeripheral,
    EmulatedDot,
    EmulatedMovesense,
    EmulatedOpenEarable,
    movement,
    table,
)
from virtual_polar import EmulatedPolar

from kinedge.errors import LinkError
from kinedge.firmware_bridge.device import Battery, ClockExchange, Command, DeviceInfo, Doubt, SessionConfig
from kinedge.firmware_bridge.devices import driver, drivers
from kinedge.firmware_bridge.devices.emulated_metamotion import EmulatedMetaMotion
from kinedge.firmware_bridge.devices.emulated_witmotion import EmulatedWitMotionBle
from kinedge.firmware_bridge.links import LinkClosed, LinkData, LinkOpened
from kinedge.firmware_bridge.links_ble import BleLink, channels_of
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import IMU6, ImuChunk

TIMEOUT_S = 20.0
IMU9 = (*IMU6, "mag_x", "mag_y", "mag_z")
GAP_S = 0.4
N_SAMPLES = 40
TOLERANCE = np.array([0.02] * 3 + [0.02] * 3 + [0.2] * 3)
FAST: Mapping[str, Any] = {"first_pause_s": 0.02, "longest_pause_s": 0.1, "find_timeout_s": 5.0}
DOT_CONTROL = "15172001-4947-11e9-8646-d663bd873d93"
DOT_MESSAGE = "15177001-4947-11e9-8646-d663bd873d93"


@dataclass(frozen=True)
class Case:
    """One device, what is asked of it, and what must be heard and written.

    ``start``, ``start_again`` (after a lost connection; as ``start`` when None) and ``stop`` are all that is written,
    in order. ``gyr_off`` samples is what the angular rate may be paired wrongly.
    """

    family: str
    device: Callable[[], Any]
    rate_hz: float
    start: Sequence[str]
    stop: Sequence[str]
    channels: Sequence[str] = IMU6
    options: Mapping[str, str] = field(default_factory=dict)
    real_rate_hz: float | None = None
    doubts: Sequence[str] = ()
    start_again: Sequence[str] | None = None
    gyr_off: int = 0


def dot_case(mode: int, options: Mapping[str, str], channels: Sequence[str] = IMU6) -> Case:
    return Case(
        "movella_dot",
        EmulatedDot,
        60,
        ["10" + "00" * 23 + "3c00" + "00" * 6, f"0101{mode:02x}"],
        [f"0100{mode:02x}"],
        channels,
        options,
    )


CASES = {
    "movella dot, mode 20": dot_case(20, {"mode": "20", "field_ut": "50"}, IMU9),
    "movella dot, mode 21": dot_case(21, {}),
    "movella dot, mode 26": dot_case(26, {"mode": "26"}),
    "polar h10": Case(
        "polar_pmd",
        EmulatedPolar.h10,
        100,
        ["0102", "0202 00016400 01011000 02010800", "0105"],
        ["0302"],
        IMU6[:3],
        doubts=["no gyr for us (not supported)"],
    ),
    "polar verity sense": Case(
        "polar_pmd",
        EmulatedPolar.verity,
        50,
        [
            *("0102", "0202 00013400 01011000 02010800 040103"),
            *("0105", "0205 00013400 01011000 0201d007 040103"),
            *("0106", "0206 00013200 01011000 02013200 040103"),
        ],
        ["0302", "0305", "0306"],
        IMU9,
        {"streams": "acc+gyr+mag"},
        52,
        start_again=[  # it went on while nobody was connected: refused, stopped, started
            *("0102", "0202 00013400 01011000 02010800 040103", "0302", "0202 00013400 01011000 02010800 040103"),
            *("0105", "0205 00013400 01011000 0201d007 040103", "0305", "0205 00013400 01011000 0201d007 040103"),
            *("0106", "0206 00013200 01011000 02013200 040103", "0306", "0206 00013200 01011000 02013200 040103"),
        ],
    ),
    "movesense imu6, cut": Case(
        "movesense",
        lambda: EmulatedMovesense(room=60),
        100,
        ["0001", "0163" + b"/Meas/IMU6/104".hex()],
        ["0263"],
        real_rate_hz=104,
    ),
    "movesense imu9, cut": Case(
        "movesense",
        lambda: EmulatedMovesense(room=100),
        52,
        ["0001", "0163" + b"/Meas/IMU9/52".hex()],
        ["0263"],
        IMU9,
        {"resource": "IMU9"},
    ),
    "movesense imu6, whole": Case(
        "movesense",
        lambda: EmulatedMovesense(room=240, each=8),
        208,
        ["0001", "0163" + b"/Meas/IMU6/208".hex()],
        ["0263"],
    ),
    "openearable 2": Case("openearable", EmulatedOpenEarable, 100, ["000201"], ["000200"], IMU9),
    "witmotion": Case("witmotion", lambda: EmulatedWitMotionBle(table()), 100, ["ffaa6988b5", "ffaa030900"], []),
    "metamotion": Case(
        "metamotion",
        lambda: EmulatedMetaMotion(table()),
        100,
        [
            *("1380", "118c", "03032808", "13032800", "031c01", "130701"),
            *("13020100", "03020100", "130101", "030101"),
        ],
        ["030100", "130100", "03020001", "13020001", "031c00", "130700"],
        gyr_off=2,  # they are paired by the order in which they come
    ),
}


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 2 * TIMEOUT_S))


async def take(events: AsyncIterator[Any], enough: Callable[[list[Any]], bool]) -> list[Any]:
    """Take events until there are enough."""
    taken: list[Any] = []

    async def go() -> None:
        async for event in events:
            taken.append(event)
            if enough(taken):
                return
        raise AssertionError(f"the link ended after {taken[-3:]}")

    try:
        await asyncio.wait_for(go(), TIMEOUT_S)
    except asyncio.TimeoutError:
        raise AssertionError(f"not enough came in time; the last were {taken[-3:]}") from None
    return taken


def last_is(kind: type) -> Callable[[list[Any]], bool]:
    return lambda taken: isinstance(taken[-1], kind)


def n_samples(n: int) -> Callable[[list[Any]], bool]:
    return lambda taken: sum(len(e) for e in taken if isinstance(e, ImuChunk)) >= n


def n_whole(n: int) -> Callable[[list[Any]], bool]:
    """Whether there are so many samples with nothing masked."""
    return lambda taken: sum(int(e.valid.all(axis=1).sum()) for e in taken if isinstance(e, ImuChunk)) >= n


def chunks_in(events: Sequence[Any]) -> list[ImuChunk]:
    return [e for e in events if isinstance(e, ImuChunk)]


def sample_numbers(time_ns: np.ndarray, values: np.ndarray, device: Any, *, rate_hz: float) -> np.ndarray:
    """Which sample since power on each one is: by time, or by the acceleration where the device knows no time."""
    if not hasattr(device, "epoch_ns"):
        return np.abs(values[:, None, :3] - table()[None, :, :3]).max(axis=2).argmin(axis=1)
    elapsed_ns = (time_ns - device.epoch_ns) % getattr(device, "wrap_ns", 1 << 62)  # it may have wrapped unheard
    assert (np.diff(elapsed_ns) > 0).all()
    numbers = np.rint(elapsed_ns * rate_hz / 1e9).astype(int)
    assert np.abs(elapsed_ns - numbers * 1e9 / rate_hz).max() < 2e6, "a time lies between two samples"
    return numbers


def require_true(chunks: Sequence[ImuChunk], device: Any, *, rate_hz: float, gyr_off: int = 0) -> None:
    """What is valid is what was measured; what is missing is counted, or begins a new timeline.

    The angular rate may be that of up to ``gyr_off`` samples before or after, the same for a whole timeline.
    """
    chunk_of = np.repeat(np.arange(len(chunks)), [len(c) for c in chunks])
    time_ns, values, valid = (
        np.concatenate([getattr(c, what) for c in chunks]) for what in ("device_time_ns", "values", "valid")
    )
    assert not values[~valid].any()
    started = int(valid.all(axis=1).argmax())  # until then, one stream of several may speak alone
    with_acc = valid[:, :3].all(axis=1)
    assert valid[started:].mean() > 0.7 and with_acc[started:].mean() > 0.9
    time_ns, values, valid, chunk_of = (x[with_acc] for x in (time_ns, values, valid, chunk_of))
    numbers = sample_numbers(time_ns, values, device, rate_hz=rate_hz)

    def right(shift: int) -> np.ndarray:
        true = movement((numbers + shift) / rate_hz)[:, : values.shape[1]]
        near: np.ndarray = (np.abs(values - true) <= TOLERANCE[: values.shape[1]]) | ~valid
        return near

    assert right(0)[:, :3].all() and right(0)[:, 6:].all()
    boots = np.array([c.boot_id for c in chunks])
    for boot in np.unique(boots):
        gyr = [right(shift)[boots[chunk_of] == boot, 3:6] for shift in range(-gyr_off, gyr_off + 1)]
        assert any(rows.all() for rows in gyr)

    missing = np.diff(numbers) - 1
    assert (missing >= 0).all(), "a sample came twice"
    lost = np.cumsum([c.lost for c in chunks])[chunk_of]
    same_boot = np.diff(boots[chunk_of]) == 0
    rough = getattr(device, "stamp_ns", 1) > 1000  # milliseconds: the rate was not learned well enough for a long gap
    off = np.abs(missing - np.diff(lost))[same_boot]
    assert (off <= rough * -(-missing[same_boot] // 50)).all()


def hexes(writes: Sequence[tuple[str, bytes]]) -> list[str]:
    """What was written, but for questions about the time."""
    return [data.hex() for channel, data in writes if channel != EmulatedOpenEarable.time]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_device_is_found_started_heard_lost_back_and_stopped(case: Case) -> None:
    async def main() -> None:
        async with Room() as room:
            emulated = case.device()
            device = DevicePeripheral(emulated)
            await room.add(device)
            (heard,) = await room.radio.scan(duration_s=0.4, drivers=drivers())
            assert heard.families == (case.family,)

            config = SessionConfig("wrist_left", rate_hz=case.rate_hz, options=case.options)
            session = driver(case.family).open(config, transport="ble")
            radio_link = BleLink(heard.advertisement.address, radio=room.radio, choose=channels_of(session), **FAST)
            link = SessionLink(radio_link, session)
            events = link.events()
            taken = await take(events, n_samples(N_SAMPLES))
            await device.disconnect()
            await device.fall_silent()
            await asyncio.sleep(GAP_S)  # long enough to be a gap even between frames of many samples
            await device.be_heard()
            lost = await take(events, last_is(LinkClosed))
            back = await take(events, last_is(LinkOpened))
            again = await take(events, n_samples(N_SAMPLES))
            assert link.counters.reconnects == 1

            commands = [*case.start, *(case.start_again or case.start)]
            await wait_until(lambda: len(hexes(device.writes)) >= len(commands))
            await link.close()
            assert hexes(device.writes) == [text.replace(" ", "") for text in [*commands, *case.stop]]
            if case.stop:
                assert not (emulated.measuring if hasattr(emulated, "measuring") else emulated.source.running)

            everything = [*taken, *lost, *back, *again]
            infos = [e for e in everything if isinstance(e, DeviceInfo)]
            rate_hz = case.real_rate_hz or case.rate_hz
            assert {(i.spec.name, i.spec.channels, i.rate_hz) for i in infos} == {
                ("wrist_left", tuple(case.channels), rate_hz)
            }
            assert everything.index(infos[0]) < everything.index(chunks_in(everything)[0])
            doubts = {e.text for e in everything if isinstance(e, Doubt)}
            assert len(doubts) == len(case.doubts)
            assert all(any(text in doubt for doubt in doubts) for text in case.doubts)
            chunks = chunks_in(everything)
            require_true(chunks, emulated, rate_hz=rate_hz, gyr_off=case.gyr_off)
            gap = sum(c.lost for c in chunks[1:])
            assert gap >= GAP_S * rate_hz * 0.9 or chunks[-1].boot_id != chunks[0].boot_id
            assert link.counters.bad == link.counters.refused_commands == 0

    run(main())


def test_all_families_at_once_on_one_radio() -> None:
    async def main() -> None:
        async with Room() as room:
            names = [
                "movella dot, mode 21",
                "polar h10",
                "movesense imu6, cut",
                "openearable 2",
                "witmotion",
                "metamotion",
            ]
            cases = {case.family: case for case in map(CASES.__getitem__, names)}
            devices = {family: DevicePeripheral(case.device()) for family, case in cases.items()}
            for device in devices.values():
                await room.add(device)
            heard = await room.radio.scan(duration_s=0.6, drivers=drivers())
            assert {h.advertisement.address: h.families for h in heard} == {
                device.address: (family,) for family, device in devices.items()
            }
            links = {f: session_link(room, device, f, cases[f].rate_hz) for f, device in devices.items()}
            taken = await asyncio.gather(*(take(link.events(), n_whole(N_SAMPLES)) for link in links.values()))
            for (family, case), events in zip(cases.items(), taken, strict=True):
                chunks, emulated = chunks_in(events), devices[family].device
                require_true(chunks, emulated, rate_hz=case.real_rate_hz or case.rate_hz, gyr_off=case.gyr_off)
                assert sum(c.lost for c in chunks) == 0
                await links[family].close()

    run(main())


def test_witmotion_that_streamed_at_another_rate_before_is_neither_late_nor_lossy() -> None:
    device = EmulatedWitMotionBle(table())  # as delivered: 10 Hz
    session = driver("witmotion").open(SessionConfig("wrist_left", rate_hz=100), transport="ble")
    late_ns, lost = [], 0
    for ms in range(0, 6000, 5):
        if ms % 500 == 0 and (command := session.next_command()) is not None:  # a slow link
            device.write(command.channel, command.data, elapsed_ns=ms * 1_000_000)
        for channel, data in device.advance(ms * 1_000_000):
            session.receive_data(data, channel=channel, host_time_ns=ms * 1_000_000)
        while (event := session.next_event()) is not None:
            if isinstance(event, ImuChunk) and ms > 510:
                late_ns.append(ms * 1_000_000 - int(event.device_time_ns[-1]))
                lost += event.lost
    assert len(late_ns) > 500 and lost == 0
    assert max(map(abs, late_ns)) <= 5_000_000


def session_link(room: Room, device: DevicePeripheral, family: str, rate_hz: float, **options: Any) -> SessionLink:
    session = driver(family).open(SessionConfig("wrist_left", rate_hz=rate_hz), transport="ble")
    return SessionLink(
        BleLink(device.address, radio=room.radio, choose=channels_of(session), **FAST), session, **options
    )


def test_polar_in_its_charger_says_so_and_streams_once_it_is_taken_out() -> None:
    async def main() -> None:
        async with Room() as room:
            emulated = EmulatedPolar.h10()
            emulated.in_charger = True
            device = DevicePeripheral(emulated)
            await room.add(device)
            link = session_link(room, device, "polar_pmd", 50, stale_s=1.0)
            events = link.events()
            taken = await take(events, last_is(Doubt))
            assert "the device is in its charger" in taken[-1].text
            emulated.in_charger = False
            taken += await take(events, last_is(ImuChunk))
            assert link.counters.silences >= 1 and link.counters.bad >= 1
            await link.close()
            assert not emulated.measuring

    run(main())


def test_movesense_that_lacks_a_rate_is_not_streaming_and_says_why() -> None:
    async def main() -> None:
        async with Room() as room:
            emulated = EmulatedMovesense(room=160, refused=["208"])
            device = DevicePeripheral(emulated)
            await room.add(device)
            link = session_link(room, device, "movesense", 200)
            events = link.events()
            taken = await take(events, last_is(Doubt))
            assert "refuses /Meas/IMU6/208 with status 404" in taken[-1].text
            assert not chunks_in(taken) and not emulated.measuring
            await link.close()

    run(main())


def test_device_that_refuses_a_write_is_an_error_of_the_link() -> None:
    async def main() -> None:
        async with Room() as room:
            dot = DevicePeripheral(EmulatedDot())
            await room.add(dot)
            link = BleLink(dot.address, radio=room.radio, choose=lambda found: sorted(found), **FAST)
            events = link.events()
            await take(events, last_is(LinkOpened))
            with pytest.raises(LinkError, match="did not take a command"):
                await link.send(Command(DOT_CONTROL, b"\x01\x01"))
            assert not dot.device.measuring
            await link.send(Command(DOT_MESSAGE, bytes.fromhex("0207013d69f16ecad453")))
            (ack,) = await take(events, last_is(LinkData))
            assert ack.data == bytes.fromhex("02020300f9")
            await link.send(Command(DOT_CONTROL, b"\x01\x01\x15"))
            battery, _ = await take(events, lambda taken: len(taken) == 2)
            assert battery.data == bytes([87, 0])
            await link.close()

    run(main())


def test_openearable_tells_its_time_when_asked() -> None:
    async def main() -> None:
        async with Room() as room:
            device = DevicePeripheral(EmulatedOpenEarable())
            await room.add(device)
            link = session_link(room, device, "openearable", 50, time_sync_s=0.05)
            events = link.events()
            taken = await take(events, lambda taken: sum(isinstance(e, ClockExchange) for e in taken) >= 5)
            await link.close()
            ahead_ns = device.device.epoch_ns - device.start_ns
            for e in taken:
                if isinstance(e, ClockExchange):
                    # Within a microsecond, the resolution of its clock.
                    assert e.t1_ns + ahead_ns - 1000 <= e.t2_ns <= e.t3_ns <= e.t4_ns + ahead_ns

    run(main())


def test_dot_tells_its_battery() -> None:
    async def main() -> None:
        async with Room() as room:
            device = DevicePeripheral(EmulatedDot())
            await room.add(device)
            link = session_link(room, device, "movella_dot", 60)
            taken = await take(link.events(), last_is(Battery))
            assert taken[-1] == Battery(87)
            await link.close()

    run(main())


@pytest.mark.parametrize("after_ms", range(0, 260, 20))
def test_polar_rows_that_wait_for_other_streams_survive_a_lost_connection(after_ms: int) -> None:
    """Acceleration that waits for its angular rate comes out, the latter masked, and nothing is missed uncounted."""
    emulated = EmulatedPolar.verity()
    session = driver("polar_pmd").open(
        SessionConfig("wrist_left", rate_hz=52, options={"streams": "acc+gyr+mag"}), transport="ble"
    )
    chunks = []

    def talk(until_ms: int, *, from_ms: int) -> None:
        for at_ns in range(from_ms * 1_000_000, until_ms * 1_000_000, 5_000_000):
            while (command := session.next_command()) is not None:
                emulated.write(command.channel, command.data, elapsed_ns=at_ns)
            for channel, data in emulated.advance(at_ns):
                session.receive_data(data, channel=channel, host_time_ns=at_ns)
            while (event := session.next_event()) is not None:
                if isinstance(event, ImuChunk):
                    chunks.append(event)

    talk(2000 + after_ms, from_ms=0)
    emulated.advance(3_000_000_000)  # nobody listens
    session.link_reopened()
    talk(5000, from_ms=3000)
    require_true(chunks, emulated, rate_hz=52)
    assert sum(c.lost for c in chunks[1:]) > 30
