"""Score a CSV file of two wrists, and print when the answer changes.

    python examples/score_a_recording.py [recording.csv]

The heading of the file says its columns and units (docs/training.md). Without a file, a simulated minute is written
and read.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from kinedge import read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.offline import align_recording, verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.training.datasets.plain_csv import load_csv
from kinedge.training.scenario import demo_recording


def write_example(path: Path) -> None:
    """Write a simulated minute with three changes of movement, 2 % of it missing."""
    simulated = demo_recording(seed=7)
    unit = {"acc": "acc_m_s2", "gyr": "gyr_rad_s"}
    names = [f"{s.name}.{unit[c[:3]]}.{c[-1]}" for s in simulated.sensors for c in s.channels]
    time_s = np.arange(len(simulated)) / simulated.rate_hz
    rows = np.column_stack([time_s, np.where(simulated.valid, simulated.values, np.nan)])
    text = [",".join(["time_s", *names])]
    text += [",".join("" if np.isnan(v) else f"{v:.5g}" for v in row) for row in rows]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(argv[0]) if argv else Path(scratch) / "example.csv"
        if not argv:
            write_example(path)
        scorer = Scorer(read_bundle(DEFAULT_BUNDLE))
        recording = load_csv(path).select(scorer.manifest.sensor_specs)
    before = ""
    for verdict in verdicts_of(scorer, align_recording(recording, rate_hz=scorer.manifest.rate_hz)):
        why = verdict.reasons[0].text if verdict.decision.word == "unsure" else f"p = {verdict.p_value:.3f}"
        if verdict.decision.word != before:
            print(f"{verdict.end_tick / scorer.manifest.rate_hz:5.0f} s  {verdict.decision.word:9}  {why}")
        before = verdict.decision.word
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
