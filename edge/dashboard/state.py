"""How all stands, as plain numbers and texts: what ``/api/state`` answers and what the stream sends on."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kinedge.edge.alarm import LEARNING_S, AlarmConfig
from kinedge.edge.dashboard.tracks import DeviceTrack, PersonTrack, Point
from kinedge.edge.dashboard.words import (
    Words,
    calibration_words,
    outbox_words,
    place_words,
    promise_words,
    reasons_words,
    sentence_words,
)
from kinedge.edge.scoring import Scorer
from kinedge.edge.supervisor import TaskState
from kinedge.edge.verdict import Basis, Verdict
from kinedge.signals import Quantity, quantity_of

if TYPE_CHECKING:
    from kinedge.edge.enrolment import Enrolment

__all__ = [
    "SCHEMA",
    "OutboxReading",
    "PersonFacts",
    "history_fields",
    "model_fields",
    "outbox_fields",
    "person_fields",
    "spare_fields",
    "task_fields",
    "verdict_fields",
]

SCHEMA: Final = "kinedge.board/1"
_MAX_REASONS: Final = 8
_MAX_CHANNELS: Final = 12
_UNITS: Final = {Quantity.ACC: "m/s²", Quantity.GYR: "rad/s", Quantity.MAG: "µT"}


@dataclass(frozen=True)
class PersonFacts:
    """What is known of one person besides what was heard.

    Parameters
    ----------
    subject
        A pseudonym.
    devices
        What they wear, heard or not.
    clock_ms
        Bound of each sensor's clock map, where there is one.
    enrolment
        In use; None: compared with the cohort.
    basis
        Of the verdicts.
    n_today
        Episodes since midnight.
    episode_utc_ns
        Since when an episode is open.
    muted_until_utc_ns
        Until when no alarms of episodes are shown.
    posing
        From `kinedge.edge.dashboard.posing`; None while nobody is led through poses.
    can_pose
        Guided poses would be of use now.
    enrolling
        From `kinedge.edge.dashboard.enrolling`; None while nobody learns anything.
    """

    subject: str
    devices: Sequence[DeviceTrack]
    clock_ms: Mapping[str, float] = field(default_factory=dict)
    enrolment: Enrolment | None = None
    basis: Basis = field(default_factory=Basis)
    n_today: int = 0
    episode_utc_ns: int | None = None
    muted_until_utc_ns: int | None = None
    posing: Mapping[str, Any] | None = None
    can_pose: bool = False
    enrolling: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class OutboxReading:
    """How the way upstream stands.

    Parameters
    ----------
    waiting_episodes, waiting_raw, quarantined
        Messages.
    oldest_utc_ns
        When the oldest waiting episode was kept.
    last_sync_utc_ns
        When the collector last took something; kept across restarts.
    has_uplink
        A collector is set.
    error
        The last failure, if nothing went well since; empty otherwise.
    """

    waiting_episodes: int = 0
    waiting_raw: int = 0
    quarantined: int = 0
    oldest_utc_ns: int | None = None
    last_sync_utc_ns: int | None = None
    has_uplink: bool = False
    error: str = ""


def verdict_fields(verdict: Verdict, utc_ns: int) -> dict[str, Any]:
    """Return the numbers of a verdict, rounded for reading."""
    return {
        "utc_ns": utc_ns,
        "decision": verdict.decision.word,
        "score": round(verdict.score, 4),
        "p_value": round(verdict.p_value, 6),
        "belief": _belief(verdict.belief_normal, verdict.belief_anomalous),
    }


def person_fields(
    facts: PersonFacts, track: PersonTrack, scorer: Scorer, *, alarm: AlarmConfig | None, now_ns: int, now_utc_s: float
) -> dict[str, Any]:
    """Return how one person stands.

    Parameters
    ----------
    facts, track
        Theirs.
    scorer
        That judges them.
    alarm
        The setting.
    now_ns
        Monotonic clock of the devices.
    now_utc_s
        UNIX time.
    """
    v = track.verdict
    manifest = scorer.manifest
    hop_s = manifest.hop / manifest.rate_hz
    numbers: dict[str, Any] = {"utc_ns": None, "decision": "none", "score": None, "p_value": None, "belief": None}
    plausibility, sentence, contributions, reasons = None, None, [], []
    if v is not None and track.utc_ns is not None:
        numbers = verdict_fields(v, track.utc_ns)
        plausibility = {"normal": round(v.plausible_normal, 4), "anomalous": round(v.plausible_anomalous, 4)}
        sentence = sentence_words(v, tuple(track.recent), hop_s=hop_s)
        contributions = _contributions(v)
        reasons = [{"code": r.code, "sensor": r.sensor, "text": reasons_words(r)} for r in v.reasons[:_MAX_REASONS]]
    return {
        "subject": facts.subject,
        **numbers,
        "band": {"median": 0.0, "high": 1.0},
        "plausibility": plausibility,
        "reasons": reasons,
        "sentence": sentence,
        "contributions": contributions,
        "calibration": _calibration(facts, v, now_utc_s),
        "promise": promise_words(facts.enrolment, alarm, scorer),
        "episode": None if facts.episode_utc_ns is None else {"start_utc_ns": facts.episode_utc_ns},
        "muted_until_utc_ns": facts.muted_until_utc_ns,
        "enrolment": None if facts.enrolling is None else dict(facts.enrolling),
        "pose": None if facts.posing is None else dict(facts.posing),
        "can_pose": facts.can_pose,
        "sensors": _sensors(facts, v, scorer, now_ns),
        "today": {"n_episodes": facts.n_today, "share": _shares(track)},
    }


def history_fields(subject: str, points: Iterable[Point]) -> dict[str, Any]:
    """Return the past verdicts about one person, a list for each number."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("utc_ns", "decision", "score", "p_value", "normal", "unsure", "anomalous")
    }
    for p in points:
        belief = _belief(p.normal, p.anomalous)
        columns["utc_ns"].append(p.utc_ns)
        columns["decision"].append(p.decision)
        columns["score"].append(round(p.score, 4))
        columns["p_value"].append(round(p.p_value, 6))
        for name, value in belief.items():
            columns[name].append(value)
    return {"subject": subject, **columns}


def model_fields(scorer: Scorer) -> dict[str, Any]:
    """Return what scores, and what it listens to."""
    manifest = scorer.manifest
    return {
        "name": manifest.name,
        "digest": scorer.bundle.digest,
        "precision": scorer.precision,
        "rate_hz": manifest.rate_hz,
        "hop": manifest.hop,
        "block": manifest.block,
        "sensors": [
            {
                "name": s.name,
                "place": place_words(s.name),
                "channels": [{"name": c, "unit": _UNITS[quantity_of(c)]} for c in s.channels],
            }
            for s in manifest.sensor_specs
        ],
    }


def outbox_fields(reading: OutboxReading) -> dict[str, Any]:
    """Return how the way upstream stands."""
    state = "off" if not reading.has_uplink else "waiting" if reading.waiting_episodes or reading.error else "ok"
    return {
        "waiting_episodes": reading.waiting_episodes,
        "waiting_raw": reading.waiting_raw,
        "oldest_utc_ns": reading.oldest_utc_ns,
        "last_sync_utc_ns": reading.last_sync_utc_ns,
        "quarantined": reading.quarantined,
        "state": state,
        "error": reading.error,
        "text": outbox_words(reading.waiting_episodes, reading.last_sync_utc_ns, has_uplink=reading.has_uplink),
    }


def task_fields(tasks: Sequence[TaskState]) -> list[dict[str, Any]]:
    """Return how each task is doing; ``waiting`` is between a failure and the next attempt."""
    return [
        {
            "name": t.name,
            "state": "running" if t.running else "waiting" if t.last_cause else "ended",
            "restarts": t.restarts,
            "error": "" if t.running else t.last_cause,
        }
        for t in tasks
    ]


def spare_fields(devices: Iterable[DeviceTrack], now_ns: int) -> list[dict[str, Any]]:
    """Return the devices that nobody wears."""
    return [
        {
            "where": d.where,
            "serial": "" if d.info is None else d.info.serial,
            "sensor": None if d.info is None else d.info.spec.name,
            "subject": None,
            "state": d.state(now_ns),
            "battery": d.battery,
        }
        for d in devices
    ]


def _belief(normal: float, anomalous: float) -> dict[str, float]:
    return {
        "normal": round(normal, 4),
        "unsure": round(max(0.0, 1 - normal - anomalous), 4),
        "anomalous": round(anomalous, 4),
    }


def _contributions(verdict: Verdict) -> list[dict[str, Any]]:
    sensors = sorted(verdict.sensor_share.items(), key=lambda kv: -kv[1])
    channels = sorted(verdict.channel_share.items(), key=lambda kv: -kv[1])[:_MAX_CHANNELS]
    found: list[dict[str, Any]] = [{"sensor": s, "channel": None, "share": round(v, 4)} for s, v in sensors]
    for name, share in channels:
        sensor, _, channel = name.partition(".")
        found.append({"sensor": sensor, "channel": channel, "share": round(share, 4)})
    return found


def _calibration(facts: PersonFacts, verdict: Verdict | None, now_utc_s: float) -> dict[str, Any]:
    personal = facts.enrolment is not None
    enrolling = facts.enrolling
    if enrolling is not None and enrolling["state"] in ("collecting", "fitting"):
        learned_s, needed_s, text = enrolling["seconds"], enrolling["needed_s"], enrolling["text"]
        valid: bool | None = None
    else:
        watched = None if verdict is None else verdict.watched
        learned_s = None if watched is None else round(LEARNING_S * min(watched.learned, 1.0), 1)
        needed_s = None if watched is None else LEARNING_S
        valid = watched.valid if watched is not None else None
        text = calibration_words(watched, personal=personal, aligned=facts.basis.alignment)
    age_s = None
    if facts.enrolment is not None:
        age_s = _age_s(facts.enrolment.manifest.enrolled_utc, now_utc_s)
    return {
        "basis": "personal" if personal else "cohort",
        "valid": valid,
        "learned_s": learned_s,
        "needed_s": needed_s,
        "age_s": age_s,
        "text": text,
    }


def _age_s(made_utc: str, now_utc_s: float) -> float | None:
    try:
        made_s = calendar.timegm(time.strptime(made_utc, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return None
    return float(max(0, round(now_utc_s - made_s)))


def _sensors(facts: PersonFacts, verdict: Verdict | None, scorer: Scorer, now_ns: int) -> list[dict[str, Any]]:
    by_name: dict[str, DeviceTrack | None] = dict.fromkeys(scorer.sensors)
    unnamed = []
    for d in facts.devices:
        if d.info is None:
            unnamed.append(d)
        elif by_name.get(d.info.spec.name) is None:
            by_name[d.info.spec.name] = d
    found = [_sensor(name, d, facts, verdict, scorer, now_ns) for name, d in by_name.items()]
    return found + [_sensor(None, d, facts, verdict, scorer, now_ns) for d in unnamed]


def _sensor(
    name: str | None,
    device: DeviceTrack | None,
    facts: PersonFacts,
    verdict: Verdict | None,
    scorer: Scorer,
    now_ns: int,
) -> dict[str, Any]:
    state = "none" if device is None else device.state(now_ns)
    info = None if device is None else device.info
    codes = [] if verdict is None else [r.code for r in verdict.reasons if name is not None and r.sensor == name]
    used = name in scorer.sensors
    words: Words | None = None if name is None else place_words(name)
    return {
        "name": name,
        "place": words,
        "used": used,
        "where": None if device is None else device.where,
        "serial": "" if info is None else info.serial,
        "state": state,
        "battery": None if device is None else device.battery,
        "loss": 0.0 if device is None else round(device.loss, 4),
        "clock_ms": None if name is None or name not in facts.clock_ms else round(facts.clock_ms[name], 2),
        "worn": None if state != "streaming" or not used or verdict is None else "off_body" not in codes,
        "rate_hz": None if info is None else info.rate_hz,
        "reasons": codes,
    }


def _shares(track: PersonTrack) -> dict[str, float] | None:
    n = track.counts.total()
    if not n:
        return None
    return {word: round(track.counts[word] / n, 4) for word in ("normal", "unsure", "anomalous")}
