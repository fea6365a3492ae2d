"""Enrol a person: collect what they ordinarily do through the code that scores live, and pack what is usual of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge import __version__
from kinedge.edge.calibration import MAX_REFERENCE, thin
from kinedge.edge.engine import Surprise
from kinedge.edge.enrolment import Enrolment, pack_enrolment, read_enrolment
from kinedge.edge.enrolment_audit import audit_person
from kinedge.edge.offline import align_recording, hops
from kinedge.edge.orientation import FrameEstimator
from kinedge.edge.personal import Blocks, fit_baseline
from kinedge.edge.pipeline import Scored
from kinedge.edge.pose import POSES, PoseFrames
from kinedge.edge.pose_marks import frames_of_labels
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording

__all__ = ["MIN_USABLE_S", "EnrolmentBuilder", "enrol_recordings"]

F32 = NDArray[np.float32]

MIN_USABLE_S: Final = 1800.0
_MAX_S: Final = 4 * 3600.0
_MAX_MISSING: Final = 0.25  # of a block, at any sensor
_MAX_SATURATED: Final = 0.05
_MAX_EXCHANGED: Final = 0.5  # of the hops: left and right are exchanged, and nothing is called normal then
_MAX_ABSURD: Final = 0.25  # of the hops: another unit or range than was said
_MIN_USABLE_SHARE: Final = 0.5
_MIN_BLOCKS: Final = 30


class EnrolmentBuilder:
    """Collects the ordinary movement of one person, hop by hop; four hours at most.

    Parameters
    ----------
    scorer
        The model with its cohort calibration.
    """

    def __init__(self, scorer: Scorer) -> None:
        manifest = scorer.manifest
        self._scorer = scorer
        self._hop_s = manifest.hop / manifest.rate_hz
        self._max_hops = round(_MAX_S / self._hop_s)
        self._frames = FrameEstimator(manifest.sensor_specs, rate_hz=manifest.rate_hz)
        self._channel: list[NDArray[np.float64]] = []
        self._intensity: list[NDArray[np.float64]] = []
        self._before: list[NDArray[np.float64]] = []
        self._late: list[NDArray[np.float64]] = []
        self._hop: list[int] = []
        self._trusted: list[bool] = []
        self._feedback: dict[str, str] = {}
        self._poses: PoseFrames | None = None
        self._moment = np.zeros((manifest.n_channels, manifest.n_channels))
        self._n_residuals = 0
        self._n_hops = 0
        self._starts = [g.start for g in scorer.groups]
        self._bad = np.zeros(len(scorer.sensors), np.int64)
        self._heard = np.zeros(len(scorer.sensors), bool)
        self._exchanged = np.zeros(len(scorer.sensors), np.int64)
        self._absurd = np.zeros(len(scorer.sensors), np.int64)

    @property
    def recorded_s(self) -> float:
        """How much was taken in."""
        return self._n_hops * self._hop_s

    @property
    def usable_s(self) -> float:
        """How much of it can be learned from."""
        return (len(self._hop) - self.n_trusted) * self._hop_s

    @property
    def n_trusted(self) -> int:
        """How many blocks somebody has said to be ordinary."""
        return sum(self._trusted)

    @property
    def is_full(self) -> bool:
        """Whether more would be ignored."""
        return self._n_hops >= self._max_hops

    def add(
        self,
        scores: BlockScores,
        surprise: Surprise,
        stream: int,
        *,
        hop: int,
        values: F32,
        valid: NDArray[np.bool_],
    ) -> None:
        """Take one hop of one stream.

        Parameters
        ----------
        scores, surprise
            From one step of the scorer.
        stream
            Which row of them.
        hop
            Its number: increasing, one more for the next hop without a break.
        values, valid : (hop, n_channels)
            The samples, in the sensors' own frames.
        """
        if self.is_full:
            return
        self._n_hops += 1
        self._frames.add(values, valid)
        missing, saturated = scores.missing[stream], scores.saturated[stream]
        self._heard |= missing < 1 - _MAX_MISSING
        if not scores.full[stream]:
            return
        bad = (missing > _MAX_MISSING) | (saturated > _MAX_SATURATED) | scores.flat[stream]
        # of a sensor with a fault the model saw nothing, or not all
        bad |= ~np.logical_and.reduceat(scores.scored[stream], self._starts)
        self._bad += bad
        if bad.any():
            return
        self._take(scores, surprise, stream, hop=hop, trusted=False)

    def add_trusted(self, scores: BlockScores, surprise: Surprise, stream: int) -> bool:
        """Take one hop that somebody has said to be ordinary: it is never left out as abnormal.

        It has no part in the audit, for it was chosen because it was unusual; nor in what was recorded. Returns whether
        it can be used.
        """
        missing, saturated = scores.missing[stream], scores.saturated[stream]
        bad = (missing > _MAX_MISSING) | (saturated > _MAX_SATURATED) | scores.flat[stream]
        if not scores.full[stream] or bad.any() or not scores.scored[stream].all():
            return False
        # never the next one of any other: histories begin anew
        self._take(scores, surprise, stream, hop=(self._hop[-1] if self._hop else 0) + 2, trusted=True)
        return True

    @property
    def poses(self) -> PoseFrames | None:
        """The guided poses that it has; None while there are none."""
        return self._poses

    def take_poses(self, poses: PoseFrames) -> None:
        """Take guided poses, in place of earlier ones; new days can be aligned by them.

        Raises
        ------
        SignalError
            They are of other sensors, or no sensor pointed otherwise in one pose than in another.
        """
        if poses.gravity.shape[:2] != (len(POSES), len(self._scorer.sensors)):
            raise SignalError(f"poses of shape {poses.gravity.shape} do not fit the sensors of the model")
        if not poses.usable.any():
            raise SignalError(
                "no sensor pointed 20 degrees otherwise in one pose than in the other; take them as they are shown"
            )
        self._poses = poses

    def note_feedback(self, answers: Mapping[str, str]) -> None:
        """Name the episodes whose answers this enrolment is made with: id, and ``dismissed`` or ``confirmed``."""
        self._feedback.update(answers)

    def _take(self, scores: BlockScores, surprise: Surprise, stream: int, *, hop: int, trusted: bool) -> None:
        self._channel.append(scores.channel[stream].copy())
        self._intensity.append(scores.intensity[stream].copy())
        self._before.append(scores.before[stream].copy())
        self._late.append(scores.late[stream].copy())
        self._hop.append(hop)
        self._trusted.append(trusted)
        z = surprise.z[stream, surprise.valid[stream, :, 0].all(axis=1), 0].astype(np.float64)
        self._moment += z.T @ z
        self._n_residuals += len(z)

    def add_scored(self, scored: Scored) -> None:
        """Take one hop from a pipeline."""
        batch = scored.batch
        hop = batch.end_tick // self._scorer.manifest.hop
        if batch.health is not None and not self.is_full:
            self._exchanged += batch.health.swapped[scored.stream] >= 1
            self._absurd += batch.health.units[scored.stream] >= 1
        self.add(batch.scores, batch.surprise, scored.stream, hop=hop, values=scored.values, valid=scored.valid)

    def finish(
        self,
        subject: str,
        *,
        source: str,
        placement: Mapping[str, str] | None = None,
        allow_short: bool = False,
        made_s: float | None = None,
    ) -> bytes:
        """Learn what is usual, audit it, and return the bytes of the enrolment, not yet signed.

        Parameters
        ----------
        subject
            A pseudonym.
        source
            Where the movement came from, for people.
        placement
            Sensor to device, as far as known.
        allow_short
            Take less than half an hour. It costs: the 99 % quantile is then more the cohort's than the person's, and
            the audit cannot tell.
        made_s
            UNIX time; now when None.

        Raises
        ------
        SignalError
            A sensor is missing, most of the data cannot be used, or there is too little of it.
        BundleError
            The subject is no pseudonym.
        """
        scorer, manifest = self._scorer, self._scorer.manifest
        self._refuse_if_unfit(allow_short=allow_short)
        blocks = Blocks(
            channel=np.stack(self._channel),
            intensity=np.stack(self._intensity),
            before=np.stack(self._before),
            late=np.stack(self._late),
            hop=np.array(self._hop, np.int64),
        )
        covariance = self._moment / max(self._n_residuals, 1)
        cohort, groups = scorer.calibration, scorer.groups
        trusted = np.array(self._trusted)
        baseline = fit_baseline(blocks, covariance, cohort=cohort, groups=groups, trusted=trusted)
        audit, held_out = audit_person(
            blocks.take(~trusted), covariance, cohort=cohort, groups=groups, stride=manifest.block // manifest.hop
        )
        when = time.gmtime(time.time() if made_s is None else made_s)
        return pack_enrolment(
            {
                "subject": subject,
                "bundle_digest": scorer.bundle.digest,
                "bundle_name": manifest.name,
                "precision": scorer.precision,
                "kinedge_version": __version__,
                "enrolled_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", when),
                "source": source[:400],
                "sensors": manifest.sensors,
                "placement": {k: v for k, v in (placement or {}).items() if k in scorer.sensors},
                "recorded_s": round(self.recorded_s, 3),
                "usable_s": round(self.usable_s, 3),
                "walking_s": self._frames.walking_s,
                "n_blocks": len(blocks),
                "n_trimmed": int(baseline.n_trimmed[0]),
                "short": self.usable_s < MIN_USABLE_S,
                "feedback": self._feedback,
                "audit": audit,
            },
            replace(baseline, reference=thin(held_out, MAX_REFERENCE)),
            self._frames.frames(),
            self._poses,
        )

    def _refuse_if_unfit(self, *, allow_short: bool) -> None:
        sensors = self._scorer.sensors
        if not self._n_hops:
            raise SignalError("nothing was recorded; are the sensors on?")
        silent = [s for s, heard in zip(sensors, self._heard, strict=True) if not heard]
        if silent:
            raise SignalError(f"no data from {', '.join(silent)}; the model needs {', '.join(sensors)}")
        absurd = self._absurd / self._n_hops
        if absurd.max() > _MAX_ABSURD:
            raise SignalError(
                f"{sensors[int(absurd.argmax())]} read what no body shows for {absurd.max():.0%} of "
                f"{self.recorded_s / 60:.1f} min: set its unit and range right, and record again"
            )
        exchanged = self._exchanged / self._n_hops
        if exchanged.max() > _MAX_EXCHANGED:
            pair = " and ".join(s for s, share in zip(sensors, exchanged, strict=True) if share > _MAX_EXCHANGED)
            raise SignalError(
                f"{pair} read exchanged for {exchanged.max():.0%} of {self.recorded_s / 60:.1f} min: put each on its "
                "own side, or exchange their devices in the configuration, and record again"
            )
        n_usable = len(self._hop) - self.n_trusted
        share = n_usable / self._n_hops
        if share < _MIN_USABLE_SHARE:
            worst = int(self._bad.argmax())
            raise SignalError(
                f"only {share:.0%} of {self.recorded_s / 60:.1f} min can be used, mostly because of {sensors[worst]} "
                "(missing, saturated, flat or faulty); mend that and record again"
            )
        if n_usable < _MIN_BLOCKS:
            raise SignalError(f"only {self.usable_s:.0f} s can be used; not even a short enrolment can be made of that")
        if self.usable_s < MIN_USABLE_S and not allow_short:
            raise SignalError(
                f"{self.usable_s / 60:.1f} min of ordinary movement, and {MIN_USABLE_S / 60:.0f} are needed; a short "
                f"enrolment (--allow-short) leans {100 / (100 + n_usable):.0%} on the cohort for what is rare, "
                "and its audit says little"
            )


def enrol_recordings(
    scorer: Scorer,
    recordings: Sequence[Recording],
    *,
    subject: str | None = None,
    allow_short: bool = False,
    made_s: float | None = None,
) -> Enrolment:
    """Enrol from recordings of one person; what is labelled in them is taken like the rest.

    Regions labelled ``pose:<name>`` are taken as the guided poses, too.

    Raises
    ------
    SignalError
        They are of several people, lack a channel, are not enough, left and right read exchanged, or a sensor reads
        what no body shows.
    """
    people = {r.subject for r in recordings}
    if len(people) != 1:
        raise SignalError(f"an enrolment is of one person; here are {', '.join(sorted(people)) or 'no recordings'}")
    manifest = scorer.manifest
    builder, name = EnrolmentBuilder(scorer), subject or next(iter(people))
    number = 0
    grids = [align_recording(r.select(manifest.sensor_specs), rate_hz=manifest.rate_hz) for r in recordings]
    if poses := frames_of_labels(grids):
        builder.take_poses(poses)
    for grid in grids:
        state = scorer.initial_state(1)
        for values, valid, saturated in hops(grid, manifest.hop):
            number += 1
            batch, state = scorer.step(values, valid, saturated, state, end_tick=number * manifest.hop)
            builder.add_scored(Scored(name, batch, 0, values, valid))
        number += 1  # a break
    source = ", ".join(r.source or r.session for r in recordings)
    return read_enrolment(builder.finish(name, source=source, allow_short=allow_short, made_s=made_s))
