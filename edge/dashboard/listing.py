"""Episodes of this board as the dashboard lists them."""

from __future__ import annotations

from typing import Any

from kinedge.edge.dashboard.words import both
from kinedge.edge.store import StoredEpisode

__all__ = ["episode_fields"]


def episode_fields(stored: StoredEpisode) -> dict[str, Any]:
    """Return what is listed of one episode."""
    e = stored.envelope
    text = both(e.sentence, e.sentence)
    if e.explanation is not None:
        text = dict(e.explanation.text)
    elif e.change is not None:
        text = dict(e.change.text)
    return {
        "id": e.id,
        "subject": e.subject,
        "start_utc_ns": e.start_utc_ns,
        "end_utc_ns": e.end_utc_ns,
        "ended": e.ended,
        "peak_score": e.peak_score,
        "min_p_value": e.min_p_value,
        "unsure_share": e.unsure_share,
        "sentence": text,
        "sensor": next((c.sensor for c in e.contributions if c.channel is None), None),
        "sent": stored.episode_state in (None, "DONE"),
        "change": None if e.change is None else e.change.kind,
    }
