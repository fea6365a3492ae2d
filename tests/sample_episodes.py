"""Episodes made from a number, the same in every process."""

from __future__ import annotations

import random
from typing import Any

from kinedge.canonical import sha256_hex

SUBJECTS = ("p01", "p02", "p03")
GATEWAY = "gw-1"


def sample_raw(i: int, *, n_bytes: int = 2000) -> bytes:
    return random.Random(i).randbytes(n_bytes)


def sample_fields(i: int, *, raw: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """Fields of an envelope without id and sequence, as an edge hands them to its store."""
    start = 1_700_000_000_000_000_000 + i * 60_000_000_000
    fields: dict[str, Any] = {
        "site": "home",
        "gateway": GATEWAY,
        "subject": SUBJECTS[i % len(SUBJECTS)],
        "sensors": ("wrist_left", "wrist_right"),
        "start_utc_ns": start,
        "end_utc_ns": start + 12_000_000_000,
        "ended": "stopped",
        "peak_score": 4.5 + i,
        "min_p_value": 0.001,
        "unsure_share": 0.1,
        "sentence": f"Episode {i}: the left wrist – slower than usual; 'DROP TABLE episodes;--",
        "contributions": [{"sensor": "wrist_left", "channel": "acc_x", "share": 0.7}],
        "trail": [
            {
                "wall_time_utc_ns": start,
                "decision": "anomalous",
                "score": 4.5,
                "p_value": 0.001,
                "belief_normal": 0.05,
                "belief_anomalous": 0.9,
                "reasons": ["far from this person's own walking"],
            }
        ],
        "model_digest": sha256_hex(b"model"),
        "config_digest": sha256_hex(b"config"),
        "kinedge_version": "0.1.0",
    }
    if raw is not None:
        fields["raw"] = {
            "media_type": "application/octet-stream",
            "rate_hz": 50.0,
            "n_samples": 600,
            "channels": ["wrist_left.acc_x"],
            "start_utc_ns": start,
        }
    return fields | changes
