"""Episodes of a board whose clock was not set yet: their times are moved once the right time is known.

A draft that was saved meanwhile carries the anchor of its clock: which boot, and how UTC lay against the monotonic
clock then. In the same boot the two differ by the step of the clock alone, exactly.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.arrays import arrays_to_npz
from kinedge.canonical import sha256_hex

__all__ = ["ANCHOR", "anchor", "boot_id", "redate", "take_anchor"]

ANCHOR: Final = "clock_anchor"  # key of a saved draft, no field of an envelope
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the kernel's name for this boot; empty where it gives none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def anchor(offset_ns: int, *, closed: bool) -> dict[str, Any]:
    """Return what a draft keeps of an unset clock.

    Parameters
    ----------
    offset_ns
        UTC less monotonic time, as the draft's own times have it.
    closed
        The episode is over; only its time is missing.
    """
    return {"boot_id": boot_id(), "offset_ns": offset_ns, "closed": closed}


def take_anchor(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Split a saved draft into the fields of its envelope and its anchor."""
    fields = dict(content)
    found = fields.pop(ANCHOR, None)
    return fields, found


def redate(fields: Mapping[str, Any], raw: bytes, *, by_ns: int) -> tuple[dict[str, Any], bytes]:
    """Move all times of an episode, in its fields and in its raw slice.

    Parameters
    ----------
    fields
        Of an envelope, in JSON's words.
    raw
        The blob that they describe, or nothing.
    by_ns
        Later is positive.
    """
    moved = dict(fields)
    for name in ("start_utc_ns", "end_utc_ns"):
        moved[name] = int(moved[name]) + by_ns
    moved["trail"] = [{**p, "wall_time_utc_ns": p["wall_time_utc_ns"] + by_ns} for p in fields.get("trail", ())]
    if fields.get("abstentions"):
        moved["abstentions"] = [_later(a, by_ns) for a in fields["abstentions"]]
    described = fields.get("raw")
    if described is None or not raw:
        return moved, raw
    start_utc_ns = described["start_utc_ns"] + by_ns
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    raw = arrays_to_npz({**parts, "start_utc_ns": np.array(start_utc_ns, np.int64)})
    moved["raw"] = {**described, "start_utc_ns": start_utc_ns, "sha256": sha256_hex(raw), "n_bytes": len(raw)}
    return moved, raw


def _later(abstention: Mapping[str, Any], by_ns: int) -> dict[str, Any]:
    figures = abstention.get("figures")
    if figures is None:
        return dict(abstention)
    return {**abstention, "figures": {**figures, "wall_time_utc_ns": figures["wall_time_utc_ns"] + by_ns}}
