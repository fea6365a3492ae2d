"""``kinedge collect demo-data``: weeks of simulated people in a collector's database, to look at the desk.

What the desk shows of them was worked out, not written down: samples of simulated people go through the shipped model,
the judge and the builder of episodes, and simulated days through the very trend that tells a slow change. Only the
people, their movements and their days are made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Literal

import numpy as np
import typer

from kinedge import __version__
from kinedge.bundle import read_bundle
from kinedge.canonical import sha256_hex
from kinedge.cli.app import need_extra
from kinedge.cli.collect import collect_app, database_url
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.episodes import EpisodeBuilder
from kinedge.edge.measures.config import MeasuresConfig, Side
from kinedge.edge.measures.day import Estimate, MeasuredDay, Part
from kinedge.edge.measures.notice import episode_of
from kinedge.edge.measures.person import day_row
from kinedge.edge.measures.trend import DailyTrendConfig
from kinedge.edge.measures.watch import DayWatch
from kinedge.edge.measures_outbox import day_fields
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.measures_envelope import measures_envelope
from kinedge.signals import IMU6, ImuChunk
from kinedge.training.perturb import Perturbation
from kinedge.training.simulate import SimulationConfig, simulate
from kinedge.units import NS_PER_S

__all__ = ["demo_data"]

_DAY_S: Final = 86_400
_CONFIG_DIGEST: Final = sha256_hex(b"kinedge collect demo-data")
_RATE_HZ: Final = 50
_Said = tuple[Literal["confirm", "dismiss"], str] | None


@dataclass(frozen=True)
class _Moment:
    """A session in which somebody moves in a way of its own: days before the end, hour, what happens and what fails."""

    days_ago: int
    hour: float
    effect: str
    sensor: str = "wrist_left"
    strength: float = 1.0
    silent: str = ""
    review: _Said = None


@dataclass(frozen=True)
class _Somebody:
    """A simulated person."""

    subject: str
    gateway: str
    seed: int
    part: Part
    day: Callable[[np.random.Generator, int, int], dict[str, Any]]
    affected: Side | None = None
    weeks: int = 6
    moments: tuple[_Moment, ...] = field(default=())


@collect_app.command("demo-data")
def demo_data(
    db: Annotated[str, typer.Option(help="A new file, or a SQLAlchemy URL.")] = "desk-demo.db",
    until: Annotated[str, typer.Option(help="The day after the last one, YYYY-MM-DD; today when left out.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Other people for each.")] = 0,
) -> None:
    """Fill a database with six weeks of simulated people, to look at the review desk. Nobody in it exists.

    Example: kinedge collect demo-data --db desk-demo.db && kinedge collect --db desk-demo.db
    """
    with need_extra("upstream"):
        from kinedge.upstream.store import CollectorStore
    try:
        end = date.fromisoformat(until) if until else date.today()
    except ValueError as e:
        raise ConfigError(f"--until {until!r}: write a day as YYYY-MM-DD") from e
    if "://" not in db and Path(db).exists():
        raise ConfigError(f"{db} is there already; give a new file, so that nobody real gets simulated neighbours")
    clock_ns = 0

    def now_ns() -> int:
        return clock_ns

    scorer = Scorer(read_bundle(DEFAULT_BUNDLE))
    store = CollectorStore(database_url(db), wall_clock_ns=now_ns)
    events: list[tuple[int, Callable[[], Any]]] = []
    with TemporaryDirectory() as folder, EpisodeStore(Path(folder) / "edge.db") as edge:
        for who in _PEOPLE:
            typer.echo(f"{who.subject}: {who.weeks} weeks, {len(who.moments)} sessions through the model")
            drafts = [*_days(who, end, seed, store, events), *_moments(who, end, seed, scorer)]
            for at_ns, fields, raw, review in sorted(drafts, key=lambda d: d[0]):
                envelope = edge.commit({**fields, "site": "demo-clinic", "gateway": who.gateway}, raw)
                body, id = envelope.to_bytes(), envelope.id
                events.append((at_ns, partial(store.put_episode, id, body, who="demo")))
                if raw is not None:
                    events.append((at_ns + NS_PER_S, partial(store.put_raw, id, raw, who="demo")))
                if review is not None:
                    action, comment = review
                    said = partial(store.review, id, action, comment=comment, who="desk (A. Martin)")
                    events.append((at_ns + 20 * 3600 * NS_PER_S, said))
    for clock_ns, happen in sorted(events, key=lambda e: e[0]):  # noqa: B007 (now_ns reads it)
        happen()
    counts = store.counts()
    store.close()
    typer.echo(f"{counts['episodes']} episodes and {counts['accepted_measures']} days; now: kinedge collect --db {db}")


def _moments(
    who: _Somebody, end: date, seed: int, scorer: Scorer
) -> Iterator[tuple[int, dict[str, Any], bytes | None, _Said]]:
    """Give the episodes that the model finds in the person's sessions."""
    manifest = scorer.manifest
    for i, m in enumerate(who.moments):
        start_s = ((end - date(1970, 1, 1)).days - m.days_ago) * _DAY_S + round(m.hour * 3600)
        activity = "gait" if m.effect == "reduced_arm_swing" else "arm"
        recording = simulate(
            SimulationConfig(
                duration_s=75,
                subject_seed=who.seed + 100 * seed,
                session_seed=i + 1,
                activity_mix={activity: 0.85, "rest": 0.15},
                perturbations=(Perturbation(m.effect, 34, 56, sensor=m.sensor, strength=m.strength),),
            )
        )
        pipeline = Pipeline(scorer, [who.subject], make_clock=FixedClock)
        builder = EpisodeBuilder(
            who.subject,
            channels=scorer.channels,
            rate_hz=manifest.rate_hz,
            hop=manifest.hop,
            block=manifest.block,
            provenance={
                "model_digest": scorer.bundle.digest,
                "config_digest": _CONFIG_DIGEST,
                "kinedge_version": __version__,
            },
        )
        drafts = []
        for first in range(0, len(recording), 5):
            for spec in recording.sensors:
                if spec.name == m.silent and 49 * _RATE_HZ <= first < 68 * _RATE_HZ:
                    continue  # its radio is out of reach
                columns = recording.columns(spec.name)
                values, valid = (
                    recording.values[first : first + 5, columns],
                    recording.valid[first : first + 5, columns],
                )
                time_ns = (np.arange(len(values), dtype=np.int64) + first) * 20_000_000 + NS_PER_S
                chunk = ImuChunk(spec.name, time_ns, values, valid, np.zeros_like(valid), 20_000_000)
                pipeline.push(who.subject, chunk, channels=IMU6)
            for scored in pipeline.advance(flush=first + 5 >= len(recording)):
                verdict = scored.batch.verdict(scored.stream)
                utc_ns = verdict.host_time_ns + start_s * NS_PER_S
                drafts += builder.step(verdict, scored.values, scored.valid, end_utc_ns=utc_ns)
        for draft in (d for d in [*drafts, *builder.stop()] if d.closed):
            yield draft.fields["end_utc_ns"] + 25 * NS_PER_S, draft.fields, draft.raw, m.review


def _days(
    who: _Somebody, end: date, seed: int, store: Any, events: list[tuple[int, Callable[[], Any]]]
) -> Iterator[tuple[int, dict[str, Any], bytes | None, _Said]]:
    """Let the person's days be booked and watched; give the changes that are told."""
    rng = np.random.default_rng([who.seed, seed, 7])
    legs = ("ankle_left", "ankle_right") if who.part == "gait" else ()
    config = MeasuresConfig(legs=legs, leg_rate_hz=200 if legs else 100, trunk="lower_back" if legs else None)
    trend = DailyTrendConfig(learning_days=config.learning_days, min_worn_h=config.min_worn_h)
    watch = DayWatch(who.part, affected=who.affected is not None, config=trend)
    state = watch.initial_state()
    n_days, today = who.weeks * 7, (end - date(1970, 1, 1)).days
    for i in range(n_days):
        made = who.day(rng, i, n_days)
        day = MeasuredDay(part=who.part, day=today - n_days + i, **made)
        watched, changes, state = watch.step(day, state)
        over_s = (day.day + 1) * _DAY_S
        row = day_row(day, watched)
        fields = day_fields(
            row.content,
            site="demo-clinic",
            gateway=who.gateway,
            subject=who.subject,
            part=who.part,
            day=day.day,
            config_digest=_CONFIG_DIGEST,
        )
        sent = measures_envelope(**fields, as_of_utc_ns=over_s * NS_PER_S)
        body, id = sent.to_bytes(), sent.id
        events.append((over_s * NS_PER_S + NS_PER_S, partial(store.measures.put, id, body, who="demo")))
        for change in changes:
            told = episode_of(
                change, config, subject=who.subject, affected=who.affected, zone_offset_s=0, end_utc_s=over_s - 1,
                config_digest=_CONFIG_DIGEST, kinedge_version=__version__,
            )  # fmt: skip
            yield over_s * NS_PER_S + 2 * NS_PER_S, told, None, None


def _around(rng: np.random.Generator, value: float, spread: float, half: float, unit: str = "") -> Estimate:
    """Return a number that differs from day to day by ``spread``, with an interval of plus and minus ``half``."""
    at = value + spread * float(rng.standard_normal())
    return Estimate(round(at, 5), round(at - half, 5), round(at + half, 5), unit)


def _worn(rng: np.random.Generator, mean_h: float, *, forgotten: float) -> tuple[float, float, float]:
    """Return hours worn, not worn and not heard of a day; now and then the sensors stay on their charger."""
    worn = float(np.clip(rng.normal(mean_h, 0.9), 7.5, 16))
    if rng.random() < forgotten:
        worn = float(rng.uniform(1.0, 4.5))
    missing = float(abs(rng.normal(0.1, 0.15)))
    return round(worn, 4), round(24 - worn - missing, 4), round(missing, 4)


def _arm_day(ratio_of: Callable[[float], float], *, first: str, other: str, forgotten: float) -> Callable[..., Any]:
    """Return a maker of arm days; ``ratio_of`` is the use ratio by the share of all days that is over."""

    def make(rng: np.random.Generator, i: int, n: int) -> dict[str, Any]:
        worn, unworn, missing = _worn(rng, 13.2, forgotten=forgotten)
        walking = worn * float(np.clip(rng.normal(0.09, 0.025), 0.02, 0.2))
        usual = float(np.clip(rng.normal(0.56, 0.025), 0.4, 0.7)) * (worn - walking)
        ratio = max(0.05, ratio_of(i / n) * math.exp(0.05 * float(rng.standard_normal())))
        weaker = usual * ratio
        half = 0.035 * math.sqrt(13 / worn)
        numbers: dict[str, Estimate] = {
            f"active_h_{first}": _around(rng, weaker, 0, 0.09 * weaker, "h"),
            f"active_h_{other}": _around(rng, usual, 0, 0.07 * usual, "h"),
            f"use_h_{first}": _around(rng, 0.52 * weaker, 0.1, 0.07 * weaker, "h"),
            f"use_h_{other}": _around(rng, 0.6 * usual, 0.1, 0.07 * usual, "h"),
            "active_share": _around(rng, (weaker + usual) / 2 / (worn - walking), 0, 0.03),
            "use_ratio": Estimate(round(ratio, 5), round(ratio * (1 - half), 5), round(ratio * (1 + half), 5)),
            "magnitude_ratio": _around(rng, 1.9 * math.log(ratio), 0.06, 0.12),
            "bilateral_magnitude": _around(rng, 62 + 55 * ratio, 4, 6, "counts/s"),
            f"sparc_{first}": _around(rng, -2.9 + 0.8 * ratio, 0.06, 0.08),
            f"sparc_{other}": _around(rng, -1.9, 0.05, 0.07),
        }
        return {"worn_h": worn, "unworn_h": unworn, "missing_h": missing, "walking_h": walking, "measures": numbers}

    return make


def _leg_day(unlike_of: Callable[[float], float], *, forgotten: float) -> Callable[..., Any]:
    """Return a maker of leg days; ``unlike_of`` is the symmetry index of contact times, in percent."""

    def make(rng: np.random.Generator, i: int, n: int) -> dict[str, Any]:
        if (i % 7 in (5, 6) and rng.random() < 0.7) or rng.random() < forgotten:  # no training
            worn = 0.0
            measures: Mapping[str, Estimate] = {"steps_left": Estimate(0.0), "steps_right": Estimate(0.0)}
            return {"worn_h": worn, "unworn_h": 24.0, "missing_h": 0.0, "walking_h": 0.0, "measures": measures}
        worn = float(np.clip(rng.normal(1.5, 0.25), 0.7, 2.5))
        steps = float(np.clip(rng.normal(4300, 700), 1500, 7000))
        hard = 1 + 0.35 * (i / n)  # the training grows
        index = unlike_of(i / n) + 1.1 * float(rng.standard_normal())
        contact = 0.243 - 0.008 * (i / n)
        measures = {
            "steps_left": _around(rng, steps / 2, 6, 40),
            "steps_right": _around(rng, steps / 2, 6, 40),
            "contact_s_left": _around(rng, contact * (1 + index / 200), 0.001, 0.003, "s"),
            "contact_s_right": _around(rng, contact * (1 - index / 200), 0.001, 0.003, "s"),
            "contact_symmetry_index": Estimate(round(index, 4), round(index - 1.2, 4), round(index + 1.2, 4), "%"),
            "contact_symmetry_angle": _around(rng, index / 3.1, 0.05, 0.4, "%"),
            "impact_g_left": _around(rng, 6.1 * hard, 0.3, 0.35, "g"),
            "impact_g_right": _around(rng, 6.4 * hard, 0.3, 0.35, "g"),
            "impact_symmetry_index": _around(rng, 4.6, 1.4, 2.0, "%"),
            "impacts_low": _around(rng, 0.45 * steps / hard, 60, 80),
            "impacts_medium": _around(rng, 0.52 * steps * hard / 1.2, 60, 80),
            "impacts_high": _around(rng, 0.012 * steps * hard**3, 8, 12),
            "load_per_min": _around(rng, 8.4 * hard, 0.5, 0.6, "1/min"),
            "stride_s": _around(rng, 0.724 - 0.02 * (i / n), 0.004, 0.005, "s"),
            "step_regularity": _around(rng, 0.84, 0.02, 0.03),
            "stride_regularity": _around(rng, 0.89, 0.015, 0.025),
        }
        return {"worn_h": worn, "unworn_h": 24 - worn, "missing_h": 0.02, "walking_h": worn * 0.8, "measures": measures}

    return make


def _recovering_then_less(share: float) -> float:
    """Arm use that recovers for four weeks, and then falls behind."""
    return 0.52 + 0.16 * min(share / 0.62, 1) - max(0.0, share - 0.68) * 0.95


_SEEN: Final[_Said] = ("confirm", "Tired after a bad night; the left arm was held close. To be watched.")
_KNOWN: Final[_Said] = ("dismiss", "New exercise with the therapist, as planned.")
_RADIO: Final[_Said] = ("dismiss", "Sensor out of reach in the pool changing room.")
_CLEAR: Final[_Said] = ("confirm", "Seen on the ward, too.")
_PEOPLE: Final = (
    _Somebody(
        "p-001", "ward-3", 11, "arm", _arm_day(_recovering_then_less, first="left", other="right", forgotten=0.07),
        affected="left",
        moments=(
            _Moment(40, 10.2, "slowed_movement", review=_KNOWN),
            _Moment(36, 15.6, "rest_tremor", "wrist_left", 1.3, review=_SEEN),
            _Moment(33, 9.4, "arm_non_use", "wrist_left", 1.0, review=_SEEN),
            _Moment(29, 11.1, "rest_tremor", "wrist_right", 1.2, silent="wrist_left", review=_RADIO),
            _Moment(24, 16.8, "reduced_arm_swing", "wrist_left", 1.1, review=_KNOWN),
            _Moment(17, 10.7, "rest_tremor", "wrist_left", 1.0, review=_CLEAR),
            _Moment(11, 14.2, "arm_non_use", "wrist_left", 1.1, review=_SEEN),
            _Moment(8, 9.9, "arm_non_use", "wrist_left", 1.2, review=_SEEN),
            _Moment(5, 17.3, "rest_tremor", "wrist_left", 1.5),
            _Moment(3, 10.5, "arm_non_use", "wrist_left", 1.2, silent="wrist_right"),
            _Moment(2, 15.1, "rest_tremor", "wrist_left", 1.4),
            _Moment(1, 11.6, "rest_tremor", "wrist_left", 1.5),
        ),
    ),
    _Somebody(
        "p-002", "ward-3", 12, "arm", _arm_day(lambda s: 0.83 + 0.03 * s, first="right", other="left", forgotten=0.16),
        affected="right",
        moments=(
            _Moment(38, 13.4, "rest_tremor", "wrist_right", 1.1, review=_CLEAR),
            _Moment(26, 18.2, "slowed_movement", "wrist_right", 1.0, review=_KNOWN),
            _Moment(19, 10.8, "fall", "wrist_right", 1.0, review=_CLEAR),
            _Moment(9, 16.4, "rest_tremor", "wrist_right", 1.2, silent="wrist_left", review=_RADIO),
            _Moment(4, 12.3, "slowed_movement", "wrist_right", 1.0),
        ),
    ),
    _Somebody(
        "p-003", "club-1", 13, "gait",
        _leg_day(lambda s: 2.1 if s < 0.62 else 2.1 + 24 * (s - 0.62), forgotten=0.08),
        moments=(
            _Moment(23, 17.5, "reduced_arm_swing", "wrist_right", 1.2, review=_KNOWN),
            _Moment(6, 18.1, "stumble", "wrist_right", 1.2),
        ),
    ),
    _Somebody(
        "p-004", "home-7", 14, "arm", _arm_day(lambda s: 0.41, first="left", other="right", forgotten=0.0),
        affected="left", weeks=1,
        moments=(_Moment(2, 9.2, "rest_tremor", "wrist_left", 1.4),),
    ),
)  # fmt: skip
