"""From the content of a week to one HTML page that needs nothing else; equal content gives equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kinedge.edge.reports.charts import answers_chart, legend_mark, trend_chart
from kinedge.edge.reports.person import (
    THRESHOLD,
    DayNumber,
    DayRow,
    EpisodeLine,
    NumberWeeks,
    PartWeek,
    PersonWeek,
)
from kinedge.edge.reports.week import local_time
from kinedge.edge.reports.words import Words

__all__ = ["environment", "person_page"]

_TEMPLATES: Final = Path(__file__).parent / "templates"
_MAX_EPISODES: Final = 100  # that are listed
_CHANGED: Final = frozenset(
    {"one_arm_lower", "arms_less_even", "both_arms_lower", "contact_less_even", "impacts_less_even"}
)


@dataclass(frozen=True)
class _Form:
    """How a measure is written: in percent of one, with so many digits, and what stands behind it."""

    percent: bool = False
    digits: int = 2
    unit: str = ""


_FORMS: Final[Mapping[str, _Form]] = {
    "use_ratio": _Form(),
    "active_share": _Form(percent=True, digits=0),
    "contact_symmetry_index": _Form(digits=1, unit="\u00a0%"),
    "steps": _Form(digits=0),
}


def environment() -> Environment:
    """Return the templates, which escape whatever comes from outside."""
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters["css"] = _css_string
    return found


def css() -> Markup:
    """Return the style of every report."""
    return Markup((_TEMPLATES / "print.css").read_text(encoding="utf-8"))


def person_page(report: PersonWeek, language: str = "en") -> str:
    """Return a person's week as HTML.

    Parameters
    ----------
    report
        The content.
    language
        ``en`` or ``fr``.

    Raises
    ------
    ConfigError
        There are no words in this language.
    """
    w = Words(language)
    until = report.data_until_utc_ns
    return (
        environment()
        .get_template("person.html.j2")
        .render(
            w=w,
            r=report,
            threshold=THRESHOLD,
            css=css(),
            key=lambda kind: Markup(legend_mark(kind)),
            data_until=w.moment(local_time(until, report.zone)) if until else "",
            glance=_glance(report, w),
            parts=[_part(p, w) for p in report.parts],
            episodes=[_episode(e, report.zone, w) for e in report.episodes[:_MAX_EPISODES]],
            n_more=max(len(report.episodes) - _MAX_EPISODES, 0),
            answers=_answers(report, w) if report.answered else None,
            promises=_promises(report, w),
            facts=[
                (w(name), digests)
                for name, digests in [
                    ("model", report.basis["model_digest"]),
                    ("config", report.basis["config_digest"]),
                    ("enrolment", report.basis["enrolment_digest"]),
                    ("definition", report.definitions),
                    ("version", report.basis["kinedge_version"]),
                ]
                if digests
            ],
            unsigned=", ".join(w(f"unsigned_{what}") for what in report.unsigned),
        )
        + "\n"
    )


def _css_string(text: str) -> Markup:
    """Escape a text for a string within a style sheet within HTML."""
    return Markup("".join(c if c.isalnum() or c in " -_.·" else f"\\{ord(c):x} " for c in text))


def _glance(report: PersonWeek, w: Words) -> list[str]:
    lines = []
    for part in report.parts:
        said = [d.said for d in part.days if d.said not in ("nothing_kept", "under_way")]
        known = [s for s in said if s not in ("unsure", "too_little")]
        told = [w("n_days", said=w(s), n=known.count(s)) for s in dict.fromkeys(known)]
        missing = 7 - len(known) - sum(d.said == "under_way" for d in part.days)
        if not known:
            told = [w("no_days")]
        elif missing:
            told.append(w("not_enough_days", n=missing))
        lines.append(w("glance_part", part=w(f"part_{part.part}"), said="; ".join(told)))
    if report.episodes:
        n_unsure = sum(e.decision == "unsure" for e in report.episodes)
        n = len(report.episodes)
        lines.append(w("glance_episodes", n=n, different=n - n_unsure, unsure=n_unsure))
    elif report.where != "recording":
        lines.append(w("glance_none"))
    if report.unsure_share is None:
        lines.append(w("glance_unknown"))
    else:
        first = report.reasons[0] if report.reasons else None
        why = "" if first is None else w("glance_why", why=w.why(first.code, first.sensor))
        total = sum(report.seconds.values())
        line = w("glance_unsure", share=w.percent(report.unsure_share), time=w.hours(total), why=why)
        lines.append(line.replace("?.", "?"))
    if report.basis["model_digest"] and not report.basis["enrolment_digest"]:
        lines.append(w("glance_cohort"))
    return lines


def _part(part: PartWeek, w: Words) -> dict[str, Any]:
    return {
        "part": part.part,
        "title": w(f"part_{part.part}"),
        "numbers": [_number_of(n, part, w) for n in part.numbers],
        "extra_titles": [w("active_left"), w("active_right")] if part.part == "arm" else [w("walking")],
        "days": [_day(i, part, w) for i in range(7)],
    }


def _number_of(number: NumberWeeks, part: PartWeek, w: Words) -> dict[str, Any]:
    form = _FORMS[number.name]
    about = {}
    if number.name == "use_ratio":
        second = {"left": "right", "right": "left"}.get(part.first, "")
        weaker = "_affected" if part.affected else ""
        about = {
            "first": w(f"arm_{part.first}{weaker}" if part.first else "arm_one"),
            "second": w(f"arm_{second}" if second else "arm_other"),
        }
    title = w(number.name)
    chart = trend_chart(
        number, w, percent=form.percent, digits=form.digits, title=w("alt_trend", name=title), unit=form.unit
    )
    return {"title": title, "about": w(f"about_{number.name}", **about), "chart": Markup(chart)}


def _day(i: int, part: PartWeek, w: Words) -> dict[str, Any]:
    day: DayRow = part.days[i]
    numbers = [_cell(n.week[i], _FORMS[n.name], w) for n in part.numbers]
    extra = [w.hours(None if n.value is None else n.value * 3600) for n in day.extra.values()]
    if part.part == "gait":
        extra = [] if day.walking_s is None else [w.hours(day.walking_s)]
    said_class = "different" if day.said in _CHANGED else "unsure" if day.said in ("unsure", "too_little") else ""
    marks = {n.week[i].mark for n in part.numbers}
    said = w("no_number" if day.said == "unsure" and "no_number" in marks else day.said)
    if day.short >= 0.05 and day.said == "as_usual":
        said = w("so_far", short=w.number(day.short, digits=1), threshold=w.number(THRESHOLD, digits=0))
    return {
        "day": w.short_day(day.date),
        "numbers": numbers,
        "worn": w.hours(day.worn_s) if day.worn_s is not None else "",
        "extra": extra or ([""] * 2 if part.part == "arm" else [""]),
        "said": said,
        "said_class": said_class,
    }


def _cell(day: DayNumber, form: _Form, w: Words) -> dict[str, str]:
    def written(value: float) -> str:
        if form.percent:
            return w.percent(value, digits=form.digits)
        return w.number(value, digits=form.digits) + form.unit

    def span(low: float | None, high: float | None) -> str:
        if low is None or high is None:
            return ""
        if form.percent:
            return f"{w.number(100 * low, digits=form.digits)}–{written(high)}"
        if low < 0:  # a dash between would read as one more minus
            return f"{w.number(low, digits=form.digits)} … {written(high)}"
        return f"{w.number(low, digits=form.digits)}–{written(high)}"

    value = day.number.value
    return {
        "value": "" if value is None else written(value),
        "interval": span(day.number.low, day.number.high),
        "band": "" if value is None or day.band is None else span(*day.band),
    }


def _episode(e: EpisodeLine, zone: str, w: Words) -> dict[str, Any]:
    text = e.text.get(w.language) or e.text.get("en") or w("no_sentence")
    for unsure in ("unsure: ", "incertain : "):  # the word stands before the text, in its own colour
        text = text[len(unsure) :] if text.lower().startswith(unsure) else text
    place = w.place(e.place) if e.place else ""
    if place and e.share is not None:
        place = f"{place}, {w.percent(e.share)}"
    return {
        "when": w("since", day=e.since) if e.since else w.moment(local_time(e.start_utc_ns, zone)),
        "lasting": "" if e.since else w.lasting(e.seconds),
        "decision": e.decision,
        "text": text,
        "place": place,
        "status": w(f"status_{e.status}"),
        "id": e.id[:8],
    }


def _answers(report: PersonWeek, w: Words) -> dict[str, Any]:
    chart = answers_chart(report.answered, w, title=w("alt_answers"))
    return {
        "chart": Markup(chart),
        "days": [{"day": w.short_day(d.date), **_shares(d.seconds, w)} for d in report.answered],
        "whole": _shares(report.seconds, w),
        "reasons": [
            {
                "why": _capital(w.why(x.code, x.sensor)),
                "time": w.hours(x.seconds),
                "share": w.percent(x.share, digits=1),
            }
            for x in report.reasons
        ],
    }


def _shares(seconds: Mapping[str, float], w: Words) -> dict[str, str]:
    total = sum(seconds.values())
    names = {"usual": "normal", "unsure": "unsure", "different": "anomalous"}
    return {
        "total": w.hours(total) if total else "",
        **{k: w.percent(seconds[v] / total, digits=1) if total else "" for k, v in names.items()},
    }


def _promises(report: PersonWeek, w: Words) -> Sequence[str]:
    if report.promises:
        return [w.promised(p) for p in report.promises]
    return [w("promise_none") if report.answered or report.episodes else w("promise_unknown")]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
