"""People who are enrolled, for benchmarks of speed: what their alarms and their alignment cost hangs on no sample.

The enrolment is of noise with a rhythm of steps in it, which any model can be enrolled with; everybody gets a copy of
their own. ``BEING_ALIGNED`` is how a day begins: nobody knows yet how the sensors sit, and everybody walks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from kinedge.benchmarks.crowd import walking_samples
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.kept_enrolments import KeptEnrolments
from kinedge.edge.orientation import WINDOW_S
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording

__all__ = ["BEING_ALIGNED", "COHORT", "ENROLLED", "KINDS", "Kind", "any_enrolment", "hops_of_a_turn", "pipeline_of"]

Kind = Literal["", "enrolled", "being aligned"]
COHORT: Final[Kind] = ""
ENROLLED: Final[Kind] = "enrolled"
BEING_ALIGNED: Final[Kind] = "being aligned"
KINDS: Final[tuple[Kind, ...]] = (COHORT, ENROLLED, BEING_ALIGNED)

_ENROLLED_S: Final = 240.0


def any_enrolment(scorer: Scorer) -> Enrolment:
    """Return an enrolment that says nothing of anybody and costs what one costs."""
    manifest = scorer.manifest
    n = round(_ENROLLED_S * manifest.rate_hz)
    values = walking_samples(manifest, n, np.random.default_rng(1), period=round(0.5 * manifest.rate_hz))
    recording = Recording(manifest.sensor_specs, manifest.rate_hz, values, np.ones(values.shape, bool), subject="p")
    return enrol_recordings(scorer, [recording], allow_short=True, made_s=0)


def pipeline_of(
    scorer: Scorer,
    subjects: Sequence[str],
    kind: Kind,
    enrolment: Enrolment | None = None,
    *,
    n_phases: int = 1,
    max_delay_s: float = 0.25,
) -> Pipeline:
    """Return a pipeline of people who are all of one kind; with the default alarm, as a gateway has it.

    Parameters
    ----------
    scorer, subjects, n_phases, max_delay_s
        Of the pipeline.
    kind
        ``ENROLLED``: their sensors were not taken off since.
    enrolment
        From ``any_enrolment``; made here when None.
    """
    people = None
    if kind:
        own = enrolment or any_enrolment(scorer)
        kept = KeptEnrolments(own_reference=scorer.calibration.enrolled is None)
        for subject in subjects:
            kept.keep(subject, _of(own, subject))
        people = People(scorer, subjects, kept)
        for subject in subjects if kind == ENROLLED else ():
            people.same_wearing(subject)
    alarm = AlarmConfig()
    return Pipeline(scorer, subjects, n_phases=n_phases, max_delay_s=max_delay_s, people=people, alarm=alarm)


def _of(enrolment: Enrolment, subject: str) -> Enrolment:
    """Return one's own, of which nothing is shared with others: as read from a file of theirs."""
    text = enrolment.manifest.model_copy(update={"subject": subject}).model_dump_json()
    baseline, frames = copy.deepcopy(enrolment.baseline), copy.deepcopy(enrolment.frames)
    return replace(
        enrolment, manifest=type(enrolment.manifest).model_validate_json(text), baseline=baseline, frames=frames
    )


def hops_of_a_turn(scorer: Scorer) -> int:
    """Return after how many hops all that is not done at every hop was done: a block, and a window of walking."""
    manifest = scorer.manifest
    windows = -(-round(WINDOW_S * manifest.rate_hz) // manifest.hop)
    return int(np.lcm(manifest.block // manifest.hop, windows))
