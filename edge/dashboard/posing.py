"""Guided poses on a running gateway: sensors were put on again, or an enrolment gets the poses that new days go by.

The guide goes by the samples of the person it leads; who watches the page sees each sensor come to rest. What it finds
turns the person's sensors between two hops, or goes into the enrolment that is being learned. Either leaves an audit
row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.pose_words import POSE_NAMES, POSE_WORDS, WHY_WORDS
from kinedge.edge.dashboard.words import Words, both, place_words
from kinedge.edge.pipeline import Scored
from kinedge.edge.pose import HOLD_S, PoseFrames, Why
from kinedge.edge.pose_guide import PoseGuide
from kinedge.errors import KinedgeError

if TYPE_CHECKING:
    from kinedge.edge.dashboard.enrolling import EnrolmentRoom
    from kinedge.edge.service import EdgeService

__all__ = ["PosingRoom"]

_PHASES: Final[dict[str, Words]] = {
    "ready": both("Get into the pose.", "Prenez la posture."),
    "hold": both("Hold still.", "Ne bougez plus."),
    "stuck": both(
        "Not everything was still. Take the pose again, or go on without the sensors that moved.",
        "Tout n'était pas immobile. Reprenez la posture, ou continuez sans les capteurs qui ont bougé.",
    ),
}


@dataclass
class _Led:
    guide: PoseGuide
    purpose: Literal["align", "enrol"]


class PosingRoom:
    """Everybody who is led through the poses on this board, and how that ended.

    Parameters
    ----------
    service
        The gateway.
    enrolments
        Who is being enrolled: their poses go there.
    """

    def __init__(self, service: EdgeService, enrolments: EnrolmentRoom) -> None:
        self._service = service
        self._enrolments = enrolments
        self._led: dict[str, _Led] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def can(self, subject: str) -> bool:
        """Whether poses would be of use to somebody now."""
        return self._enrolments.collects(subject) or self._service.pipeline.people.can_pose(subject)

    def of(self, subject: str) -> dict[str, Any] | None:
        """Return how far somebody is; None where nothing was begun, or its end was read."""
        led = self._led.get(subject)
        if led is None:
            return self._ended.get(subject)
        step = led.guide.step
        return {
            "state": step.phase,
            "purpose": led.purpose,
            "number": step.number + 1,
            "of": step.of,
            "pose": step.pose,
            "name": POSE_NAMES[step.pose],
            "instruction": POSE_WORDS[step.pose],
            "text": _PHASES[step.phase],
            "seconds_left": round(step.left_s, 1),
            "hold_s": HOLD_S,
            "sensors": [
                self._sensor(name, still_s, why)
                for name, still_s, why in zip(self._service.scorer.sensors, step.still_s, step.why, strict=True)
            ],
        }

    def start(self, subject: str) -> Words:
        """Begin: the sensors were put on again, or the poses of an enrolment are to be recorded.

        Raises
        ------
        Refused
            That is going on already, or there is nothing to align to.
        """
        if subject in self._led:
            raise Refused("conflict", f"{subject}: being led through the poses already; cancel that first")
        service = self._service
        enrol = self._enrolments.collects(subject)
        if not enrol and not service.pipeline.people.can_pose(subject):
            raise Refused("conflict", f"{subject}: no poses to align to; record them while learning what is usual")
        if not enrol:
            service.pipeline.people.realign(subject)
        manifest = service.scorer.manifest
        guide = PoseGuide(manifest.sensor_specs, rate_hz=manifest.rate_hz)
        self._led[subject] = _Led(guide, "enrol" if enrol else "align")
        self._ended.pop(subject, None)
        service.caretaker.record("poses_started", subject=subject, purpose=self._led[subject].purpose)
        return both(f"poses of {subject}: {guide.step.of} to hold", f"postures de {subject} : {guide.step.of} à tenir")

    def repeat(self, subject: str) -> Words:
        """Take the pose that it waits at once more.

        Raises
        ------
        Refused, SignalError
            Nobody is led, or it waits at none.
        """
        self._of(subject).guide.repeat()
        return both("once more", "encore une fois")

    def go_on(self, subject: str) -> Words:
        """Go on without the sensors that were not still.

        Raises
        ------
        Refused, SignalError
            Nobody is led, it waits at none, or nothing was still.
        """
        led = self._of(subject)
        led.guide.go_on()
        if led.guide.done:
            self._finish(subject, led)
        return both("going on without", "on continue sans")

    def cancel(self, subject: str) -> Words:
        """Leave off, or put away how it ended.

        Raises
        ------
        Refused
            There is nothing.
        """
        if self._led.pop(subject, None) is not None:
            self._service.caretaker.record("poses_cancelled", subject=subject)
        elif self._ended.pop(subject, None) is None:
            raise Refused("conflict", f"{subject}: no poses are being taken")
        return both("no poses are being taken", "aucune posture en cours")

    def saw(self, scored: Scored) -> None:
        """Take one hop; does nothing for whom nobody leads."""
        led = self._led.get(scored.subject)
        if led is None:
            return
        if led.purpose == "enrol" and not self._enrolments.collects(scored.subject):
            del self._led[scored.subject]  # the enrolment ended meanwhile
            return
        led.guide.add(scored.values, scored.valid)
        if led.guide.done:
            self._finish(scored.subject, led)

    def forget(self, subjects: Iterable[str]) -> None:
        """Keep nothing of people who left."""
        for subject in subjects:
            self._led.pop(subject, None)
            self._ended.pop(subject, None)

    def _of(self, subject: str) -> _Led:
        led = self._led.get(subject)
        if led is None:
            raise Refused("conflict", f"{subject}: no poses are being taken")
        return led

    def _finish(self, subject: str, led: _Led) -> None:
        del self._led[subject]
        names = self._service.scorer.sensors
        try:
            frames = led.guide.frames()
            found = self._taken(subject, frames) if led.purpose == "enrol" else self._aligned(subject, frames)
        except KinedgeError as e:
            text = both(f"failed: {e}", f"échec : {e}")
            found = {"state": "failed", "text": text, "sensors": [self._sensor(n, 0.0, "moving") for n in names]}
        self._ended[subject] = {"purpose": led.purpose, "number": led.guide.step.of, "of": led.guide.step.of, **found}
        self._service.caretaker.record(
            "posed",
            subject=subject,
            purpose=led.purpose,
            state=found["state"],
            sensors={
                s["sensor"]: {k: s[k] for k in ("why", "angle_deg", "error_deg") if s[k] is not None}
                for s in found["sensors"]
            },
        )
        self._service.note(f"{subject}: guided poses: {found['text']['en']}")
        if self._service.board is not None:
            self._service.board.hub.changed(subject)

    def _taken(self, subject: str, frames: PoseFrames) -> dict[str, Any]:
        self._enrolments.take_poses(subject, frames)
        names = self._service.scorer.sensors
        usable = frames.usable.tolist()
        whys: list[Why] = ["" if ok else "same_direction" for ok in usable]
        sensors = [self._sensor(n, HOLD_S, w) for n, w in zip(names, whys, strict=True)]
        n = sum(usable)
        text = both(
            f"recorded with the enrolment; {n} of {len(names)} sensors can be aligned by them on a new day",
            f"enregistrées avec la référence ; {n} capteurs sur {len(names)} pourront être recalés un autre jour",
        )
        return {"state": "done", "text": text, "sensors": sensors}

    def _aligned(self, subject: str, frames: PoseFrames) -> dict[str, Any]:
        found = self._service.pipeline.use_poses(subject, frames)
        names, alignment = self._service.scorer.sensors, found.alignment
        sensors = [
            self._sensor(
                name, HOLD_S, why, angle_rad=float(alignment.angle_rad[i]), error_rad=float(alignment.error_rad[i])
            )
            for i, (name, why) in enumerate(zip(names, found.why, strict=True))
        ]
        n = int(alignment.usable.sum())
        if not n:
            text = both("no sensor could be aligned", "aucun capteur n'a pu être recalé")
            return {"state": "failed", "text": text, "sensors": sensors}
        text = both(
            f"{n} of {len(names)} sensors aligned to the enrolment; answers begin anew in some seconds",
            f"{n} capteurs sur {len(names)} recalés sur la référence ; les réponses reprennent dans quelques secondes",
        )
        return {"state": "done", "text": text, "sensors": sensors}

    @staticmethod
    def _sensor(
        name: str, still_s: float, why: Why, *, angle_rad: float | None = None, error_rad: float | None = None
    ) -> dict[str, Any]:
        told = error_rad is not None and np.isfinite(error_rad)
        text = WHY_WORDS[why]
        if told and not why and angle_rad is not None and error_rad is not None:
            turn, off = round(np.degrees(angle_rad)), round(np.degrees(error_rad))
            text = both(f"turned by {turn}°, give or take {off}°", f"tourné de {turn}°, à {off}° près")
        return {
            "sensor": name,
            "place": place_words(name),
            "still_s": round(float(still_s), 1),
            "why": why,
            "text": text,
            "angle_deg": round(float(np.degrees(angle_rad)), 1) if told and angle_rad is not None else None,
            "error_deg": round(float(np.degrees(error_rad)), 1) if told and error_rad is not None else None,
        }
