"""LSL: any IMU stream in, samples and verdicts out, over real LSL on this machine; XDF files as recordings."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.cli.app import main
from kinedge.edge.config import GatewayConfig
from kinedge.edge.service import EdgeService
from kinedge.errors import ConfigError, LinkError, SignalError
from kinedge.firmware_bridge.channel_map import map_channels
from kinedge.firmware_bridge.device import DeviceInfo, Doubt
from kinedge.firmware_bridge.links import LinkClosed
from kinedge.firmware_bridge.links_lsl import LslLink
from kinedge.firmware_bridge.lsl import LslInlet, SampleOutlet, VerdictOutlet, heard_streams
from kinedge.firmware_bridge.recorded import read_session
from kinedge.firmware_bridge.xdf import read_xdf
from kinedge.signals import IMU6, ImuChunk, SensorSpec
from kinedge.training.scenario import demo_recording

TIMEOUT_S = 10.0
RATE_HZ = 100.0
G = 9.80665


@pytest.fixture(scope="module")
def lsl() -> Any:
    """Return pylsl, heard on this machine alone; skip where liblsl or the loopback is not there."""
    pytest.importorskip("pylsl", reason="the extra 'lsl' is not installed", exc_type=(ImportError, RuntimeError))
    import pylsl

    pylsl.set_config_content("[multicast]\nResolveScope = machine\n[log]\nlevel = -3\n")
    name = uuid.uuid4().hex
    outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "probe", 1, 1.0, "float32", name))
    if not pylsl.resolve_byprop("name", name, timeout=5.0):
        pytest.skip("LSL finds no streams of this machine: multicast is not possible here")
    del outlet
    return pylsl


def foreign(lsl: Any, labels: list[str], units: list[str], *, rate_hz: float = RATE_HZ) -> tuple[Any, str]:
    name = uuid.uuid4().hex
    info = lsl.StreamInfo(name, "IMU", len(labels), rate_hz, "double64", name)
    info.set_channel_labels(labels)
    info.set_channel_units(units)
    return lsl.StreamOutlet(info), name


def foreign_named(lsl: Any, name: str) -> tuple[Any, str]:
    info = lsl.StreamInfo(name, "IMU", 1, RATE_HZ, "double64", name)
    info.set_channel_labels(["acc_x"])
    info.set_channel_units(["g"])
    return lsl.StreamOutlet(info), name


def pulled(inlet: LslInlet, n: int) -> Iterator[ImuChunk]:
    end = time.monotonic() + TIMEOUT_S
    while n > 0:
        assert time.monotonic() < end, "the samples did not come"
        if (chunk := inlet.pull(timeout_s=0.2)) is not None:
            n -= len(chunk)
            yield chunk


def test_a_foreign_stream_becomes_si_chunks_with_gaps_counted_and_nan_masked(lsl: Any) -> None:
    outlet, name = foreign(lsl, ["battery", "Gyro Z", "Acc_X", "Acc_Y"], ["%", "deg/s", "g", "g"])
    with LslInlet(name, "wrist_left") as inlet:
        assert inlet.spec.channels == ("acc_x", "acc_y", "gyr_z")
        assert outlet.wait_for_consumers(TIMEOUT_S)
        rows = np.tile([50.0, 180.0, 1.0, -2.0], (20, 1))
        rows[3, 2] = np.nan
        stamps = 100.0 + np.r_[0:10, 15:25] / RATE_HZ
        outlet.push_chunk(rows, stamps.tolist())
        chunks = list(pulled(inlet, 20))
        outlet.push_chunk(rows[:2], [100.1, 100.25])  # the first came before
        (after,) = pulled(inlet, 1)
        outlet.push_chunk(rows[:1], [5.0])
        (restarted,) = pulled(inlet, 1)
    values, valid = (np.concatenate([getattr(c, k) for c in chunks]) for k in ("values", "valid"))
    np.testing.assert_allclose(values[0], [G, -2 * G, np.pi], rtol=1e-6)
    assert not valid[3, 0]
    assert valid.sum() == 20 * 3 - 1
    times = np.concatenate([c.device_time_ns for c in chunks])
    np.testing.assert_allclose(times / 1e9, stamps, atol=1e-8)
    assert sum(c.lost for c in chunks) == 5
    assert (len(after), inlet.dropped, after.boot_id) == (1, 1, 0)
    assert restarted.boot_id == 1
    assert all(c.host_time_ns is not None for c in chunks)


def test_samples_sent_are_those_received_at_the_same_host_time(lsl: Any) -> None:
    spec = SensorSpec(f"s{uuid.uuid4().hex[:12]}", IMU6)
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 6)).astype(np.float32)
    valid = rng.random((50, 6)) > 0.1
    time_ns = 10**9 + np.arange(50, dtype=np.int64) * 10_000_000
    chunk = ImuChunk(spec.name, time_ns, values, valid, np.zeros_like(valid), 10_000_000)
    outlet = SampleOutlet(spec, rate_hz=RATE_HZ, source_id=spec.name)
    with LslInlet(spec.name, spec.name) as inlet:
        assert outlet.wait_for_consumers(timeout_s=TIMEOUT_S)
        host_ns = time.monotonic_ns() + time_ns
        outlet.push(chunk, host_ns)
        got = list(pulled(inlet, 50))
    assert inlet.rate_hz == RATE_HZ
    received_valid = np.concatenate([c.valid for c in got])
    np.testing.assert_array_equal(received_valid, valid)
    np.testing.assert_array_equal(np.concatenate([c.values for c in got])[valid], values[valid])
    offset_ns = round(lsl.local_clock() * 1e9) - time.monotonic_ns()
    np.testing.assert_allclose(np.concatenate([c.device_time_ns for c in got]) - host_ns, offset_ns, atol=5_000_000)
    with pytest.raises(SignalError, match="times"):
        outlet.push(chunk, host_ns[:3])
    with pytest.raises(SignalError, match="chunk of other"):
        outlet.push(ImuChunk("other", time_ns, values, valid, valid, 10), host_ns)


def test_verdicts_go_out_as_json(lsl: Any) -> None:
    name = uuid.uuid4().hex
    outlet = VerdictOutlet(name, source_id=name)
    (info,) = lsl.resolve_byprop("name", name, timeout=TIMEOUT_S)
    inlet = lsl.StreamInlet(info)
    inlet.open_stream(TIMEOUT_S)
    assert outlet.wait_for_consumers(timeout_s=TIMEOUT_S)
    outlet.push({"decision": "anomalous", "score": 0.93, "why": "größer"}, 5_000_000_000)
    sample, _ = inlet.pull_sample(TIMEOUT_S)
    assert json.loads(sample[0]) == {"decision": "anomalous", "score": 0.93, "why": "größer"}
    with pytest.raises(SignalError, match="no JSON form"):
        outlet.push({"score": float("nan")}, 0)


def test_a_stream_that_is_not_there_or_not_understood_is_one_error(lsl: Any) -> None:
    with pytest.raises(LinkError, match="was not found"):
        LslInlet(uuid.uuid4().hex, "wrist_left", timeout_s=0.5)
    kept, name = foreign(lsl, ["acc_x"], [""])
    with pytest.raises(ConfigError, match="no unit is given for acc_x"):
        LslInlet(name, "wrist_left")
    other, name_of_other = foreign(lsl, ["acc_x"], ["g"], rate_hz=0.0)
    with pytest.raises(ConfigError, match="rate_hz"):
        LslInlet(name_of_other, "wrist_left")
    with LslInlet(name, "wrist_left", unit_of={"acc": "g"}) as inlet:
        assert inlet.spec.channels == ("acc_x",)
    del kept, other


@pytest.mark.parametrize(
    ("labels", "channels"),
    [
        (["acc_x", "acc_y", "acc_z"], ("acc_x", "acc_y", "acc_z")),
        (["GyroZ", "AccelX", "time"], ("acc_x", "gyr_z")),
        (["Accelerometer Y", "wrist.magn-x"], ("acc_y", "mag_x")),
    ],
)
def test_common_labels_are_understood(labels: list[str], channels: tuple[str, ...]) -> None:
    found = map_channels("chest", labels, [""] * 3, unit_of={"acc": "g", "gyr": "dps", "mag": "uT"}, where="here")
    assert found.spec.channels == channels


@pytest.mark.parametrize(
    ("labels", "units", "options", "says"),
    [
        (["x", "y"], ["g", "g"], {}, "none of its labels"),
        (["acc_x", "Accel X"], ["g", "g"], {}, "both mean acc_x"),
        (["acc_x"], ["furlong"], {}, "'furlong' is unknown"),
        (["a", "a"], ["g", "g"], {"mapping": {"acc_x": "a"}}, "2 channels are called"),
        (["acc_x"], ["g"], {"unit_of": {"accel": "g"}}, "knows acc, gyr and mag"),
    ],
)
def test_what_is_not_known_is_never_guessed(labels: list[str], units: list[str], options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        map_channels("chest", labels, units, where="here", **options)


class Walk:
    """Two wrists of a simulated person as LSL streams, pushed as time passes, from a thread."""

    def __init__(self, lsl: Any, *, labels: tuple[str, ...] = IMU6) -> None:
        self._recording = demo_recording(seed=3, duration_s=60, events=())
        self._clock = lsl.local_clock
        units = ["m/s^2"] * 3 + ["rad/s"] * 3
        made = {s.name: foreign(lsl, list(labels), units, rate_hz=50.0) for s in self._recording.sensors}
        self.names = {sensor: name for sensor, (_, name) in made.items()}
        self._outlets = {sensor: outlet for sensor, (outlet, _) in made.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._push, daemon=True)

    def __enter__(self) -> Walk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._outlets.clear()

    def _push(self) -> None:
        began_s, done = self._clock(), 0
        while not self._stop.wait(0.1):
            now = min(int((self._clock() - began_s) * 50), len(self._recording))
            stamps = (began_s + np.arange(done, now) / 50).tolist()
            for sensor, outlet in self._outlets.items():
                rows = self._recording.values[done:now, self._recording.columns(sensor)]
                if len(rows):
                    outlet.push_chunk(rows.astype(np.float64), stamps)
            done = now


def test_a_gateway_scores_streams_and_tells_samples_and_verdicts(lsl: Any, tmp_path: Path) -> None:
    subject = f"p{uuid.uuid4().hex[:8]}"

    async def run(walk: Walk) -> tuple[dict[str, Any], list[Any], EdgeService]:
        devices = [{"lsl": name, "sensor": sensor} for sensor, name in walk.names.items()]
        people = [{"subject": subject, "devices": devices}]
        content = {"site": "s", "gateway": "g", "store": tmp_path / "x.db", "people": people, "lsl": {}}
        said: list[Any] = []
        service = EdgeService(GatewayConfig.model_validate(content), on_scored=lambda _, v: said.append(v))
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        (info,) = await asyncio.to_thread(lsl.resolve_byprop, "name", f"{subject} verdicts", 1, TIMEOUT_S)
        inlet = lsl.StreamInlet(info)
        sample, _ = await asyncio.to_thread(inlet.pull_sample, 2 * TIMEOUT_S)
        with await asyncio.to_thread(LslInlet, f"{subject} wrist_left", "chest") as echoed:
            chunks = await asyncio.to_thread(lambda: list(pulled(echoed, 20)))
        stop.set()
        await serving
        return json.loads(sample[0]), chunks, service

    with Walk(lsl) as walk:
        verdict, chunks, service = asyncio.run(run(walk))
    assert (verdict["subject"], verdict["decision"] in ("normal", "anomalous", "unsure")) == (subject, True)
    assert chunks[0].values.shape[1] == 6
    assert set(np.unique(np.diff(np.concatenate([c.device_time_ns for c in chunks])) // 1_000_000)) <= set(
        range(15, 26)
    )
    assert {(h.sensor, h.connected, h.lost) for h in service.health.values()} == {
        ("wrist_left", True, 0),
        ("wrist_right", True, 0),
    }


def test_a_stream_that_vanishes_is_told_and_followed_when_it_comes_back(lsl: Any) -> None:
    async def run() -> list[Any]:
        first, name = foreign(lsl, ["acc_x"], ["g"])
        link = LslLink(name, "chest", stale_s=0.5)
        seen: list[Any] = []
        source: Any = first
        at_s = 100.0
        async for event in link.events():
            seen.append(event)
            if isinstance(event, DeviceInfo):
                assert await asyncio.to_thread(source.wait_for_consumers, TIMEOUT_S)
                source.push_chunk([[1.0]] * 5, (at_s + np.arange(5) / RATE_HZ).tolist())
            elif isinstance(event, LinkClosed) and source is not None:
                source.push_chunk([[2.0]], [at_s + 5 / RATE_HZ])
                source = None
            elif isinstance(event, ImuChunk) and source is None:
                await link.close()
        return seen

    seen = asyncio.run(asyncio.wait_for(run(), 4 * TIMEOUT_S))
    kinds = [type(e).__name__ for e in seen if not isinstance(e, ImuChunk)]
    assert kinds == ["LinkOpened", "DeviceInfo", "LinkClosed", "LinkOpened"]
    assert next(e for e in seen if isinstance(e, LinkClosed)).reason.endswith("sent no samples for 0.5 s")
    assert sum(len(e) for e in seen if isinstance(e, ImuChunk)) == 6


def test_a_stream_whose_unit_cannot_be_is_doubted_once(lsl: Any) -> None:
    async def run() -> list[Any]:
        outlet, name = foreign(lsl, ["acc_x", "acc_y", "acc_z"], ["m/s^2"] * 3)  # it sends g
        link = LslLink(name, "chest")
        seen: list[Any] = []
        n = int(2.2 * RATE_HZ)
        async for event in link.events():
            seen.append(event)
            if isinstance(event, DeviceInfo):
                assert await asyncio.to_thread(outlet.wait_for_consumers, TIMEOUT_S)
            if len(seen) < 2 or isinstance(event, Doubt):
                continue
            pushed = sum(isinstance(e, ImuChunk) for e in seen)
            if pushed >= 40 or any(isinstance(e, Doubt) for e in seen[:-1]):
                await link.close()
            else:  # two seconds of rest at a time: a window each
                outlet.push_chunk([[0.0, 0.0, 1.0]] * n, (100 + pushed * 2.2 + np.arange(n) / RATE_HZ).tolist())
        return seen

    seen = asyncio.run(asyncio.wait_for(run(), 4 * TIMEOUT_S))
    (doubt,) = (e.text for e in seen if isinstance(e, Doubt))
    assert doubt == "chest: the acceleration at rest is 1.00 m/s^2, expected about 9.81; check the unit of the stream"


def test_a_stream_that_cannot_be_used_yet_is_told_once_and_asked_for_again(lsl: Any) -> None:
    async def run() -> list[Any]:
        silent, name = foreign(lsl, ["acc_x"], [""])
        link = LslLink(name, "chest")
        seen: list[Any] = []
        async for event in link.events():
            seen.append(event)
            if isinstance(event, LinkClosed):
                del silent
                silent, _ = foreign_named(lsl, name)
            elif isinstance(event, DeviceInfo):
                await link.close()
        return seen

    seen = asyncio.run(asyncio.wait_for(run(), 4 * TIMEOUT_S))
    assert "no unit is given for acc_x" in seen[0].reason
    assert isinstance(seen[-1], DeviceInfo)
    assert sum(isinstance(e, LinkClosed) and "no unit" in e.reason for e in seen) == 1
    with pytest.raises(ConfigError, match="unknown options rate"):
        LslLink("x", "chest", options={"rate": "50", "acc": "g"})


def test_streams_near_are_listed_by_name(lsl: Any) -> None:
    kept, name = foreign(lsl, ["acc_x"], ["g"])
    (found,) = [s for s in heard_streams(seconds=1.0) if s.name == name]
    assert (found.source_id, found.kind, found.n_channels, found.rate_hz) == (name, "IMU", 1, RATE_HZ)
    del kept


def xdf_chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def xdf_stream(
    number: int, name: str, times_s: Any, rows: Any, *, unit: str = "g", clock_offset_s: float = 0.0
) -> bytes:
    channels = "".join(f"<channel><label>acc_{a}</label><unit>{unit}</unit></channel>" for a in "xyz")
    header = (
        f"<?xml version='1.0'?><info><name>{name}</name><type>IMU</type><channel_count>3</channel_count>"
        f"<nominal_srate>100</nominal_srate><channel_format>float32</channel_format>"
        f"<desc><channels>{channels}</channels></desc></info>"
    )
    which = struct.pack("<I", number)
    out = xdf_chunk(2, which + header.encode())
    for i in range(4):
        out += xdf_chunk(4, which + struct.pack("<dd", times_s[0] + i, clock_offset_s))
    samples = b"".join(
        b"\x08" + struct.pack("<d", t) + np.asarray(r, "<f4").tobytes() for t, r in zip(times_s, rows, strict=True)
    )
    out += xdf_chunk(3, which + b"\x04" + struct.pack("<I", len(times_s)) + samples)
    return out + xdf_chunk(6, which + b"<?xml version='1.0'?><info></info>")


def xdf_file(*streams: bytes) -> bytes:
    return b"XDF:" + xdf_chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>") + b"".join(streams)


def test_xdf_streams_come_on_one_grid_with_their_clocks_together_and_gaps_masked(tmp_path: Path) -> None:
    pytest.importorskip("pyxdf", reason="the extra 'lsl' is not installed")
    index = np.r_[0:100, 130:300]
    times = 50.0 + index / 100
    rows = np.stack([index * 0.001, np.ones(270), np.zeros(270)], axis=1)
    path = tmp_path / "a.xdf"
    left = xdf_stream(1, "L", times, rows)
    right = xdf_stream(2, "R", times - 7.0, rows, unit="m/s^2", clock_offset_s=7.0)
    path.write_bytes(xdf_file(left, right))
    recording = read_xdf(path, {"wrist_left": "L", "wrist_right": "R"}, subject="p1")
    assert (recording.rate_hz, len(recording), recording.subject) == (100.0, 300, "p1")
    assert recording.channel_names[:2] == ("wrist_left.acc_x", "wrist_left.acc_y")
    there = np.isin(np.arange(300), index)
    for columns, scale in ((slice(0, 3), G), (slice(3, 6), 1.0)):
        np.testing.assert_array_equal(recording.valid[:, columns].all(axis=1), there)
        np.testing.assert_allclose(recording.values[there, columns][:, 0], index * 0.001 * scale, atol=1e-4)
    with pytest.raises(ConfigError, match="is there 0 times; the file holds L, R"):
        read_xdf(path, {"wrist_left": "X"})


def test_an_xdf_file_becomes_a_session_that_can_be_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyxdf", reason="the extra 'lsl' is not installed")
    pytest.importorskip("pyarrow", reason="the extra 'record' is not installed")
    index = np.r_[0:100, 130:700]
    times = 50.0 + index / 100
    rows = np.stack([index * 0.001, np.ones(len(index)), np.zeros(len(index))], axis=1)
    rows[7, 1] = np.nan
    path = tmp_path / "a.xdf"
    path.write_bytes(xdf_file(xdf_stream(1, "L", times, rows, unit=""), xdf_stream(2, "R", times, rows, unit="")))
    streams = ["--lsl", "wrist_left=L", "--lsl", "wrist_right=R"]
    command = ["record", str(tmp_path / "s"), "--from-xdf", str(path), *streams, "--subject", "p-7", "--json"]
    assert main(command) == 1
    assert "no unit is given" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s").exists()
    assert main([*command, "--unit", "acc=g"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sensors"]["wrist_left"] == {"samples": 670, "lost": 30}
    assert told["segments"] == 2
    session = read_session(tmp_path / "s")
    assert session.complete
    assert session.facts == {"subject": "p-7", "imported_from": "a.xdf"}
    left = [c for c in session.chunks() if c.sensor == "wrist_left"]
    np.testing.assert_array_equal(np.concatenate([c.device_time_ns for c in left]), np.rint(times * 1e9))
    np.testing.assert_allclose(np.concatenate([c.values for c in left])[:, 0], index * 0.001 * G, atol=1e-5)
    assert np.flatnonzero(~np.concatenate([c.valid for c in left]).all(axis=1)).tolist() == [7]
    items = list(session.in_order())
    arrivals = [c.host_time_ns for c in items if isinstance(c, ImuChunk)]
    assert arrivals == sorted(arrivals)  # type: ignore[type-var]
    assert main([*command[:4], "--port", "/dev/x"]) == 1
    assert "leave --port" in " ".join(capsys.readouterr().err.split())


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 3000), flips=st.lists(st.tuples(st.integers(4, 3000), st.integers(1, 255)), max_size=4))
def test_a_damaged_xdf_is_one_error_or_what_is_left(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    pytest.importorskip("pyxdf", reason="the extra 'lsl' is not installed")
    data = bytearray(xdf_file(xdf_stream(1, "L", 50 + np.arange(100) / 100, np.ones((100, 3)))))
    for at, bits in flips:
        data[at % len(data)] ^= bits
    path = tmp_path_factory.mktemp("xdf") / "a.xdf"
    path.write_bytes(data[: len(data) - cut % len(data)])
    try:
        assert read_xdf(path, {"chest": "L"}).values.shape[1] >= 1
    except (SignalError, ConfigError) as error:
        assert str(path) in str(error)
