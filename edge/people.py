"""The people of one board: whom each is compared with, and how their sensors sit today. Rows go in fixed order.

Sensors are never put on twice alike, so what an enrolment promises holds only once it is known how they sit today: from
walking, from guided poses, or because they were not taken off since. Until then it is not, and verdicts say so. What
was off, or silent for long, is not known any more (``kinedge.edge.wearing``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration, stack_calibrations
from kinedge.edge.frame_watch import FrameWatch
from kinedge.edge.kept_enrolments import KeptEnrolments
from kinedge.edge.orientation import Alignment, align, rotate_samples, triads_of
from kinedge.edge.pose import PoseAlignment, PoseFrames, align_poses
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Basis
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.edge.enrolment import Enrolment

__all__ = ["ALIGN_AFTER_S", "People"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_Alignment = Literal["none", "pending", "partly", "done", "failed", "same"]
_ALIGNMENTS: Final[tuple[_Alignment, ...]] = get_args(_Alignment)
ALIGN_AFTER_S: Final = 60.0  # of walking; where it did not suffice, after as much again ...
_GIVE_UP_S: Final = 600.0  # ... up to this
_WORTH_TURNING_RAD: Final = float(np.deg2rad(2.0))


class People:
    """Calibrations, bases and rotations of all streams.

    Parameters
    ----------
    scorer
        The model.
    subjects
        One stream each.
    enrolments
        By subject; who is missing is compared with the cohort. They are kept small, so many are best handed over as
        ``KeptEnrolments``, which must have ``own_reference`` where the model's cohort was not enrolled.
    unsigned
        By subject, what of theirs nobody trusted has signed.

    Raises
    ------
    ConfigError
        An enrolment is of another person, or was made with another bundle or precision.

    Attributes
    ----------
    known : (n_streams, n_sensors) bool
        Of which sensors it is known how they sit against the enrolment, since they were last put on.
    """

    def __init__(
        self,
        scorer: Scorer,
        subjects: Sequence[str],
        enrolments: Mapping[str, Enrolment] | None = None,
        *,
        unsigned: Mapping[str, tuple[Literal["model", "enrolment"], ...]] | None = None,
    ) -> None:
        unsigned = unsigned or {}
        manifest, cohort = scorer.manifest, scorer.calibration
        self.subjects = tuple(subjects)
        who, own, self._alignable, self._posable = set(subjects), {}, set[str](), set[str]()
        if kept := isinstance(enrolments, KeptEnrolments):
            self.enrolments = enrolments.only(who)
        else:
            self.enrolments = KeptEnrolments(own_reference=cohort.enrolled is None)
        for subject, enrolment in (enrolments or {}).items():
            _refuse_misfit(subject, enrolment, scorer)
            if subject not in who:
                continue
            if not kept:
                self.enrolments.keep(subject, enrolment)
            own[subject] = enrolment.baseline.calibration(cohort, scorer.groups)
            if (enrolment.frames.anisotropy > 0).any():
                self._alignable.add(subject)
            if enrolment.poses is not None and enrolment.poses.usable.any():
                self._posable.add(subject)
        self.calibration: Calibration | None = None
        if own:
            self.calibration = stack_calibrations([own.get(s, cohort) for s in self.subjects])
        self._triads, self._owner = triads_of(manifest.sensor_specs)
        self._rotations = np.tile(np.eye(3, dtype=np.float32), (len(self.subjects), len(manifest.sensors), 1, 1))
        self._turned = np.zeros(len(self.subjects), bool)
        self._some_turned = False
        self._bases = [
            Basis(
                enrolment_digest=self.enrolments.digest(s),
                alignment="pending" if self.can_align(s) or self.can_pose(s) else "none",
                unsigned=unsigned.get(s, ()),
            )
            for s in self.subjects
        ]
        self.bases: tuple[Basis, ...] = tuple(self._bases)
        shape = (len(self.subjects), len(manifest.sensors))
        self.known = np.zeros(shape, bool)
        self._look_s = np.full(shape, ALIGN_AFTER_S)  # of walking, at which each sensor is looked at next
        self._enrolled = np.array([s in self.enrolments for s in self.subjects], bool)
        self._can_align = np.array([self.can_align(s) for s in self.subjects], bool)
        self._frames = FrameWatch(manifest.sensor_specs, len(self.subjects), rate_hz=manifest.rate_hz)
        self._frames.begin(np.flatnonzero(self._can_align))

    def realign(self, subject: str) -> None:
        """Look anew at how the sensors of a person sit: they were taken off, or slipped.

        What is turned stays turned until then.

        Raises
        ------
        ConfigError
            The person is not enrolled, or their enrolment saw too little walking and no guided poses.
        """
        if subject not in self.subjects or not (self.can_align(subject) or self.can_pose(subject)):
            raise ConfigError(
                f"{subject}: nothing to align to; enrol with at least a minute of walking, or with the guided poses"
            )
        self._forget(self.subjects.index(subject), np.ones(self.known.shape[1], bool))

    def taken_off(self, rows: Rows, sensors: Mask) -> None:
        """Hear that sensors (n_rows, n_sensors) of some people are off, or were: how they sit then is to be seen anew.

        It may be said at every hop while they lie there: only the first time is something to be forgotten.
        """
        some = self._enrolled[rows] & sensors.any(axis=1)
        rows, sensors = rows[some], sensors[some]
        going = self._frames.going[rows]
        forget = (self.known[rows] & sensors).any(axis=1) | (~going & self._can_align[rows])
        for k in np.flatnonzero(forget).tolist():
            self._forget(int(rows[k]), sensors[k])
        # what a sensor sees on its way is no walking of a body
        on = going & ~forget
        self._see_anew(rows[on], sensors[on])

    def same_wearing(self, subject: str) -> None:
        """Hear that the sensors of somebody were not taken off since their enrolment: they sit as they did.

        Raises
        ------
        ConfigError
            The person is not enrolled.
        """
        if subject not in self.enrolments:
            raise ConfigError(f"{subject}: not enrolled, so there is nothing that sensors could sit like")
        row = self.subjects.index(subject)
        self._frames.end(row)
        self._rotations[row], self._turned[row] = np.eye(3), False
        self.known[row] = True
        self._set_basis(row, "same")

    def _forget(self, row: int, sensors: NDArray[np.bool_]) -> None:
        """Know no more how these sensors of a row sit, and look anew; what is turned stays turned until then."""
        subject = self.subjects[row]
        self.known[row, sensors] = False
        self._see_anew(np.array([row]), sensors[None])
        if not self.can_align(subject) and not self.can_pose(subject):
            self._set_basis(row, "none")
            return
        if self.can_align(subject):
            self._frames.begin(np.array([row]))
        self._set_basis(row, "partly" if self.known[row].any() else "pending")

    def _see_anew(self, rows: Rows, sensors: Mask) -> None:
        """Forget what was learned of these sensors (n_rows, n_sensors)."""
        self._frames.clear(rows, sensors)
        self._look_s[rows] = np.where(sensors, ALIGN_AFTER_S, self._look_s[rows])

    def pose(self, subject: str, today: PoseFrames) -> PoseAlignment:
        """Turn a person's sensors by poses that were taken just now; the pipeline does so between two hops.

        A sensor that the poses cannot turn stays as it is, and walking goes on being looked at for it. What was turned
        otherwise before is turned anew, so that scoring of the person has to start anew: ``Pipeline.use_poses`` does.

        Raises
        ------
        ConfigError
            The person's enrolment has no poses.
        SignalError
            The poses are of other sensors.
        """
        poses = self.enrolments[subject].poses if self.can_pose(subject) else None
        if poses is None:
            raise ConfigError(f"{subject}: no poses to align to; enrol with the guided poses")
        found = align_poses(today, poses)
        if found.alignment.usable.any():
            self._settle(self.subjects.index(subject), found.alignment, found.alignment.usable)
        return found

    def by_subject(self) -> tuple[tuple[str, Basis], ...]:
        """Return everybody with what the verdicts about them rest on."""
        return tuple(zip(self.subjects, self._bases, strict=True))

    def calibration_of(self, rows: Rows | None) -> Calibration | None:
        """Return whom these rows, or all when None, are compared with; None where nobody is enrolled."""
        return self.calibration if self.calibration is None or rows is None else self.calibration.rows(rows)

    @property
    def learning(self) -> bool:
        """Whether an alignment is pending for anybody."""
        return bool(self._frames)

    def learn(self, rows: Rows, values: F32, valid: Mask) -> Mask:
        """Take a hop of some streams, unturned; tell whose sensors are turned otherwise from the next hop on.

        Only those are looked at whose alignment is pending.

        Parameters
        ----------
        rows : (n_rows,)
            Whose.
        values, valid : (n_rows, hop, n_channels)
            As the sensors sit.

        Returns
        -------
        turned : (n_rows,)
        """
        turned = np.zeros(len(rows), bool)
        at = np.flatnonzero(self._frames.going[rows])
        if not len(at):
            return turned
        everybody, own = len(at) == len(rows), rows[at]
        self._frames.add(own, values if everybody else values[at], valid if everybody else valid[at])
        walked_s, wanted = self._frames.walked_s[own], ~self.known[own]
        ready = wanted & (walked_s >= self._look_s[own])
        if not ready.any():
            return turned
        # sensors that walk along are turned together; for one that is silent nobody waits
        soon = wanted & ~ready & (2 * walked_s >= walked_s.max(axis=1, keepdims=True))
        for k in np.flatnonzero(ready.any(axis=1) & ~soon.any(axis=1)).tolist():  # once a minute of somebody's walking
            row, which = int(own[k]), ready[k]
            self._look_s[row, which] = walked_s[k, which] + ALIGN_AFTER_S
            found = align(self._frames.frames(row), self.enrolments.frames(self.subjects[row]))
            turned[at[k]] = self._settle(row, found, which)
        return turned

    def _settle(self, row: int, found: Alignment, which: NDArray[np.bool_]) -> bool:
        """Turn these sensors of a row so from here on; whether that is otherwise than before."""
        before = self._rotations[row].copy()
        worth = found.usable & (found.angle_rad > np.maximum(found.error_rad, _WORTH_TURNING_RAD))
        turn = np.where(worth[:, None, None], found.rotation, np.eye(3))
        self._rotations[row] = np.where(which[:, None, None], turn, before)
        self._turned[row] = bool((self._rotations[row] != np.eye(3)).any())
        self.known[row, which] = found.usable[which]
        known = self.known[row]
        if known.all() or (self._look_s[row][~known] > _GIVE_UP_S).all():
            self._frames.end(row)
        self._set_basis(row, "done" if known.all() else "partly" if known.any() else "failed")
        return bool((before != self._rotations[row]).any())

    def save(self) -> dict[str, NDArray[Any]]:
        """Return how everybody's sensors sit, row by row; an alignment that is pending begins anew."""
        said = [_ALIGNMENTS.index(b.alignment) for b in self._bases]
        return {
            "rotations": self._rotations.copy(),
            "turned": self._turned.copy(),
            "alignment": np.array(said),
            "known": self.known.copy(),
        }

    def load(self, saved: Mapping[str, NDArray[Any]], rows: Mapping[int, int]) -> None:
        """Go on from what was saved, for rows of then (keys) that are rows here now, with the same enrolments."""
        for old, row in rows.items():
            alignment = _ALIGNMENTS[int(saved["alignment"][old])]
            if alignment in {"none", "pending"} or self.subjects[row] not in self.enrolments:
                continue
            self._rotations[row], self._turned[row] = saved["rotations"][old], saved["turned"][old]
            self.known[row] = saved["known"][old]
            if self.known[row].all():
                self._frames.end(row)
            self._set_basis(row, alignment)

    def turn(
        self, rows: NDArray[np.intp], values: F32, valid: NDArray[np.bool_], saturated: NDArray[np.bool_]
    ) -> tuple[F32, NDArray[np.bool_], NDArray[np.bool_]]:
        """Bring hops (n_rows, hop, n_channels) into the frames of the enrolments, all in one step."""
        if not (self._some_turned and self._turned[rows].any()):
            return values, valid, saturated
        return rotate_samples(values, valid, saturated, self._rotations[rows], self._triads, self._owner)

    def can_align(self, subject: str) -> bool:
        """Whether there is an enrolment with enough walking to align a person's sensors to."""
        return subject in self._alignable

    def can_pose(self, subject: str) -> bool:
        """Whether there is an enrolment with guided poses that some sensor of a person can be turned by."""
        return subject in self._posable

    def _set_basis(self, row: int, alignment: _Alignment) -> None:
        self._bases[row] = replace(self._bases[row], alignment=alignment)
        self._some_turned = bool(self._turned.any())
        self.bases = tuple(self._bases)


def _refuse_misfit(subject: str, enrolment: Enrolment, scorer: Scorer) -> None:
    own, manifest = enrolment.manifest, scorer.manifest
    if own.subject != subject:
        raise ConfigError(f"{subject}: the enrolment is of {own.subject}; each person needs their own")
    if own.bundle_digest != scorer.bundle.digest:
        raise ConfigError(
            f"{subject}: the enrolment was made with {own.bundle_name} {own.bundle_digest[:16]}, and {manifest.name} "
            f"{scorer.bundle.digest[:16]} runs here; enrol again with this model"
        )
    if own.precision != scorer.precision:
        raise ConfigError(
            f"{subject}: the enrolment was made in {own.precision}, and {scorer.precision} runs here; enrol again with "
            f"precision {scorer.precision}, or run {own.precision}"
        )
    if own.sensors != manifest.sensors:
        raise ConfigError(f"{subject}: the enrolment names other sensors than the bundle; enrol again")
    cohort = scorer.calibration.enrolled
    if cohort is not None and (cohort.weights is None) != (enrolment.baseline.lines is None):
        raise ConfigError(
            f"{subject}: the enrolment does not fit the bundle in how the sensors move together; enrol again"
        )
