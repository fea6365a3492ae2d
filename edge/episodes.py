"""Verdicts to episodes: opened when anomalous verdicts repeat, closed when they stay away, never held in memory alone.

An episode is handed out as a draft as soon as it opens and again while it lasts, so that whoever keeps it can
write it down at once; nothing that was decided is lost with the process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinedge.abstention import Abstention
from kinedge.arrays import arrays_to_npz
from kinedge.canonical import sha256_hex
from kinedge.config import Config
from kinedge.edge.caution import Decision
from kinedge.edge.figures import figures_of, in_short
from kinedge.edge.narrative import Language, Phrase, abstention, summarise, usual_without
from kinedge.edge.verdict import Verdict
from kinedge.envelope import Contribution, Explanation, RawSlice, TrailPoint
from kinedge.signals import Quantity, quantity_of
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["RAW_MEDIA_TYPE", "EpisodeBuilder", "EpisodeConfig", "EpisodeDraft", "pack_raw"]

F32 = NDArray[np.float32]

RAW_MEDIA_TYPE: Final = "application/vnd.kinedge.raw+npz"
_STEP_OF: Final = {  # of the stored int16, by quantity: 16 g, 2000 deg/s and 4900 uT full scale
    Quantity.ACC: 16 * STANDARD_GRAVITY_M_S2 / 32767,
    Quantity.GYR: float(np.deg2rad(2000)) / 32767,
    Quantity.MAG: 4900 / 32767,
}
_MAX_TRAIL: Final = 600
_LANGUAGES: Final[tuple[Language, ...]] = ("en", "fr")

Ended = Literal["as_usual", "unclear", "sensor_lost", "stopped", "restarted", "length_limit"]


class EpisodeConfig(Config):
    """When an episode opens and closes, in verdicts (one per hop)."""

    open_hits: int = Field(default=2, ge=1, le=100, description="anomalous verdicts needed")
    open_window: int = Field(default=3, ge=1, le=100, description="among this many latest verdicts")
    open_p: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="each as rare as this share of ordinary blocks; not asked of alarms, which have their promise",
    )
    quiet: int = Field(default=5, ge=1, le=1000, description="verdicts without an anomalous one that close it")
    pre_roll_s: float = Field(default=5.0, ge=0, le=60, description="raw data kept from before it began")
    max_s: float = Field(default=120.0, ge=5, le=600, description="a longer one is closed and continued as the next")
    draft_every: int = Field(default=5, ge=1, le=100, description="verdicts between two drafts on disk")


@dataclass(frozen=True, eq=False)
class EpisodeDraft:
    """An episode as far as it is known.

    Parameters
    ----------
    key
        The same for all drafts of one episode.
    fields
        Of ``kinedge.envelope.Envelope``, without id, sequence, site and gateway.
    raw
        The samples around it, packed by ``pack_raw``.
    closed
        True for the last one.
    """

    key: str
    fields: dict[str, Any]
    raw: bytes
    closed: bool


@dataclass
class _Unsure:
    """One reason: in how many verdicts it came first, and the one in which it weighed most, or was truest."""

    verdict: Verdict
    end_utc_ns: int
    n: int = 0

    def note(self, verdict: Verdict, end_utc_ns: int) -> None:
        self.n += 1
        new, kept = verdict.reasons[0], self.verdict.reasons[0]
        if (new.weight, new.truth) > (kept.weight, kept.truth):
            self.verdict, self.end_utc_ns = verdict, end_utc_ns


@dataclass
class _Open:
    started_ns: int
    key: str
    trail: list[TrailPoint]
    peak: float = -1e9
    min_p: float = 1.0
    end_ns: int = 0
    n_verdicts: int = 0
    n_unsure: int = 0
    n_shares: int = 0
    weight: float = 0.0
    n_until_end: int = 0
    sensor_share: dict[str, float] = field(default_factory=dict)
    channel_share: dict[str, float] = field(default_factory=dict)
    movement: dict[str, float] = field(default_factory=dict)
    beside: dict[str, float] = field(default_factory=dict)
    out_of_step: dict[str, float] = field(default_factory=dict)
    peak_set: tuple[str, ...] = ()
    unsure: dict[tuple[str, str | None], _Unsure] = field(default_factory=dict)


def pack_raw(
    values: F32, valid: NDArray[np.bool_], channels: tuple[str, ...], *, start_utc_ns: int, rate_hz: float
) -> bytes:
    """Pack samples as int16 counts with their scale, as npz bytes any numpy can read.

    Parameters
    ----------
    values, valid : (n, n_channels)
        SI units.
    channels
        Full names, ``wrist_left.acc_x``.
    """
    step = np.array([_STEP_OF[quantity_of(c.partition(".")[2])] for c in channels])
    counts = np.clip(np.round(values / step), -32767, 32767)
    counts = np.where(valid, counts, -32768).astype(np.int16)  # -32768: missing
    return arrays_to_npz(
        {
            "counts": counts,
            "scale_si": step,
            "channels": np.array(channels),
            "start_utc_ns": np.array(start_utc_ns, np.int64),
            "rate_hz": np.array(rate_hz),
        }
    )


class EpisodeBuilder:
    """Follows the verdicts about one person.

    Parameters
    ----------
    subject
        A pseudonym.
    channels
        Full names in column order.
    rate_hz, hop, block
        Of the model.
    provenance
        ``model_digest``, ``config_digest`` and ``kinedge_version`` of every envelope.
    config
        When episodes open and close.

    Attributes
    ----------
    hop_s
        What one verdict stands for.
    """

    def __init__(
        self,
        subject: str,
        *,
        channels: tuple[str, ...],
        rate_hz: float,
        hop: int,
        block: int,
        provenance: dict[str, str],
        config: EpisodeConfig | None = None,
    ) -> None:
        self.subject = subject
        self.config = config or EpisodeConfig()
        self._channels = channels
        self._sensors = tuple(sorted({c.partition(".")[0] for c in channels}))
        self._rate_hz = rate_hz
        self.hop_s = hop / rate_hz
        self._hop_ns = round(self.hop_s * 1e9)
        self._block_ns = round(block / rate_hz * 1e9)
        self.provenance = provenance
        self._recent: deque[tuple[Verdict, TrailPoint, int]] = deque(maxlen=self.config.open_window)
        pre_roll_s = self.config.pre_roll_s + (self.config.open_window + block / hop) * self.hop_s
        self._n_pre_roll = round(pre_roll_s / self.hop_s)
        self._raw: deque[tuple[int, F32, NDArray[np.bool_]]] = deque()
        self._open: _Open | None = None
        self._quiet: list[Verdict] = []

    @property
    def is_open(self) -> bool:
        """True while an episode lasts."""
        return self._open is not None

    def shift(self, by_ns: int) -> None:
        """Move the times of what is kept from before an episode, because the wall clock moved; none may be open."""
        self._raw = deque((t + by_ns, values, valid) for t, values, valid in self._raw)
        moved = [
            (v, p.model_copy(update={"wall_time_utc_ns": p.wall_time_utc_ns + by_ns}), t + by_ns)
            for v, p, t in self._recent
        ]
        self._recent = deque(moved, maxlen=self._recent.maxlen)

    def step(self, verdict: Verdict, values: F32, valid: NDArray[np.bool_], *, end_utc_ns: int) -> list[EpisodeDraft]:
        """Take one verdict with its hop of samples; return drafts to be written down.

        Parameters
        ----------
        verdict
            About the block that ends now.
        values, valid : (hop, n_channels)
            The newest hop.
        end_utc_ns
            Wall time of the end of the hop.
        """
        self._raw.append((end_utc_ns - self._hop_ns, values, valid))
        point = _trail_point(verdict, end_utc_ns)
        self._recent.append((verdict, point, end_utc_ns))
        if self._open is None:
            while len(self._raw) > self._n_pre_roll:
                self._raw.popleft()
            hits = [r for r in self._recent if r[0].decision is Decision.ANOMALOUS]
            if verdict.watched is not None:  # the alarm has gathered its own evidence, and keeps a promise
                if not verdict.watched.alarm:
                    return []
            else:  # lasting, as the verdicts say, and rare by itself: there is no promise of how often it errs
                rare = [r for r in hits if r[0].p_value <= self.config.open_p]
                if len(rare) < self.config.open_hits or rare[-1][0] is not verdict:
                    return []
            start_ns = hits[0][2] - self._block_ns
            self._open = _Open(start_ns, f"{self.subject}:{start_ns}", [])
            self._quiet = []
            for v, p, t in self._recent:
                _note(self._open, v, p, t)
            return [self._draft(self._open, None)]
        _note(self._open, verdict, point, end_utc_ns)
        self._quiet = [] if verdict.decision is Decision.ANOMALOUS else [*self._quiet, verdict]
        if len(self._quiet) >= self.config.quiet:
            return [self._close(self._open, _how_it_ended(self._quiet))]
        if (end_utc_ns - self._open.started_ns) / 1e9 >= self.config.max_s:
            return [self._close(self._open, "length_limit")]
        return [self._draft(self._open, None)] if self._open.n_verdicts % self.config.draft_every == 0 else []

    def stop(self) -> list[EpisodeDraft]:
        """Close what is open, because the session ends."""
        return [self._close(self._open, "stopped")] if self._open is not None else []

    def _close(self, o: _Open, ended: Ended) -> EpisodeDraft:
        draft = self._draft(o, ended)
        self._open = None
        self._quiet = []
        self._recent.clear()
        while len(self._raw) > self._n_pre_roll:
            self._raw.popleft()
        return draft

    def _draft(self, o: _Open, ended: Ended | None) -> EpisodeDraft:
        raw_start_ns = self._raw[0][0]
        values = np.concatenate([r[1] for r in self._raw])
        valid = np.concatenate([r[2] for r in self._raw])
        raw = pack_raw(values, valid, self._channels, start_utc_ns=raw_start_ns, rate_hz=self._rate_hz)
        phrase = _phrase(o)
        fields = {
            "subject": self.subject,
            "sensors": self._sensors,
            "start_utc_ns": o.started_ns,
            "end_utc_ns": max(o.end_ns, o.started_ns),
            "ended": ended or "restarted",  # what it is if this draft is the last that is ever written
            "peak_score": round(o.peak, 6),
            "min_p_value": round(o.min_p, 9),
            "unsure_share": round(o.n_unsure / max(o.n_verdicts, 1), 6),
            "contributions": [c.model_dump(mode="json") for c in _contributions(o)],
            "sentence": phrase.text["en"],
            "explanation": _explanation(o, phrase).model_dump(mode="json"),
            "abstentions": [a.model_dump(mode="json") for a in _abstentions(o)],
            "trail": [p.model_dump(mode="json") for p in o.trail],
            "raw": RawSlice(
                sha256=sha256_hex(raw),
                media_type=RAW_MEDIA_TYPE,
                n_bytes=len(raw),
                rate_hz=self._rate_hz,
                n_samples=len(values),
                channels=self._channels,
                start_utc_ns=raw_start_ns,
            ).model_dump(mode="json"),
            **self.provenance,
        }
        return EpisodeDraft(key=o.key, fields=fields, raw=raw, closed=ended is not None)


def _note(o: _Open, verdict: Verdict, point: TrailPoint, end_utc_ns: int) -> None:
    if len(o.trail) < _MAX_TRAIL:
        o.trail.append(point)
    o.n_verdicts += 1
    o.n_unsure += verdict.of_all is Decision.UNSURE
    for r in verdict.reasons[:1] if verdict.of_all is Decision.UNSURE else ():
        o.unsure.setdefault((r.code, r.sensor), _Unsure(verdict, end_utc_ns)).note(verdict, end_utc_ns)
    if verdict.decision is not Decision.ANOMALOUS:
        return
    o.end_ns = end_utc_ns
    o.n_until_end = o.n_verdicts
    if verdict.score > o.peak:
        o.peak_set = verdict.smallest_set
    o.peak = max(o.peak, verdict.score)
    o.min_p = min(o.min_p, verdict.p_value)
    o.n_shares += 1
    weight = max(verdict.score, 1e-3) ** 2  # what stands out most is what the episode is about
    o.weight += weight
    for name, share in verdict.sensor_share.items():
        o.sensor_share[name] = o.sensor_share.get(name, 0.0) + weight * share
        beside, out_of_step = verdict.from_others(name)
        o.beside[name] = o.beside.get(name, 0.0) + weight * beside
        o.out_of_step[name] = o.out_of_step.get(name, 0.0) + weight * out_of_step
    for name, moved in verdict.sensor_movement.items():
        o.movement[name] = o.movement.get(name, 0.0) + moved
    for name, share in verdict.channel_share.items():
        o.channel_share[name] = o.channel_share.get(name, 0.0) + weight * share


def _trail_point(verdict: Verdict, end_utc_ns: int) -> TrailPoint:
    said = (usual_without(verdict.without),) if verdict.without else ()
    return TrailPoint(
        wall_time_utc_ns=end_utc_ns,
        decision=verdict.of_all.word,
        score=round(verdict.score, 6),
        p_value=round(verdict.p_value, 9),
        belief_normal=round(verdict.belief_normal, 6),
        belief_anomalous=round(verdict.belief_anomalous, 6),
        reasons=(*said, *(r.text for r in verdict.reasons)),
        why=(*(("without", sensor, None) for sensor in verdict.without), *map(in_short, verdict.reasons)),
    )


def _how_it_ended(quiet: list[Verdict]) -> Ended:
    if any(v.of_all is Decision.NORMAL for v in quiet):
        return "as_usual"
    lost = sum(bool(v.reasons) and v.reasons[0].code == "no_data" for v in quiet)
    return "sensor_lost" if lost * 2 > len(quiet) else "unclear"


def _contributions(o: _Open) -> list[Contribution]:
    n = o.weight or 1.0
    sensors = sorted(o.sensor_share.items(), key=lambda kv: -kv[1])
    channels = sorted(o.channel_share.items(), key=lambda kv: -kv[1])[:8]
    found = [Contribution(sensor=s, share=min(1.0, round(v / n, 6))) for s, v in sensors]
    for name, v in channels:
        sensor, _, channel = name.partition(".")
        found.append(Contribution(sensor=sensor, channel=channel, share=min(1.0, round(v / n, 6))))
    return found


def _abstentions(o: _Open) -> list[Abstention]:
    often = sorted(o.unsure.items(), key=lambda kv: -kv[1].n)[:32]
    return [
        Abstention(
            code=code,
            sensor=sensor,
            share=round(told.n / o.n_verdicts, 6),
            text={language: abstention(told.verdict.reasons[0], language=language) for language in _LANGUAGES},
            figures=figures_of(told.verdict, wall_time_utc_ns=told.end_utc_ns),
        )
        for (code, sensor), told in often
    ]


def _phrase(o: _Open) -> Phrase:
    sensor = max(o.sensor_share, key=lambda s: o.sensor_share[s])
    channel = max((c for c in o.channel_share if c.startswith(sensor + ".")), key=lambda c: o.channel_share[c])
    return summarise(
        sensor,
        channel.partition(".")[2],
        movement=o.movement.get(sensor, 0.0) / max(o.n_shares, 1),
        share=o.n_shares / max(o.n_until_end, 1),
        seconds=max(o.end_ns - o.started_ns, 0) / 1e9,
        beside=o.beside.get(sensor, 0.0) / (o.weight or 1.0),
        out_of_step=o.out_of_step.get(sensor, 0.0) / (o.weight or 1.0),
    )


def _explanation(o: _Open, phrase: Phrase) -> Explanation:
    return Explanation.model_validate(
        {
            "sensor": phrase.sensor,
            "quantity": phrase.quantity,
            "amount": phrase.amount,
            "movement": round(phrase.movement, 3),
            "share": round(phrase.share, 3),
            "seconds": round(phrase.seconds, 3),
            "truth": round(phrase.truth, 3),
            "smallest_set": o.peak_set,
            "beside": round(phrase.beside, 3),
            "out_of_step": round(phrase.out_of_step, 3),
            "text": dict(phrase.text),
        }
    )
