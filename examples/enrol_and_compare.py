"""Enrol a simulated person from half an hour, and compare another quarter with the cohort and themselves.

    python examples/enrol_and_compare.py [seed]

The sensors sit as at enrolment; on another day they do not, and are aligned first (docs/enrolment.md).
"""

from __future__ import annotations

import sys
from collections import Counter

from kinedge import read_bundle
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.offline import verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording
from kinedge.training.simulate import SimulationConfig, simulate


def ordinary(seed: int, session: int, minutes: float) -> Recording:
    """Simulate a person of this seed: equal seeds are the same person, other sessions another hour of theirs."""
    return simulate(SimulationConfig(duration_s=60 * minutes, subject_seed=910_000 + seed, session_seed=session))


def main(argv: list[str]) -> int:
    seed = int(argv[0]) if argv else 3
    bundle = read_bundle(DEFAULT_BUNDLE)
    cohort = Scorer(bundle)
    enrolment = enrol_recordings(cohort, [ordinary(seed, 1, 32)], subject="p-001")
    audit = enrolment.manifest.audit
    print(f"enrolled from {audit.n_blocks} blocks; the audit says: {audit.sentence()}")

    own = enrolment.baseline.calibration(cohort.calibration, cohort.groups)
    later = ordinary(seed, 2, 15)
    for name, scorer in (("the cohort", cohort), ("themselves", Scorer(bundle, calibration=own))):
        answers = Counter(v.decision for v in verdicts_of(scorer, later))
        shares = ", ".join(f"{d.word} {answers[d] / sum(answers.values()):.1%}" for d in Decision)
        print(f"compared with {name}: {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
