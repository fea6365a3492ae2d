"""What a person may do to a running gateway; each leaves an audit row, and is answered in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.words import Words, both, duration_words, place_words
from kinedge.edge.wiring import HandedOver

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

    async def enrolment(self, body: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """Begin to learn what is usual for a person, or forget what was taken."""
        board, subject = self._board, parts["subject"]
        action = _choice(body, "action", ("start", "cancel"))
        _keys(body, {"action", "minutes"} if action == "start" else {"action"})
        if not board.features()["enrol"]:
            raise Refused("conflict", "nobody can be enrolled from a replay here; see kinedge enrol")
        if action == "start":
            text = board.enrolments.start(subject, _number(body, "minutes", 1, 240))
        else:
            text = board.enrolments.cancel(subject)
        await board.enrolments.save()
        board.hub.changed(subject)
        return {"text": text, "enrolment": board.enrolments.of(subject)}

    async def pose(self, body: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """Lead a person through the guided poses: their sensors were put on again, or they are being enrolled."""
        board, subject = self._board, parts["subject"]
        action = _choice(body, "action", ("start", "repeat", "go_on", "cancel"))
        _keys(body, {"action"})
        if not board.features()["enrol"]:
            raise Refused("conflict", "nobody can be led from a replay; see kinedge enrol --pose")
        room = board.posing
        text = {"start": room.start, "repeat": room.repeat, "go_on": room.go_on, "cancel": room.cancel}[action](subject)
        board.hub.changed(subject)
        return {"text": text, "pose": board.posing.of(subject)}

    async def assign(self, body: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """Give a device to a person, or to nobody, from its next packet on."""
        _keys(body, {"where", "subject"}, may={"sensor"})
        self._refuse_without_devices()
        where = _text(body, "where")
        subject = None if body["subject"] is None else _text(body, "subject")
        sensor = self._place(body)
        if subject is not None:
            self._board.check_subject(subject)
        if not self._board.knows_device(where):
            raise Refused("not_found", "there is no such device here")
        handed = self._board.assign(where, subject, sensor)
        await self._board.remember_assigned()
        return {"text": _handed_words(handed)}

    async def identify(self, body: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """Give the next device that is tapped or shaken to a person."""
        board = self._board
        if "action" in body:
            _keys(body, {"action"})
            _choice(body, "action", ("cancel",))
            if not await board.identifying.cancel():
                raise Refused("conflict", "nothing is being looked for")
            return {"text": both("cancelled", "annulé")}
        _keys(body, {"subject"}, may={"sensor"})
        self._refuse_without_devices()
        subject, sensor = _text(body, "subject"), self._place(body)
        board.check_subject(subject)
        if board.identifying.running:
            raise Refused("conflict", "a sensor is being looked for already; cancel that first")

        def assign(where: str) -> Words:
            handed = board.assign(where, subject, sensor)
            board.remember_assigned_soon()
            return _handed_words(handed)

        board.record("identify_started", subject=subject, sensor=sensor)
        board.identifying.start(subject, sensor, assign)
        return {
            "text": both(
                f"tap or shake the sensor of {subject} within 20 seconds, and hold the others still",
                f"tapez ou secouez le capteur de {subject} dans les 20 secondes, sans bouger les autres",
            )
        }

    def _refuse_without_devices(self) -> None:
        if not self._board.features()["assign"]:
            raise Refused("conflict", "a replay has no devices")

    def _place(self, body: Mapping[str, Any]) -> str | None:
        if body.get("sensor") is None:
            return None
        sensor = _text(body, "sensor")
        known = self._board.places()
        if sensor not in known:
            raise Refused("bad_request", f"sensor must be one of {', '.join(known)}")
        return sensor

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


def _handed_words(handed: HandedOver) -> Words:
    what = handed.serial or handed.where
    place = both("", "") if handed.sensor is None else place_words(handed.sensor)
    if handed.taker is None:
        return both(f"{what} is nobody's now", f"{what} n'est plus à personne")
    en, fr = f"{what} is {handed.taker}'s now", f"{what} est maintenant à {handed.taker}"
    if handed.sensor is not None:
        en, fr = f"{en} ({place['en']})", f"{fr} ({place['fr']})"
    if handed.displaced is not None:
        en, fr = f"{en}; {handed.displaced} is nobody's", f"{fr} ; {handed.displaced} n'est plus à personne"
    return both(en, fr)


def _choice(body: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = body.get(key)
    if not isinstance(value, str) or value not in known:
        raise Refused("bad_request", f"{key} must be {' or '.join(known)}")
    return value


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
