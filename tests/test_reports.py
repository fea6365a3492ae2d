"""Reports for people are true to what is kept, week by week."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import Page, week_of
from report_people import WEEK, ZONE, answer, arm_day, episode, fill, fill_folder, rows_of, said

from kinedge.edge.caution import Decision
from kinedge.edge.feedback import answer_episode
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.reports.page import person_page
from kinedge.edge.reports.person import Number
from kinedge.edge.reports.week import EPOCH, Week, local_time
from kinedge.edge.reports.words import Words
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict_hours import VerdictHours
from kinedge.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_folder(tmp_path_factory.mktemp("gateway"))


# what is told


def test_every_number_of_the_report_is_one_of_the_store(folder: Path) -> None:
    arm = week_of(folder).parts[0]
    with EpisodeStore(folder / "edge.db", read_only=True) as store:
        kept = {r.start: r.content for r in MeasuresStore(store.database).rows(subject="p-001", level="day")}
    shown = 0
    for number in arm.numbers:
        for day in number.days:
            content = kept.get((day.date - EPOCH).days)
            if day.number.value is None:
                assert content is None or content["worn_s"] < 6 * 3600
                continue
            told = content["measures"][number.name]
            assert (day.number.value, day.number.low, day.number.high) == (told["value"], told["low"], told["high"])
            shown += 1
    assert shown > 50
    page = Page(person_page(week_of(folder)))
    monday = next(row for row in page.cells if row[0] == "Mon 16 Nov" and "as usual" in row[-1])
    value = kept[WEEK.first_day]["measures"]["use_ratio"]["value"]
    assert monday[1].startswith(f"{value:.2f} ")
    assert monday[3] == Words("en").hours(kept[WEEK.first_day]["worn_s"])


def test_the_unsure_share_and_its_reasons_are_those_that_were_counted(folder: Path) -> None:
    report = week_of(folder)
    with EpisodeStore(folder / "edge.db", read_only=True) as store:
        hours = VerdictHours(store.database).rows(subject="p-001")
    counts = {w: sum(h.counts.get(w, 0) for h in hours) for w in ("normal", "unsure", "anomalous")}
    assert report.seconds == {w: n * 0.5 for w, n in counts.items()}
    assert report.unsure_share == counts["unsure"] / sum(counts.values())
    assert sum(r.seconds for r in report.reasons) == report.seconds["unsure"]
    assert (report.reasons[0].code, report.reasons[0].sensor) == ("off_body", "wrist_left")
    text = Page(person_page(report)).text
    assert "The left wrist lies still: is the sensor worn?" in text and "never counted as usual" in text


def test_a_half_worn_day_is_blank_and_not_zero(folder: Path) -> None:
    arm = week_of(folder).parts[0]
    wednesday, friday = arm.numbers[0].week[2], arm.numbers[0].week[4]
    assert (wednesday.mark, friday.mark) == ("too_little", "none")
    assert wednesday.number.value is None and friday.number.value is None
    page = Page(person_page(week_of(folder)))
    row = next(r for r in page.cells if r[0] == "Wed 18 Nov" and "worn" in r[-1])
    assert row[1].strip() == row[2].strip() == "" and row[3] == "3:06 h" and row[-1] == "unsure: too little worn"
    assert next(r for r in page.cells if r[0] == "Fri 20 Nov")[-1] == "nothing was kept"


def test_episodes_have_time_sentence_place_and_what_people_said(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        ids = fill(store)
    answer_episode(tmp_path / "edge.db", ids[0], "confirmed")
    answer_episode(tmp_path / "edge.db", ids[2], "dismissed")
    report = week_of(tmp_path)
    assert {e.id: e.status for e in report.episodes} == {
        ids[0]: "confirmed", ids[1]: "new", ids[2]: "dismissed", ids[3]: "new"
    }  # fmt: skip
    rows = Page(person_page(report, "fr")).cells
    first = next(r for r in rows if ids[0][:8] in "".join(r))
    assert first[0] == "mar. 17 nov., 10:15 46 s" and "beaucoup moins que d'habitude" in first[1]
    assert first[2] == "le poignet gauche, 71\u00a0%" and first[3] == "confirmé"
    unsure = next(r for r in rows if ids[1][:8] in "".join(r))
    assert unsure[1].startswith("incertain") and unsure[2] == ""


def test_a_slow_change_belongs_to_the_week_of_the_day_that_told_it(folder: Path) -> None:
    slow = [e for e in week_of(folder).episodes if e.since]
    assert len(slow) == 1 and slow[0].since == "2026-11-19" and slow[0].decision == "different"
    # it was told on the morning after Sunday: not again in the week that follows
    assert [e for e in week_of(folder, week=Week(2026, 48)).episodes if e.since] == []


def test_an_empty_week_says_so_and_shows_no_number(folder: Path) -> None:
    report = week_of(folder, week=Week(2025, 10))
    assert report.parts == report.episodes == report.answered == () and report.unsure_share is None
    for language, nothing in (("en", "Nothing was measured"), ("fr", "Rien n'a été mesuré")):
        page = Page(person_page(report, language))
        assert nothing in page.text and "0\u00a0%" not in page.text and page.cells == []


def test_steps_are_those_of_both_legs_and_have_no_trend(folder: Path) -> None:
    gait = week_of(folder, "p-002").parts[0]
    monday = gait.numbers[1].week[0]
    with EpisodeStore(folder / "edge.db", read_only=True) as store:
        row = next(
            r for r in MeasuresStore(store.database).rows(subject="p-002", level="day") if r.start == WEEK.first_day
        )
    sides = [row.content["measures"][f"steps_{s}"] for s in ("left", "right")]
    assert monday.number == Number(*(sum(m[k] for m in sides) for k in ("value", "low", "high")))
    assert monday.mark == "plain" and monday.band is None
    assert gait.numbers[0].week[0].band is not None


@pytest.mark.parametrize(("affected", "weaker"), [(True, "the left, weaker arm"), (False, "the left arm")])
def test_the_usual_range_is_in_the_unit_of_the_number(tmp_path: Path, affected: bool, weaker: str) -> None:
    rng = np.random.default_rng(0)
    days = [arm_day(WEEK.first_day - 21 + i, 12, 0.8 + 0.02 * float(rng.normal()), 0.3, rng) for i in range(28)]
    with EpisodeStore(tmp_path / "edge.db") as store:
        MeasuresStore(store.database).save("p", rows_of(days, affected=affected)[0], {})
    part = week_of(tmp_path, "p").parts[0]
    low, high = part.numbers[0].week[-1].band or (0, 0)
    assert low < 0.8 < high and (high < 1 if affected else high > 1.1)
    assert (part.first, part.affected) == ("left", affected)
    assert weaker in Page(person_page(week_of(tmp_path, "p"))).text


# weeks


@settings(deadline=None, max_examples=50)
@given(st.dates(date(1971, 1, 1), date(2100, 1, 1)))
def test_a_week_reads_back_and_has_its_seven_days(day: date) -> None:
    week = Week.of(day)
    assert Week.parse(str(week)) == week and day in week.days and week.days[0].weekday() == 0
    start, end = week.utc_ns("UTC")
    assert end - start == 7 * 86_400 * 10**9 and start == week.first_day * 86_400 * 10**9


@pytest.mark.parametrize(
    ("text", "hours", "first"),
    [
        ("2026-W53", 168, date(2026, 12, 28)),  # ends in 2027
        ("2026-W43", 169, date(2026, 10, 19)),  # the clock goes back on Sunday
        ("2026-W13", 167, date(2026, 3, 23)),
    ],
)
def test_weeks_over_new_year_and_changes_of_the_clock(text: str, hours: int, first: date) -> None:
    week = Week.parse(text)
    start, end = week.utc_ns(ZONE)
    assert (end - start) // (3600 * 10**9) == hours and week.days[0] == first
    assert local_time(start, ZONE) == datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(ZONE))
    assert local_time(end - 1, ZONE).date() == first + timedelta(days=6)


@pytest.mark.parametrize("text", ["2026-47", "2025-W53", "2026-W00", "week", "", "2026-W470"])
def test_what_is_no_week_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="week"):
        Week.parse(text)


def test_the_hour_that_the_clock_repeats_counts_twice_and_an_evening_stays_in_its_week(tmp_path: Path) -> None:
    week = Week(2026, 43)
    end_s = week.utc_ns(ZONE)[1] // 10**9
    repeated = end_s - 23 * 3600  # 02:00 for the first time, and again an hour later
    normal = said(Decision.NORMAL)
    with EpisodeStore(tmp_path / "edge.db") as store:
        script = [(repeated, normal, 7200), (repeated + 3600, normal, 7200), (end_s - 1800, normal, 10)]
        asyncio.run(answer(store, "p-001", script))
        store.commit(episode(1, (end_s - 1800) * 10**9, 20))
        store.commit(episode(2, (end_s + 60) * 10**9, 20))
    report = week_of(tmp_path, week=week)
    sunday = report.answered[6]
    assert sunday.hours[2] == {"normal": 7200.0} and sunday.hours[23] == {"normal": 5.0}
    assert len(report.episodes) == 1 and len(week_of(tmp_path, week=Week(2026, 44)).episodes) == 1
    assert "2:00 h" in person_page(report)


def test_a_broken_audit_trail_is_said_and_its_answers_are_left_out(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        ids = fill(store)
    answer_episode(tmp_path / "edge.db", ids[0], "confirmed")
    with EpisodeStore(tmp_path / "edge.db") as store, store.database.writing() as connection:
        connection.execute("UPDATE audit SET detail = '{}' WHERE n = 1")
    report = week_of(tmp_path)
    assert report.audit_broken and {e.status for e in report.episodes} == {"unknown"}
    assert "audit trail of this store is broken" in Page(person_page(report)).text
