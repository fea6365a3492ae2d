"""What a person may do to a running gateway; each leaves an audit row, and is answered in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.words import both, duration_words

if TYPE_CHECKING:
    from kinedge.edge.dashboard.board import Board

__all__ = ["Actions"]

_MAX_MUTE_MIN: Final = 1440.0


class Actions:
    """Takes what was asked for as parsed JSON, checks it, does it.

    Parameters
    ----------
    board
        Of the gateway.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    async def mute(self, body: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """Show no alarms of a person's episodes for some minutes; they are recorded all the same."""
        _keys(body, {"minutes"})
        minutes, subject, hub = _number(body, "minutes", 0, _MAX_MUTE_MIN), parts["subject"], self._board.hub
        if minutes == 0:
            hub.muted.pop(subject, None)
            text = both(f"alarms of {subject} are shown again", f"les alarmes de {subject} sont de nouveau affichées")
        else:
            hub.muted[subject] = time.time_ns() + round(minutes * 60e9)
            for_ = duration_words(minutes * 60)
            text = both(
                f"no alarms of {subject} are shown for {for_['en']}; episodes are recorded all the same",
                f"aucune alarme de {subject} n'est affichée pendant {for_['fr']} ; les épisodes sont enregistrés",
            )
        await self._board.remember(muted=dict(hub.muted))
        self._board.record("muted", subject=subject, minutes=minutes)
        hub.changed(subject)
        return {"text": text, "muted_until_utc_ns": hub.muted.get(subject)}

    async def stop(self, body: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """End the gateway gracefully."""
        _keys(body, {"confirm"})
        if body["confirm"] != self._board.gateway:
            raise Refused("bad_request", f"confirm must be the gateway's name, {self._board.gateway}")
        self._board.record("stopped_by_hand")
        text = both(
            "the gateway ends: open episodes are kept", "la passerelle s'arrête : les épisodes ouverts sont gardés"
        )
        self._board.stop(text)
        return {"text": text}


def _keys(body: Mapping[str, Any], needed: set[str], *, may: set[str] | None = None) -> None:
    missing, odd = needed - set(body), set(body) - needed - (may or set())
    if missing or odd:
        names = sorted(needed | (may or set()))
        what = f"missing: {', '.join(sorted(missing))}" if missing else f"unknown: {', '.join(sorted(odd))[:200]}"
        raise Refused("bad_request", f"{what}; the keys are {', '.join(names)}")


def _number(body: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = body[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused("bad_request", f"{key} must be a number from {low:g} to {high:g}")
    return float(value)


def _text(body: Mapping[str, Any], key: str, *, max_chars: int = 256) -> str:
    value = body[key]
    if not isinstance(value, str) or not 0 < len(value) <= max_chars:
        raise Refused("bad_request", f"{key} must be a text of 1 to {max_chars} characters")
    return value
