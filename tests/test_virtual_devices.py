"""The emulated Bluetooth devices are strict: no stream before the right command; wrong ones answered as documented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from bumble.att import ATT_Error
from virtual_devices import EmulatedDot, EmulatedMovesense, EmulatedOpenEarable, table
from virtual_polar import EmulatedPolar

from kinedge.firmware_bridge.devices.emulated_metamotion import EmulatedMetaMotion
from kinedge.firmware_bridge.devices.emulated_witmotion import EmulatedWitMotionBle

DOT_CONTROL = "15172001-4947-11e9-8646-d663bd873d93"
PMD_CONTROL = "fb005c81-02e7-f387-1cad-8acd2d8df0c8"
GSP_WRITE = "34800001-7185-4d5d-b431-630e7050e8f0"
WITMOTION_WRITE = "0000ffe9-0000-1000-8000-00805f9a34fb"
METAMOTION_WRITE = "326a9001-85cb-9195-d9dd-464cfbbae75a"
WRONG_LENGTH = "ATT 0x0d"


@dataclass(frozen=True)
class Talk:
    """Commands that must not start anything, with what answers each, and those that start."""

    device: Callable[[], Any]
    channel: str
    wrong: Sequence[tuple[str, str]]
    right: Sequence[str]


TALKS = {
    "movella dot": Talk(
        EmulatedDot, DOT_CONTROL, [("0101", WRONG_LENGTH), ("010111", ""), ("010015", ""), ("000115", "")], ["010115"]
    ),
    "polar h10": Talk(
        EmulatedPolar.h10,
        PMD_CONTROL,
        [
            ("0102", "f001020000 000419003200 6400c800 01011000 0203020004000800"),
            ("0402", "f004020100"),
            ("0105", "f001050300"),
            ("0202 00013200 01011000 0201", "f002020400"),
            ("0202 00013200 01011000", "f002020500"),
            ("0202 00013200 01010e00 02010800", "f002020700"),
            ("0202 00013400 01011000 02010800", "f002020800"),
            ("0202 00013200 01011000 02011000", "f002020900"),
        ],
        ["0202 00013200 01011000 02010800"],
    ),
    "movesense": Talk(
        lambda: EmulatedMovesense(room=160),
        GSP_WRITE,
        [
            ("0001", "0101c800"),
            ("0163" + b"/Meas/IMU6/100".hex(), "01639401"),
            ("0163" + b"/Meas/Steps/52".hex(), "01639401"),
            ("0100" + b"/Meas/IMU6/52".hex(), ""),
            ("0263", "01639401"),
            ("0763", "01639001"),
        ],
        ["0163" + b"/Meas/IMU6/52".hex()],
    ),
    "openearable 2": Talk(
        EmulatedOpenEarable,
        EmulatedOpenEarable.config,
        [("0002", WRONG_LENGTH), ("000301", ""), ("000202", ""), ("010101", "")],
        ["000001"],
    ),
    "metamotion": Talk(
        lambda: EmulatedMetaMotion(table()),
        METAMOTION_WRITE,
        [("1380", "13800001"), ("03032808", ""), ("031c01", ""), ("03020100", "")],
        ["030101"],
    ),
}


@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS.keys())
def test_device_streams_nothing_before_it_is_told_rightly(talk: Talk) -> None:
    device = talk.device()
    at_ns = 0

    def write(text: str) -> list[bytes]:
        nonlocal at_ns
        device.write(talk.channel, bytes.fromhex(text), elapsed_ns=at_ns)
        at_ns += 2_000_000_000
        return [data for _, data in device.advance(at_ns)]

    for text, answer in talk.wrong:
        if answer == WRONG_LENGTH:
            with pytest.raises(ATT_Error, match="INVALID_ATTRIBUTE_LENGTH"):
                write(text)
        else:
            assert b"".join(write(text)) == bytes.fromhex(answer), text
    heard = [data for text in talk.right for data in write(text)]
    assert sum(map(len, heard)) > 200


def test_witmotion_changes_its_rate_only_when_it_was_unlocked() -> None:
    device = EmulatedWitMotionBle(table())
    device.write(WITMOTION_WRITE, bytes.fromhex("ffaa030900"), elapsed_ns=0)
    assert len(device.advance(1_000_000_000)) == 10
    device.write(WITMOTION_WRITE, bytes.fromhex("ffaa6988b5ffaa030900"), elapsed_ns=1_000_000_000)
    assert len(device.advance(2_000_000_000)) == 100
