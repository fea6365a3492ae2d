"""The wire decoder when devices are described, start anew, change streams or have clocks that jump."""

from __future__ import annotations

import numpy as np
import pytest
from numbered_samples import INTERVAL_NS, chunks_of, counts_of, described, events_of, hello, indices, packet

from kinedge.firmware_bridge.decoder import HelloReceived, WireDecoder
from kinedge.firmware_bridge.packets import Samples
from kinedge.signals import ImuChunk


def test_samples_before_hello_are_counted_and_the_stream_starts_with_hello() -> None:
    decoder = WireDecoder(framed=False)
    decoder.receive_data(packet(0))
    decoder.receive_data(hello().to_bytes())
    decoder.receive_data(packet(10))
    assert indices(chunks_of(decoder)) == list(range(10, 20))
    assert (decoder.counters.undescribed, decoder.counters.lost) == (10, 0)


def test_repeated_hello_changes_nothing() -> None:
    decoder = described()
    for payload in (packet(0), hello().to_bytes(), packet(20)):
        decoder.receive_data(payload)
    assert [c.lost for c in chunks_of(decoder)] == [0, 10]


@pytest.mark.parametrize("change", [{"boot_id": 8}, {"serial": "SN2"}])
def test_device_that_started_anew_begins_anew(change: dict[str, int]) -> None:
    decoder = described()
    for payload in (packet(5000), hello(**change).to_bytes(), packet(40)):  # type: ignore[arg-type]
        decoder.receive_data(payload)
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(5000, 5010), *range(40, 50)]
    assert [c.lost for c in chunks] == [0, 0]
    assert chunks[1].boot_id == change.get("boot_id", 7)


@pytest.mark.parametrize("split", [False, True])
def test_restart_whose_hello_was_lost_costs_no_sample_once_a_hello_comes(split: bool) -> None:
    decoder = described()
    sent = [packet(i) for i in (*range(0, 500, 10), *range(0, 80, 10))]
    for i, payload in enumerate(sent):
        decoder.receive_data(payload, host_time_ns=i if split else 0)
    assert indices(chunks_of(decoder)) == [*range(500)]
    assert decoder.counters.hello_due == 1 + split  # when they began to wait, and half a second later
    decoder.receive_data(hello(boot_id=8).to_bytes(), host_time_ns=100)
    decoder.receive_data(packet(80), host_time_ns=100)
    kinds = events_of(decoder)
    assert isinstance(kinds[0], HelloReceived)
    chunks = [e for e in kinds if isinstance(e, ImuChunk)]
    assert indices(chunks) == [*range(90)]
    assert {c.boot_id for c in chunks} == {8}
    assert chunks[0].host_time_ns == (50 if split else 0)
    assert decoder.counters.lost == decoder.counters.duplicates == decoder.counters.undescribed == 0


def test_samples_behind_a_reopened_link_belong_to_the_boot_that_the_next_hello_names() -> None:
    # power was cycled while nobody listened, and the new counter goes on just where the old one was
    decoder = described()
    decoder.receive_data(packet(0))
    decoder.link_reopened()
    decoder.receive_data(packet(10))
    decoder.receive_data(packet(30))
    assert [c.boot_id for c in chunks_of(decoder)] == [7]
    decoder.receive_data(hello(boot_id=8).to_bytes())
    decoder.receive_data(packet(40))
    chunks = chunks_of(decoder)
    assert [(c.boot_id, len(c), c.lost) for c in chunks] == [(8, 10, 0), (8, 10, 10), (8, 10, 0)]
    # and here it was not: the gap is counted
    decoder.link_reopened()
    decoder.receive_data(packet(60))
    decoder.receive_data(hello(boot_id=8).to_bytes())
    assert [(c.boot_id, c.lost) for c in chunks_of(decoder)] == [(8, 10)]


@pytest.mark.parametrize("unnamed", [50, 0])
def test_boot_that_no_hello_has_named_is_not_taken_for_another(unnamed: int) -> None:
    decoder = described()
    for index in (*range(0, 500, 10), *range(0, 300, 10), *range(0, unnamed, 10)):
        decoder.receive_data(packet(index))
    assert len(indices(chunks_of(decoder))) == 500
    decoder.receive_data(hello(boot_id=9).to_bytes())
    decoder.receive_data(packet(unnamed))
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(unnamed + 10)]
    assert {c.boot_id for c in chunks} == {9}
    assert decoder.counters.undescribed == 300


def test_samples_whose_boot_is_still_in_doubt_when_the_power_is_cycled_again_are_taken_for_none() -> None:
    decoder = described()
    decoder.receive_data(packet(0))
    decoder.link_reopened()
    for index in range(0, 100, 10):
        decoder.receive_data(packet(index))
    decoder.receive_data(hello(boot_id=8).to_bytes())  # the next packet would show whether the ten are of this boot
    decoder.link_reopened()
    for index in (20, 30):
        decoder.receive_data(packet(index))
    assert [c.boot_id for c in chunks_of(decoder)] == [7]
    decoder.receive_data(hello(boot_id=9).to_bytes())
    decoder.receive_data(packet(40))
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(20, 50)]
    assert {c.boot_id for c in chunks} == {9}
    assert decoder.counters.undescribed == 100


def test_samples_do_not_wait_for_a_hello_for_ever() -> None:
    decoder = described()
    decoder.receive_data(packet(0))
    assert len(chunks_of(decoder)) == 1
    decoder.link_reopened()
    for index in range(10, 1010, 10):
        decoder.receive_data(packet(index))
        assert not chunks_of(decoder)
    decoder.receive_data(packet(1010))
    assert indices(chunks_of(decoder)) == [*range(10, 1020)]


def test_sensor_that_moves_to_another_stream_is_taken_from_there() -> None:
    decoder = described()
    for payload in (hello(stream_id=2).to_bytes(), packet(0), packet(0, stream_id=2)):
        decoder.receive_data(payload)
    assert len(chunks_of(decoder)) == 1
    assert decoder.counters.undescribed == 10


def test_time_far_away_is_refused_but_a_stream_that_stays_there_is_followed() -> None:
    decoder = described()
    for index in (50_000_000, 50_000_010):
        decoder.receive_data(packet(index))
    decoder.receive_data(packet(0), host_time_ns=1)
    decoder.receive_data(hello().to_bytes())
    assert [len(c) for c in chunks_of(decoder)] == [20]
    assert decoder.counters.implausible == 1
    decoder.receive_data(packet(50_000_020), host_time_ns=2)
    decoder.receive_data(packet(10), host_time_ns=3)
    assert [c.lost for c in chunks_of(decoder)] == [0]
    # a clock that went back for good, as at a restart under the same boot id: the third packet is believed
    for index in (20, 30, 40, 50):
        decoder.receive_data(packet(index), host_time_ns=index)
    decoder.receive_data(hello().to_bytes())
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(30, 60)]
    assert [c.lost for c in chunks] == [20, 0, 0]
    assert decoder.counters.timeline_resets == 1


def test_outage_of_days_ends() -> None:
    decoder = described()
    start = 30_000_000
    for index in (0, start, start + 10, start + 20, start + 30):
        decoder.receive_data(packet(index), host_time_ns=index)
    chunks = chunks_of(decoder)
    assert [c.lost for c in chunks] == [0, start + 20 - 10, 0]


def test_clock_that_steps_back_a_little_never_repeats_a_time() -> None:
    decoder = described()
    decoder.receive_data(packet(0))
    for index in range(10, 150, 10):
        behind = 45 if index >= 50 else 0  # sequence goes on, the clock stepped back by 45 samples
        shifted = Samples.from_counts(
            counts_of(index, 10),
            stream_id=1,
            sequence=index,
            t_us=1_000_000 + (index - behind) * 10_000,
            interval_ns=INTERVAL_NS,
        )
        decoder.receive_data(shifted.to_bytes(), host_time_ns=index)
    chunks = chunks_of(decoder)
    times = np.concatenate([c.device_time_ns for c in chunks])
    assert (np.diff(times) > 0).all()
    assert (len(times), sum(c.lost for c in chunks), decoder.counters.implausible) == (100, 50, 5)
