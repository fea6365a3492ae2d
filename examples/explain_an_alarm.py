"""Take the strongest verdict of a simulated minute apart: what was unusual, where it starts, in two languages.

    python examples/explain_an_alarm.py [seed]

Another seed is another person.
"""

from __future__ import annotations

import sys

from kinedge import read_bundle
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.narrative import summarise
from kinedge.edge.offline import verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.training.scenario import demo_recording, events_of


def main(argv: list[str]) -> int:
    seed = int(argv[0]) if argv else 0
    recording = demo_recording(seed=seed)
    scorer = Scorer(read_bundle(DEFAULT_BUNDLE))
    rate = scorer.manifest.rate_hz
    verdicts = verdicts_of(scorer, recording)
    worst = max((v for v in verdicts if v.decision is Decision.ANOMALOUS), key=lambda v: v.score, default=None)
    if worst is None:
        print("nothing differed; try another seed")
        return 1
    at = worst.end_tick / rate
    put_in = [f"{e.name} at {'+'.join(e.sensors)}" for e in events_of(recording) if e.start_s <= at <= e.end_s + 2]
    print(f"{at:.0f} s: different; put in there: {', '.join(put_in) or 'nothing'}")
    print(
        f"  p = {worst.p_value:.4f} of the cohort's ordinary blocks are as unusual; score {worst.score:.2f}, 1 is 99 %"
    )
    print(f"  belief: different {worst.belief_anomalous:.2f}, as usual {worst.belief_normal:.2f}")
    for channel, share in sorted(worst.channel_share.items(), key=lambda kv: -kv[1])[:3]:
        print(f"  {channel:20} {share:4.0%}")
    print(f"  the few that account for 80 %: {', '.join(worst.smallest_set)}")

    near = [v for v in verdicts if abs(v.end_tick - worst.end_tick) <= 10 * rate]
    unusual = sum(v.decision is Decision.ANOMALOUS for v in near) / len(near)
    sensor, _, channel = worst.smallest_set[0].partition(".")
    others = dict(zip(("beside", "out_of_step"), worst.from_others(sensor), strict=True))
    moved = worst.sensor_movement[sensor]
    phrase = summarise(sensor, channel, movement=moved, share=unusual, seconds=len(near), **others)
    for language in ("en", "fr"):
        print(f"  {language}: {phrase.text[language]}  (true to {phrase.truth:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
