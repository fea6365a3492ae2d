"""Sessions on disk: what goes in comes out, whatever happens to the process or to the files."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, SignalError, StoreError
from kinedge.firmware_bridge.recorded import RecordedSession, read_session
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.segments import Count, Segment, Tick, decode_segment, encode_segment, segment_name
from kinedge.signals import ImuChunk, SensorSpec

pyarrow = pytest.importorskip("pyarrow", reason="the extra 'record' is not installed")

LEFT = SensorSpec("wrist_left")
BACK = SensorSpec("lower_back", ("mag_x", "acc_z", "acc_x"))
SPECS = {spec.name: spec for spec in (LEFT, BACK)}
INTERVAL_NS = 10_000_000


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def make_chunk(spec: SensorSpec, start: int, n: int, *, seed: int = 0, **fields: int | None) -> ImuChunk:
    """Return ``n`` samples from number ``start``: values differ by sample and channel, some invalid or saturated."""
    rng = np.random.default_rng((seed, start))
    shape = (n, spec.n_channels)
    values = (np.arange(start, start + n)[:, None] + np.arange(spec.n_channels) / 16).astype(np.float32)
    valid = rng.random(shape) > 0.1
    lost, boot_id = fields.get("lost"), fields.get("boot_id")
    return ImuChunk(
        spec.name,
        np.arange(start, start + n, dtype=np.int64) * INTERVAL_NS,
        values,
        valid,
        valid & (rng.random(shape) > 0.8),
        INTERVAL_NS,
        lost or 0,
        boot_id or 0,
        fields.get("host_time_ns"),
    )


def assert_same(found: ImuChunk, expected: ImuChunk) -> None:
    for name in ("sensor", "interval_ns", "lost", "boot_id", "host_time_ns"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.device_time_ns, expected.device_time_ns)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.saturated, expected.saturated)
    np.testing.assert_array_equal(found.values[found.valid], expected.values[expected.valid])
    assert [a.dtype.char for a in (found.values, found.valid, found.saturated)] == ["f", "?", "?"]


def record(folder: Path, chunks: Iterable[ImuChunk], *, per_segment: int = 3, close: bool = True) -> SessionWriter:
    """Record chunks, so many to a segment."""
    clock = Clock()
    writer = SessionWriter(folder, segment_s=float(per_segment), clock=clock)
    for spec in SPECS.values():
        writer.describe(spec)
    for chunk in chunks:
        clock.pass_s(1)
        writer.write(chunk)
    if close:
        writer.close()
    return writer


def ten_chunks() -> list[ImuChunk]:
    return [make_chunk(LEFT, 20 * i, 20, lost=i, host_time_ns=i) for i in range(10)]


def segments_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*.parquet"))


def n_accounted(session: RecordedSession) -> int:
    return sum(len(c) + c.lost for c in session.chunks())


chunk_plans = st.lists(
    st.tuples(
        st.sampled_from(sorted(SPECS)),
        st.integers(0, 12),
        st.integers(0, 3),
        st.integers(0, 2**32 - 1),
        st.none() | st.integers(-(2**62), 2**62),
        st.floats(0, 3),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(plan=chunk_plans)
def test_chunks_come_back_as_they_went_in_whatever_their_sizes(
    plan: list[tuple[str, int, int, int, int | None, float]],
) -> None:
    clock = Clock()
    position: dict[str, int] = defaultdict(int)
    expected: list[ImuChunk] = []
    carried: dict[str, int] = defaultdict(int)
    with tempfile.TemporaryDirectory() as folder:
        with SessionWriter(Path(folder), segment_s=2, clock=clock) as writer:
            for name, n, lost, boot_id, host_time_ns, wait_s in plan:
                writer.describe(SPECS[name])
                chunk = make_chunk(
                    SPECS[name], position[name], n, lost=lost, boot_id=boot_id, host_time_ns=host_time_ns
                )
                writer.write(chunk)
                clock.pass_s(wait_s)
                position[name] += n + lost
                carried[name] += lost
                if n:
                    expected.append(
                        make_chunk(
                            SPECS[name],
                            position[name] - n - lost,
                            n,
                            lost=carried.pop(name),
                            boot_id=boot_id,
                            host_time_ns=host_time_ns,
                        )
                    )
        session = read_session(Path(folder))
        found = list(session.chunks())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert session.complete
    assert session.missing == {}
    held = session.manifest["held"]
    assert {name: sum(count.values()) for name, count in held.items()} == dict(position)


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 59), unique=True, max_size=8))
def test_any_chunking_of_the_same_samples_gives_the_same_samples_out(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 60]
    whole = make_chunk(BACK, 0, 60)
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            ImuChunk(
                BACK.name,
                whole.device_time_ns[a:b],
                whole.values[a:b],
                whole.valid[a:b],
                whole.saturated[a:b],
                INTERVAL_NS,
            )
            for a, b in itertools.pairwise(edges)
        ]
        record(Path(folder), parts, per_segment=2)
        found = list(read_session(Path(folder)).chunks())
    assert_same(
        ImuChunk(
            BACK.name,
            np.concatenate([c.device_time_ns for c in found]),
            np.concatenate([c.values for c in found]),
            np.concatenate([c.valid for c in found]),
            np.concatenate([c.saturated for c in found]),
            INTERVAL_NS,
        ),
        whole,
    )


def test_a_segment_is_a_plain_table_for_any_parquet_reader(tmp_path: Path) -> None:
    record(tmp_path / "s", [make_chunk(LEFT, 0, 5), make_chunk(BACK, 0, 2, host_time_ns=7)])
    (path,) = segments_of(tmp_path / "s")
    table = pyarrow.parquet.read_table(path).to_pydict()
    assert table["sensor"] == ["wrist_left"] * 5 + ["lower_back"] * 2
    assert table["host_time_ns"] == [None] * 5 + [7] * 2
    assert table["gyr_x"][5:] == [None, None]
    assert table["mag_x_saturated"][:5] == [None] * 5
    left = make_chunk(LEFT, 0, 5)
    assert table["acc_y"][:5] == [
        float(v) if ok else None for v, ok in zip(left.values[:, 1], left.valid[:, 1], strict=True)
    ]


def test_a_segment_is_written_when_it_is_due_also_while_nothing_arrives(tmp_path: Path) -> None:
    clock = Clock()
    writer = SessionWriter(tmp_path / "s", segment_s=5, clock=clock)
    writer.describe(LEFT)
    writer.write(make_chunk(LEFT, 0, 10))
    clock.pass_s(4.9)
    writer.flush_if_due()
    assert not segments_of(tmp_path / "s")
    clock.pass_s(0.2)
    writer.flush_if_due()
    (path,) = segments_of(tmp_path / "s")
    assert writer.n_segments == 1
    assert writer.n_bytes == path.stat().st_size
    clock.pass_s(60)
    writer.flush_if_due()
    assert len(segments_of(tmp_path / "s")) == 1


def test_events_are_kept_in_order_beside_the_samples(tmp_path: Path) -> None:
    clock = Clock()
    with SessionWriter(tmp_path / "s", segment_s=1, clock=clock, facts={"subject": "p-001"}) as writer:
        for i in range(5):
            writer.note("battery", host_time_ns=i, percent=90 - i)
            clock.pass_s(0.6)
    session = read_session(tmp_path / "s")
    assert [e["percent"] for e in session.events] == [90, 89, 88, 87, 86]
    assert session.manifest["facts"] == {"subject": "p-001"}
    assert list(session.chunks()) == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["chunk", "event", "tick", "later"]), max_size=30))
def test_chunks_events_and_ticks_come_back_in_the_order_in_which_they_came(kinds: list[str]) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        with SessionWriter(Path(folder) / "s", segment_s=1, clock=clock) as writer:
            writer.describe(LEFT)
            for i, kind in enumerate(kinds):
                if kind == "chunk":
                    writer.write(make_chunk(LEFT, i, 1))
                elif kind == "event":
                    writer.note("battery", host_time_ns=i, percent=50)
                elif kind == "tick":
                    writer.tick(i)
                else:
                    clock.pass_s(2)  # the next begins another segment
        found = list(read_session(Path(folder) / "s").in_order())
    told = [
        int(x.device_time_ns[0]) // INTERVAL_NS if isinstance(x, ImuChunk) else x.host_time_ns
        if isinstance(x, Tick) else x["host_time_ns"]
        for x in found
    ]  # fmt: skip
    assert told == [i for i, kind in enumerate(kinds) if kind != "later"]


def test_kill_9_loses_at_most_the_segment_that_was_being_filled(tmp_path: Path) -> None:
    script = Path(__file__).with_name("record_until_killed.py")
    with subprocess.Popen([sys.executable, script, tmp_path / "s"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        safe = 0
        for line in process.stdout:
            safe = int(line)
            if safe >= 1500:
                break
        process.kill()
    session = read_session(tmp_path / "s")
    found = np.concatenate([c.values[:, 0] for c in session.chunks()])
    assert len(found) >= safe
    np.testing.assert_array_equal(found, np.arange(len(found)))
    assert not session.complete
    assert {d.name.endswith(".part") for d in session.damage} <= {True}


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "delete"])
def test_a_damaged_segment_is_skipped_and_its_samples_count_as_lost(tmp_path: Path, harm: str, at: int) -> None:
    chunks = ten_chunks()
    record(tmp_path / "s", chunks, per_segment=3)
    paths = segments_of(tmp_path / "s")
    assert len(paths) == 4
    data = bytearray(paths[at].read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "delete":
        paths[at].unlink()
    else:
        harmed = {"cut": data[:-5], "flip": data, "empty": bytearray()}
        paths[at].write_bytes(harmed[harm])
    session = read_session(tmp_path / "s")
    found = list(session.chunks())
    gone = chunks[3 * at : 3 * at + 3]
    assert [c.host_time_ns for c in found] == [c.host_time_ns for c in chunks if c not in gone]
    assert session.missing == {"wrist_left": 60}
    (damage,) = session.damage
    assert damage.name.startswith(f"segment-{at:06}")
    assert ("not there" if harm == "delete" else "damaged") in damage.reason
    assert not session.complete
    assert n_accounted(session) == sum(len(c) + c.lost for c in chunks)


def test_a_lost_last_segment_is_known_from_the_manifest(tmp_path: Path) -> None:
    record(tmp_path / "s", ten_chunks(), per_segment=3)
    for path in segments_of(tmp_path / "s")[2:]:
        path.unlink()
    session = read_session(tmp_path / "s")
    assert session.missing == {"wrist_left": 80}
    assert [d.reason for d in session.damage] == ["is not there: 2 of the segments 2 to 3"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"format": 3}x', b'{"complete": true}', b"[" * 200_000])
def test_a_damaged_manifest_costs_nothing_but_the_facts(tmp_path: Path, content: bytes | None) -> None:
    chunks = ten_chunks()
    record(tmp_path / "s", chunks)
    manifest = tmp_path / "s" / "session.json"
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    session = read_session(tmp_path / "s")
    assert [d.name for d in session.damage] == ["session.json"]
    for one, other in zip(session.chunks(), chunks, strict=True):
        assert_same(one, other)


def test_a_hostile_manifest_costs_no_memory(tmp_path: Path) -> None:
    record(tmp_path / "s", ten_chunks())
    path = tmp_path / "s" / "session.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_segments": 10**18}))
    (damage,) = read_session(tmp_path / "s").damage
    assert "999999999999999996 of the segments" in damage.reason


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    record(tmp_path / "s", [])
    path = tmp_path / "s" / "session.json"
    path.write_text(path.read_text().replace("kinedge-session 1", "kinedge-session 2"))
    with pytest.raises(StoreError, match="kinedge-session 2"):
        read_session(tmp_path / "s")


def test_what_is_no_session_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no session"):
        read_session(tmp_path / "absent")
    with pytest.raises(StoreError, match="neither"):
        read_session(tmp_path)


def test_files_that_are_no_segments_are_told_and_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    record(folder, ten_chunks())
    other = record(tmp_path / "t", [make_chunk(LEFT, 0, 4)]).folder
    foreign = b"PAR1 no table PAR1"
    (folder / segment_name(7, foreign)).write_bytes(foreign)
    (folder / "segment-x.parquet").write_bytes(b"")
    (folder / "notes.txt").write_text("by the way")
    moved = segments_of(other)[0].read_bytes()
    (folder / segment_name(8, moved)).write_bytes(moved)
    session = read_session(folder)
    reasons = {d.name[:14]: d.reason for d in session.damage}
    assert "no segment of a session" in reasons["segment-000007"]
    assert "its name says another" in reasons["segment-000008"]
    assert "no name of a segment" in reasons["segment-x.parq"]
    assert len(reasons) == 3
    assert sum(len(c) for c in session.chunks()) == 200


@settings(deadline=None, max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 255)), min_size=1, max_size=4))
def test_bytes_that_pass_the_checksum_raise_nothing_but_store_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SEGMENT)
    for at, mask in changes:
        data[at % len(data)] ^= mask
    try:
        decode_segment(bytes(data), where="segment")
    except StoreError:
        return


def _one_segment() -> bytes:
    return encode_segment(Segment(0, {LEFT.name: LEFT}, {}, {LEFT.name: Count(9)}, [make_chunk(LEFT, 0, 9)]))


SEGMENT = _one_segment()


def test_a_session_takes_only_what_was_described(tmp_path: Path) -> None:
    with SessionWriter(tmp_path / "s") as writer:
        with pytest.raises(SignalError, match="was not described"):
            writer.write(make_chunk(LEFT, 0, 2))
        writer.describe(LEFT)
        writer.describe(LEFT)
        with pytest.raises(SignalError, match="another session"):
            writer.describe(SensorSpec("wrist_left", ("acc_x",)))
        with pytest.raises(SignalError, match="has 6 channels"):
            writer.write(make_chunk(SensorSpec("wrist_left", ("acc_x",)), 0, 2))
        with pytest.raises(ConfigError, match="no JSON form"):
            writer.note("odd", host_time_ns=0, value=float("nan"))
    with pytest.raises(StoreError, match="closed"):
        writer.write(make_chunk(LEFT, 0, 2))
    assert read_session(tmp_path / "s").complete


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(StoreError, match="something in it"):
        SessionWriter(tmp_path)
    with pytest.raises(StoreError, match="no session can be written"):
        SessionWriter(tmp_path / "precious")
    assert os.listdir(tmp_path) == ["precious"]


def test_a_disk_that_refuses_loses_nothing_once_it_takes_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    clock = Clock()
    writer = SessionWriter(folder, segment_s=1, clock=clock)
    writer.describe(LEFT)
    chunks = ten_chunks()
    for chunk in chunks[:5]:
        writer.write(chunk)
    folder.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="cannot be written"):
        writer.flush()
    (tmp_path / "away").rename(folder)
    for chunk in chunks[5:]:
        writer.write(chunk)
    writer.close()
    session = read_session(folder)
    assert session.complete
    for one, other in zip(session.chunks(), chunks, strict=True):
        assert_same(one, other)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from kinedge.errors import ConfigError\n"
        "from kinedge.firmware_bridge.recorder import SessionWriter\n"
        f"folder = Path({str(tmp_path / 's')!r})\n"
        "try:\n    SessionWriter(folder)\n"
        "except ConfigError as e:\n    assert 'kinedge[record]' in str(e) and not folder.exists(); print('told')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "told\n"
