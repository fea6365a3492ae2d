"""What a week of one person is: two numbers a day, the trend, the episodes, and how often the answer was "unsure".

Nothing is computed anew: every number is one of the store's, or a sum of them. A day with too little wear has no
number, which is not zero. Hours and days are local, as they were kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final, Literal

from kinedge.edge.measures.trend import DailyTrendConfig
from kinedge.edge.measures_store import KeptRow
from kinedge.edge.reports.week import EPOCH, Week, local_time
from kinedge.edge.verdict_hours import VerdictHour
from kinedge.envelope import Envelope

__all__ = [
    "MIN_WORN_H",
    "THRESHOLD",
    "AnsweredDay",
    "DayNumber",
    "DayRow",
    "EpisodeLine",
    "Gathered",
    "Number",
    "PartWeek",
    "PersonWeek",
    "WhyUnsure",
    "latest_week",
    "person_week",
]

Where = Literal["store", "collector", "recording"]
Mark = Literal["none", "too_little", "no_number", "learning", "under_way", "as_usual", "lower", "plain"]

THRESHOLD: Final = DailyTrendConfig().threshold  # in spreads of the person's days
MIN_WORN_H: Final[Mapping[str, float]] = {"arm": 6.0, "gait": 0.5}
_WEEKS: Final = 5  # that a trend is drawn over, this one the last
_TWO: Final = {"arm": ("use_ratio", "active_share"), "gait": ("contact_symmetry_index", "steps")}
_EXTRA: Final = {"arm": ("active_h_left", "active_h_right"), "gait": ()}
_BASIS: Final = ("model_digest", "config_digest", "enrolment_digest", "kinedge_version")


@dataclass(frozen=True)
class Number:
    """A number with its 95 % interval, where it has one."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DayNumber:
    """One number of one day.

    Parameters
    ----------
    date
        Local.
    number
        Empty where the day does not carry it.
    band
        What is usual for this person, in the number's own unit; None while that is learned, or where nobody watches.
    mark
        What the day says of it.
    """

    date: date
    number: Number
    band: tuple[float, float] | None
    mark: Mark


@dataclass(frozen=True)
class NumberWeeks:
    """A number over five weeks; the last seven days are those of the report."""

    name: str
    days: tuple[DayNumber, ...]

    @property
    def week(self) -> tuple[DayNumber, ...]:
        """Monday to Sunday of the report's week."""
        return self.days[-7:]


@dataclass(frozen=True)
class DayRow:
    """What else is known of a day; None throughout where nothing was kept.

    Parameters
    ----------
    said
        The state of the watch, ``too_little``, ``under_way`` or ``nothing_kept``.
    short
        Shortfalls that have added up, of the number that is furthest; a change is told above ``THRESHOLD``.
    """

    date: date
    worn_s: float | None = None
    missing_s: float | None = None
    walking_s: float | None = None
    said: str = "nothing_kept"
    short: float = 0.0
    extra: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class PartWeek:
    """Arms or gait: two numbers, and the days of the week.

    Parameters
    ----------
    first
        The arm whose hours are divided by the other's: ``left`` or ``right``, empty where it is not known.
    affected
        Whether that is the weaker arm; known once the trend is learned.
    """

    part: str
    first: str
    affected: bool
    numbers: tuple[NumberWeeks, NumberWeeks]
    days: tuple[DayRow, ...]


@dataclass(frozen=True)
class EpisodeLine:
    """An episode as it is listed.

    Parameters
    ----------
    status
        ``new``, ``confirmed``, ``dismissed`` or ``unknown``: what people said of it, as far as is known here.
    place, share
        Where the surprise starts, empty where no sensor is meant.
    """

    id: str
    start_utc_ns: int
    end_utc_ns: int
    since: str
    decision: Literal["different", "unsure"]
    text: Mapping[str, str]
    place: str
    share: float | None
    unsure_share: float
    status: str

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.end_utc_ns - self.start_utc_ns) / 1e9


@dataclass(frozen=True)
class AnsweredDay:
    """How a day was answered: seconds by hour of the day and answer, as ``normal``, ``unsure``, ``anomalous``."""

    date: date
    hours: tuple[Mapping[str, float], ...]

    @property
    def seconds(self) -> dict[str, float]:
        """Of the whole day, by answer."""
        return {word: sum(h.get(word, 0.0) for h in self.hours) for word in ("normal", "unsure", "anomalous")}


@dataclass(frozen=True)
class WhyUnsure:
    """The time for which one reason weighed most, and its share of all that was answered."""

    code: str
    sensor: str
    seconds: float
    share: float


@dataclass(frozen=True)
class PersonWeek:
    """The content of a report.

    Parameters
    ----------
    where
        What it was made from: daily numbers and answers are kept by a gateway alone, reviews by a collector.
    zone
        Of the local times; empty: this machine's.
    answered
        Monday to Sunday; empty where no answer was counted.
    basis
        What the answers and episodes rest on, each value once: model, settings, enrolment, version.
    promises
        As they were given; empty where none was.
    data_until_utc_ns
        When what is reported was last written.
    """

    subject: str
    week: Week
    where: Where
    zone: str
    site: str
    gateway: str
    parts: tuple[PartWeek, ...]
    episodes: tuple[EpisodeLine, ...]
    answered: tuple[AnsweredDay, ...]
    reasons: tuple[WhyUnsure, ...]
    basis: Mapping[str, tuple[str, ...]]
    definitions: tuple[str, ...]
    promises: tuple[str, ...]
    unsigned: tuple[str, ...]
    data_until_utc_ns: int
    audit_broken: bool = False

    @property
    def seconds(self) -> dict[str, float]:
        """Of all that was answered, by answer."""
        days = [d.seconds for d in self.answered]
        return {word: sum(d[word] for d in days) for word in ("normal", "unsure", "anomalous")}

    @property
    def unsure_share(self) -> float | None:
        """Of the time that was answered; None where none was."""
        total = sum(self.seconds.values())
        return self.seconds["unsure"] / total if total else None


@dataclass(frozen=True)
class Gathered:
    """What a store, a collector or a recording has of one person, as it is there.

    Parameters
    ----------
    status
        By episode: what people said; nobody has of those that are missing.
    min_worn_h
        By part: a day with less wear says nothing.
    """

    subject: str
    where: Where
    rows: Sequence[KeptRow] = ()
    hours: Sequence[VerdictHour] = ()
    episodes: Sequence[Envelope] = ()
    status: Mapping[str, str] = field(default_factory=dict)
    min_worn_h: Mapping[str, float] = field(default_factory=lambda: dict(MIN_WORN_H))
    zone: str = ""
    written_utc_ns: int = 0
    audit_broken: bool = False


def person_week(found: Gathered, week: Week) -> PersonWeek:
    """Bring what is kept of a person into the form of a week."""
    days = [r for r in found.rows if r.level == "day" and r.subject == found.subject]
    first_hour = week.first_day * 24
    hours = [h for h in found.hours if h.subject == found.subject and 0 <= h.hour - first_hour < 7 * 24]
    start_ns, end_ns = week.utc_ns(found.zone)
    episodes = [
        e
        for e in sorted(found.episodes, key=lambda e: (e.start_utc_ns, e.id))
        if e.subject == found.subject and _is_of(e, week, start_ns, end_ns)
    ]
    answered, reasons = _answers(hours, week)
    written = [r.changed_utc_ns for r in days if 0 <= r.start - week.first_day < 7]
    of_parts = {p: _part(p, [r for r in days if r.part == p], week, found.min_worn_h) for p in ("arm", "gait")}
    return PersonWeek(
        subject=found.subject,
        week=week,
        where=found.where,
        zone=found.zone,
        site=_one(e.site for e in episodes),
        gateway=_one(e.gateway for e in episodes),
        parts=tuple(p for p in of_parts.values() if p is not None),
        episodes=tuple(_line(e, found) for e in episodes),
        answered=answered,
        reasons=reasons,
        basis=_basis(hours, episodes),
        definitions=_distinct(e.model_digest for e in episodes if e.change is not None),
        promises=_distinct([*(h.basis.get("promise") for h in hours), *(e.promise for e in episodes)]),
        unsigned=_distinct(u for e in [*(h.basis for h in hours), *map(vars, episodes)] for u in e.get("unsigned", ())),
        data_until_utc_ns=max([found.written_utc_ns, *written, *(e.end_utc_ns for e in episodes)]),
        audit_broken=found.audit_broken,
    )


def _is_of(episode: Envelope, week: Week, start_ns: int, end_ns: int) -> bool:
    """Whether an episode is of a week: it began then, or, being slow, was told of one of its days."""
    if episode.change is not None:
        return date.fromisoformat(episode.change.last_day) in week.days
    return start_ns <= episode.start_utc_ns < end_ns


def _part(part: str, rows: Sequence[KeptRow], week: Week, min_worn_h: Mapping[str, float]) -> PartWeek | None:
    """Return a part of which anything was kept in the five weeks."""
    first = week.first_day - 7 * (_WEEKS - 1)
    by_day = {r.start: r for r in rows if first <= r.start < week.first_day + 7}
    if not any(start >= week.first_day for start in by_day):
        return None
    affected = any(_trend(r, "use_ratio").get("expected", -1) > 0 for r in by_day.values()) if part == "arm" else False
    needed_s = 3600 * min_worn_h[part]
    numbers = [
        NumberWeeks(name, tuple(_day(by_day.get(d), d, name, needed_s) for d in range(first, week.first_day + 7)))
        for name in _TWO[part]
    ]
    of_week = tuple(_row(by_day.get(d), d, needed_s, part) for d in range(week.first_day, week.first_day + 7))
    return PartWeek(part, _first_arm(by_day.values()), affected, (numbers[0], numbers[1]), of_week)


def _first_arm(rows: Iterable[KeptRow]) -> str:
    """Say which arm the use ratio is of: the quotient of the hours that it is equal to."""
    lean = 0.0
    for row in rows:
        left, right, ratio = (_number(row, n).value for n in ("active_h_left", "active_h_right", "use_ratio"))
        if left and right and ratio:
            lean += abs(math.log(ratio * left / right)) - abs(math.log(ratio * right / left))
    return "" if abs(lean) < 1e-3 else "left" if lean > 0 else "right"


def _trend(row: KeptRow, name: str) -> dict[str, Any]:
    found = row.content.get("watched", {}).get("trends", {}).get(name, {})
    return {k: v for k, v in found.items() if v is not None}


def _day(row: KeptRow | None, day: int, name: str, needed_s: float) -> DayNumber:
    when = EPOCH + timedelta(days=day)
    if row is None:
        return DayNumber(when, Number(), None, "none")
    if row.content["worn_s"] < needed_s:
        return DayNumber(when, Number(), _band(row, name), "too_little")
    number = _number(row, name)
    trend = _trend(row, name)
    state = trend.get("state")
    if number.value is None or state == "unsure":
        return DayNumber(when, Number(), _band(row, name), "no_number")
    if "watched" not in row.content:
        return DayNumber(when, number, None, "under_way")
    if not trend:
        return DayNumber(when, number, None, "plain")
    marks: Mapping[str | None, Mark] = {"learning": "learning", "lower": "lower", "as_usual": "as_usual"}
    return DayNumber(when, number, _band(row, name), marks.get(state, "no_number"))


def _number(row: KeptRow, name: str) -> Number:
    measures = row.content["measures"]
    if name != "steps":
        m = measures.get(name, {})
        return Number(m.get("value"), m.get("low"), m.get("high"))
    sides = [m for n, m in measures.items() if n.startswith("steps_") and m.get("value") is not None]
    if not sides:
        return Number()
    # legs step together: the ends of their intervals add up
    low, high = ([m[end] for m in sides if m.get(end) is not None] for end in ("low", "high"))
    whole = len(low) == len(high) == len(sides)
    return Number(sum(m["value"] for m in sides), sum(low) if whole else None, sum(high) if whole else None)


def _band(row: KeptRow, name: str) -> tuple[float, float] | None:
    """Return the person's usual range in the number's own unit.

    Where any growing difference between the sides counts, the watched number is minus its size, and the range lies
    around an even use.
    """
    trend = _trend(row, name)
    if "expected" not in trend or "spread" not in trend:
        return None
    expected, spread = float(trend["expected"]), float(trend["spread"])
    if name == "use_ratio" and expected <= 0:
        return math.exp(expected - spread), math.exp(spread - expected)
    if name.endswith("_index"):
        return expected - spread, spread - expected
    return expected - spread, expected + spread


def _row(row: KeptRow | None, day: int, needed_s: float, part: str) -> DayRow:
    when = EPOCH + timedelta(days=day)
    if row is None:
        return DayRow(when)
    content = row.content
    said = "too_little"
    if content["worn_s"] >= needed_s:
        said = str(content["watched"]["state"]) if "watched" in content else "under_way"
    elif "watched" not in content:
        said = "under_way"
    extra = {n: _number(row, n) for n in _EXTRA[part]} if content["worn_s"] >= needed_s else {}
    short = max((float(_trend(row, n).get("short", 0.0)) for n in _TWO[part]), default=0.0)
    return DayRow(when, content["worn_s"], content["missing_s"], content["walking_s"], said, short, extra)


def _line(e: Envelope, found: Gathered) -> EpisodeLine:
    told: Mapping[Any, str] = {"en": e.sentence}
    unsure = e.change is None and (
        e.unsure_share == 1 if not e.trail else all(p.decision != "anomalous" for p in e.trail)
    )
    if e.change is not None:
        told = e.change.text
    elif unsure and e.abstentions:
        told = e.abstentions[0].text
    elif e.explanation is not None:
        told = e.explanation.text
    sensors = [c for c in e.contributions if c.channel is None]
    top = max(sensors, key=lambda c: c.share) if sensors and not unsure else None
    return EpisodeLine(
        id=e.id,
        start_utc_ns=e.start_utc_ns,
        end_utc_ns=e.end_utc_ns,
        since="" if e.change is None else e.change.first_day,
        decision="unsure" if unsure else "different",
        text={str(k): v for k, v in told.items()},
        place="" if top is None else top.sensor,
        share=None if top is None or e.change is not None else top.share,
        unsure_share=e.unsure_share,
        status="unknown" if found.audit_broken else found.status.get(e.id, "new"),
    )


def _answers(hours: Sequence[VerdictHour], week: Week) -> tuple[tuple[AnsweredDay, ...], tuple[WhyUnsure, ...]]:
    if not hours:
        return (), ()
    cells: list[Counter[str]] = [Counter() for _ in range(7 * 24)]
    why: Counter[tuple[str, str]] = Counter()
    for h in hours:
        for word, n in h.counts.items():
            cells[h.hour - week.first_day * 24][word] += n * h.hop_s  # type: ignore[assignment]
        for reason, n in h.reasons.items():
            why[reason] += n * h.hop_s  # type: ignore[assignment]
    total = sum(sum(c.values()) for c in cells)
    days = tuple(
        AnsweredDay(day, tuple(dict(c) for c in cells[24 * i : 24 * i + 24])) for i, day in enumerate(week.days)
    )
    ranked = sorted(why.items(), key=lambda item: (-item[1], item[0]))
    return days, tuple(WhyUnsure(code, sensor, s, s / total if total else 0.0) for (code, sensor), s in ranked)


def _basis(hours: Sequence[VerdictHour], episodes: Sequence[Envelope]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[Any]] = {name: [h.basis.get(name) for h in hours] for name in _BASIS}
    for e in episodes:
        for name in _BASIS:
            if e.change is None or name != "model_digest":  # that of a change names its definition
                found[name].append(getattr(e, name))
    return {name: _distinct(values) for name, values in found.items()}


def _distinct(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted({str(v) for v in values if v}))


def _one(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def latest_week(found: Gathered) -> Week | None:
    """Return the latest week of which anything is kept of the person."""
    days = [EPOCH + timedelta(days=r.start) for r in found.rows if r.level == "day" and r.subject == found.subject]
    days += [EPOCH + timedelta(days=h.hour // 24) for h in found.hours if h.subject == found.subject]
    for e in found.episodes:
        if e.subject == found.subject:
            told = None if e.change is None else date.fromisoformat(e.change.last_day)
            days.append(told or local_time(e.start_utc_ns, found.zone).date())
    return Week.of(max(days)) if days else None
