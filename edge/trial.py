"""How a model that was just taken conducts itself in service, and whether it is kept.

A self-test asks one stored question. In service a model may still fail: its backend breaks on a shape it meets there,
its predictions are not finite on real movement (which the engine masks, so that nothing is scored), or it never says
anything but "unsure". So a new model is on trial until it has answered well for some time in which somebody was heard.

Only hops count in which data came from every sensor and the model had seen enough: an empty room proves nothing, and
condemns nobody.
"""

from __future__ import annotations

from typing import Final

from kinedge.bundle import Manifest
from kinedge.edge.caution import Decision
from kinedge.edge.pipeline import Scored
from kinedge.edge.verdict import Verdict

__all__ = ["Conduct", "judge_conduct"]

_HEARD: Final = 0.5  # of a sensor's block missing at most, for a verdict that counts
_EARLY_S: Final = 60.0  # heard, before anything is held against a model
_UNSCORED: Final = 0.5  # of what was heard, above which predictions cannot be finite
_DECIDED: Final = 0.1  # of verdicts: a model before that decided so often shows that these people can be judged


class Conduct:
    """Counts what a model says of people that are heard.

    Parameters
    ----------
    manifest
        Of the model.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._hop_s = manifest.hop / manifest.rate_hz
        seen = manifest.receptive_field + max(manifest.horizons) + manifest.block
        self._warm_up = -(-seen // manifest.hop)
        self._n_seen: dict[str, int] = {}
        self._last_tick = -1
        self.n_ticks = 0
        self.n_verdicts = 0
        self.n_unsure = 0
        self.n_unscored = 0

    @property
    def heard_s(self) -> float:
        """Time in which somebody was heard, s."""
        return self.n_ticks * self._hop_s

    @property
    def unsure(self) -> float:
        """Share of verdicts that were "unsure"; 1 before the first."""
        return self.n_unsure / self.n_verdicts if self.n_verdicts else 1.0

    @property
    def unscored(self) -> float:
        """Share of verdicts in which nothing had a score, though all sensors were heard."""
        return self.n_unscored / self.n_verdicts if self.n_verdicts else 0.0

    def take(self, scored: Scored, verdict: Verdict) -> None:
        """Count one hop of one person."""
        n = self._n_seen[scored.subject] = self._n_seen.get(scored.subject, 0) + 1
        scores, row = scored.batch.scores, scored.stream
        if n <= self._warm_up or scores.missing[row].max() > _HEARD or scores.flat[row].any():
            return
        self.n_verdicts += 1
        self.n_unsure += verdict.decision == Decision.UNSURE
        self.n_unscored += not scores.scored[row].any()
        if verdict.end_tick > self._last_tick:
            self._last_tick = verdict.end_tick
            self.n_ticks += 1


def judge_conduct(conduct: Conduct, *, before: Conduct | None, trial_s: float) -> tuple[bool, str]:
    """Return whether a model is kept, and why not; (False, "") while that is open.

    Parameters
    ----------
    conduct
        Of the model on trial.
    before
        Of the model it replaced, with the same people; None where that is not known.
    trial_s
        Heard, after which a model is kept, s.
    """
    if conduct.heard_s < min(_EARLY_S, trial_s):
        return False, ""
    if conduct.unscored > _UNSCORED:
        return False, f"{conduct.unscored:.0%} of what was heard could not be scored: its predictions are not finite"
    over = conduct.heard_s >= trial_s
    if conduct.n_unsure == conduct.n_verdicts:
        told = f"every one of {conduct.n_verdicts} verdicts in {conduct.heard_s:.0f} s was unsure"
        if before is not None and before.heard_s >= _EARLY_S and before.unsure < 1 - _DECIDED:
            return False, f"{told}, and the model before said so in {before.unsure:.0%}"
        if over:
            return False, told
    return over, ""
