"""The open episodes of all people of a gateway: builders, the UTC that each goes by, and the way to the keeper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from kinedge import __version__
from kinedge.edge.config import GatewayConfig
from kinedge.edge.episodes import EpisodeBuilder, EpisodeDraft
from kinedge.edge.hostclock import WallClock
from kinedge.edge.people import People
from kinedge.edge.pipeline import Scored
from kinedge.edge.promise import Promise
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import basis_fields

__all__ = ["EpisodeFollower", "provenance"]

_DRIFT_NS: Final = 1_000_000  # of the wall clock, that nobody sees in an episode's times


def provenance(scorer: Scorer, config: GatewayConfig) -> dict[str, str]:
    """Return what everything that is decided here goes back to."""
    return {
        "model_digest": scorer.bundle.digest,
        "config_digest": config.digest(),
        "kinedge_version": __version__,
    }


class EpisodeFollower:
    """Makes episodes of verdicts.

    Parameters
    ----------
    config
        Of the gateway.
    wall
        UTC of host times.
    put
        Takes each draft, with UTC less host time.

    Attributes
    ----------
    builders
        By subject.
    """

    def __init__(self, config: GatewayConfig, wall: WallClock, put: Callable[[EpisodeDraft, int], None]) -> None:
        self.builders: dict[str, EpisodeBuilder] = {}
        self._config, self._wall, self._put = config, wall, put
        self._offset_ns: dict[str, int] = {}
        self._rests_on: dict[str, dict[str, Any]] = {}

    def use(self, scorer: Scorer, people: People, promises: Mapping[str, Promise]) -> None:
        """Follow these people from now on; what is open of who leaves, or rests on something else now, ends."""
        manifest, what = scorer.manifest, provenance(scorer, self._config)
        rests_on: dict[str, dict[str, Any]] = {}
        for subject, basis in zip(people.subjects, people.bases, strict=True):
            promise = promises.get(subject)
            own = {} if promise is None else promise.fields
            rests_on[subject] = {**what, **basis_fields(basis), **own}
        gone = [s for s in self.builders if rests_on.get(s) != self._rests_on[s]]
        self.close(gone)
        for subject in gone:
            del self.builders[subject]
        for subject in people.subjects:
            self._offset_ns.setdefault(subject, self._wall.offset_ns)
            if subject not in self.builders:
                self.builders[subject] = EpisodeBuilder(
                    subject,
                    channels=scorer.channels,
                    rate_hz=manifest.rate_hz,
                    hop=manifest.hop,
                    block=manifest.block,
                    provenance=rests_on[subject],
                    config=self._config.episodes,
                )
        self._rests_on = rests_on

    def step(self, scored: Scored, verdict: Verdict) -> int:
        """Take a verdict with its hop; returns the UTC of its end, in ns."""
        subject = scored.subject
        builder = self.builders[subject]
        moved_ns = self._wall.offset_ns - self._offset_ns[subject]
        if abs(moved_ns) >= _DRIFT_NS and not builder.is_open:  # an open episode keeps the time it began with
            builder.shift(moved_ns)
            self._offset_ns[subject] += moved_ns
        offset_ns = self._offset_ns[subject]
        end_utc_ns = verdict.host_time_ns + offset_ns
        for draft in builder.step(verdict, scored.values, scored.valid, end_utc_ns=end_utc_ns):
            self._put(draft, offset_ns)
        return end_utc_ns

    def close(self, subjects: Iterable[str] | None = None) -> None:
        """End what is open, of everybody or of some."""
        for subject in list(self.builders) if subjects is None else subjects:
            for draft in self.builders[subject].stop():
                self._put(draft, self._offset_ns[subject])
