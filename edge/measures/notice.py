"""A slow change as an episode: the same envelope, outbox and audit trail as those of seconds, told on the first day.

It begins with the day from which the shortfall adds up and is ``ongoing``; its id follows from that, so that a change
is one episode whenever the process dies. The score is the shortfall over its threshold (1 tells a change), and no
p-value is claimed. The model's digest is that of the definition and the settings of what was watched: no network took
part.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from kinedge.edge.measures.config import MeasuresConfig, Side, side_of
from kinedge.edge.measures.watch import Change
from kinedge.edge.narrative import slow_change
from kinedge.envelope import Contribution, SlowChange

__all__ = ["episode_of"]


def episode_of(
    change: Change,
    config: MeasuresConfig,
    *,
    subject: str,
    affected: Side | None,
    zone_offset_s: int,
    end_utc_s: int,
    config_digest: str,
    kinedge_version: str,
) -> dict[str, Any]:
    """Return the fields of a change's envelope, without id, sequence, site and gateway.

    Parameters
    ----------
    change
        As the watch told it.
    config
        Of the measures.
    subject, affected
        Whose, and which of their arms is the weaker.
    zone_offset_s
        Local time less UTC.
    end_utc_s
        Of the last second that was booked.
    config_digest, kinedge_version
        Of the gateway.
    """
    sensors = sorted((config.arms or ()) if change.part == "arm" else config.legs)
    sensor = next((s for s in sensors if side_of(s) == affected), "") if change.kind == "one_arm_lower" else ""
    first, last = (str(date(1970, 1, 1) + timedelta(days=d)) for d in (change.since_day, change.day))
    start_utc_s = change.since_day * 86_400 - zone_offset_s
    value = change.value.value or 0.0
    text = slow_change(change.kind, sensor=sensor, day=first, value=value, expected=change.expected)
    told = SlowChange(
        kind=change.kind,
        measure=change.measure,
        unit=change.value.unit,
        value=round(value, 6),
        low=None if change.value.low is None else round(change.value.low, 6),
        high=None if change.value.high is None else round(change.value.high, 6),
        expected=round(change.expected, 6),
        spread=round(change.spread, 6),
        shortfall=round(change.shortfall, 6),
        threshold=change.threshold,
        worn_h=round(change.worn_h, 3),
        first_day=first,
        last_day=last,
        text=dict(text),
    )
    return {
        "subject": subject,
        "sensors": sensors,
        "start_utc_ns": start_utc_s * 10**9,
        "end_utc_ns": max(start_utc_s, end_utc_s) * 10**9,
        "ended": "ongoing",
        "peak_score": round(change.shortfall / change.threshold, 6),
        "min_p_value": 1.0,
        "unsure_share": 0.0,
        "sentence": text["en"],
        "contributions": [Contribution(sensor=sensor, share=1.0).model_dump(mode="json")] if sensor else [],
        "trail": [],
        "raw": None,
        "change": told.model_dump(mode="json"),
        "model_digest": config.digest(change.kind),
        "config_digest": config_digest,
        "kinedge_version": kinedge_version,
    }
