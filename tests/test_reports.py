"""Reports for people: true to what is kept, in two languages, printable, and nothing that could run."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import string
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measures_feeder import START_UTC_S, chunk
from report_people import BASIS, WEEK, ZONE, answer, arm_day, episode, fill, rows_of, said

import kinedge.cli.report  # noqa: F401  registers its commands
from kinedge.cli.app import main
from kinedge.cli.session import running_collector
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.caution import Decision
from kinedge.edge.feedback import answer_episode
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.promise import promise
from kinedge.edge.reports import charts, words
from kinedge.edge.reports.gather import from_collector, from_store
from kinedge.edge.reports.page import person_page
from kinedge.edge.reports.pdf import pdf_of
from kinedge.edge.reports.person import DayNumber, Number, NumberWeeks, PersonWeek, person_week
from kinedge.edge.reports.week import EPOCH, Week, local_time
from kinedge.edge.reports.words import Words
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault
from kinedge.edge.verdict_hours import VerdictHours
from kinedge.errors import ConfigError, LinkError, StoreError
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.measures_envelope import measures_envelope
from kinedge.signals import SensorSpec

UNTOLD = ("risk", "diagnos", "risque", "relapse", "rechute")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gateway")
    ns = WEEK.utc_ns(ZONE)[1] + 9 * 3600 * 10**9
    with EpisodeStore(path / "edge.db", wall_clock_ns=lambda: ns) as store:
        fill(store)
    return path


def week_of(folder: Path, subject: str = "p-001", week: Week = WEEK) -> PersonWeek:
    found, _ = from_store(folder / "edge.db", subject, week, zone=ZONE)
    return person_week(found, week)


class Page(HTMLParser):
    """Tags and texts of a page; every tag must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "br":
            self.handle_data(" ")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if ("td" in self.open or "th" in self.open) and self.cells:
            self.cells[-1][-1] += data


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


# the page


def test_the_page_is_one_file_that_loads_and_runs_nothing_and_has_equal_bytes(folder: Path) -> None:
    for language in ("en", "fr"):
        html = person_page(week_of(folder), language)
        assert html == person_page(week_of(folder), language)
        page = Page(html)
        assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
        assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href") or a.startswith("on")]
        assert "http" not in html.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
        pictures = [a for tag, a in page.tags if tag == "svg"]
        assert all(a.get("aria-label") or a.get("aria-hidden") for a in pictures) and len(pictures) > 5
        assert not [w for w in UNTOLD if w in page.text.lower()]


def test_hostile_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"';}</style><img src=x onerror=alert(1)>"
    start = WEEK.utc_ns(ZONE)[0]
    basis = {**BASIS, "promise": bad}
    with EpisodeStore(tmp_path / "edge.db") as store:
        store.commit(episode(1, start + 10**9, 9, sentence=bad, contributions=[{"sensor": "<b>_left", "share": 1.0}]))
        lost = said(Decision.UNSURE, (bad[:30], "</td><script>"))
        asyncio.run(answer(store, "p-001", [(start // 10**9, lost, 5)], basis))
    clean = {tag for tag, _ in Page(person_page(week_of(tmp_path), "en")).tags}
    for language in ("en", "fr"):
        html = person_page(week_of(tmp_path), language)
        page = Page(html)
        assert "script" not in clean | {tag for tag, _ in page.tags} and "img" not in {t for t, _ in page.tags}
        assert bad in page.text and html.count("</style>") == 1


def test_a_hostile_name_stays_a_text_in_the_style_sheet_too(folder: Path) -> None:
    bad = 'p"; } body { display: none } </style><script>x</script>'
    html = person_page(replace(week_of(folder), subject=bad))
    assert (
        html.count("</style>") == 1
        and "<script" not in html
        and "display: none }" not in html[html.index("<style>") : html.index("</style>")]
    )


def test_both_languages_have_all_words_and_none_of_the_other(folder: Path) -> None:
    used = set()
    for source in ("edge/reports/page.py", "edge/reports/charts.py", "edge/reports/templates/person.html.j2"):
        used |= set(re.findall(r'\b(?:w|words)\("(\w+)"', (Path(__file__).parents[1] / source).read_text("utf-8")))
    assert used - {"is_not_"} <= set(words._TEXTS)
    for key, (english, french) in words._TEXTS.items():
        fields = [{f[1] for f in string.Formatter().parse(t) if f[1]} for t in (english, french)]
        assert english and french and fields[0] == fields[1], key
        assert not [w for w in UNTOLD if w in f"{english} {french}".lower()], key
    text = Page(person_page(week_of(folder), "fr")).text.lower()
    assert not [w for w in ("unsure", "as usual", "week", "worn", "episode ", "different", "the ") if w in text]


@pytest.mark.parametrize("hours", [8, 36, 168])
@pytest.mark.parametrize("audit", ["holds", "doubtful", "does not hold", None])
def test_a_promise_is_said_in_french_as_the_gateway_would(hours: float, audit: Any) -> None:
    alarm = AlarmConfig(hours_per_false_episode=hours)
    english = promise(alarm, audit=audit, n_subjects=40)
    french = promise(alarm, audit=audit, n_subjects=40, language="fr")
    assert Words("fr").promised(english).lower() == f"{french}.".lower()
    assert Words("en").promised(english).lower() == f"{english}.".lower()
    assert Words("fr").promised("something else") == "« something else »"


def test_who_is_compared_with_others_is_told_so_at_a_glance(tmp_path: Path) -> None:
    start = WEEK.utc_ns(ZONE)[0] // 10**9
    alone = {k: v for k, v in BASIS.items() if k not in ("enrolment_digest", "promise")}
    for subject, basis, told in (("p-001", BASIS, False), ("p-003", alone, True)):
        with EpisodeStore(tmp_path / "edge.db") as store:
            asyncio.run(answer(store, subject, [(start, said(Decision.NORMAL), 5)], basis))
        text = Page(person_page(week_of(tmp_path, subject))).text
        assert ("No enrolment of their own" in text) is told
        assert ("Nothing was promised about false episodes" in text) is told


def test_numbers_are_written_as_each_language_writes_them() -> None:
    english, french = Words("en"), Words("fr")
    assert (english.number(-1234.5), french.number(-1234.5)) == ("−1\u202f234.50", "−1\u202f234,50")
    assert french.number(-0.001) == "0,00" and english.number(None) == "–"
    assert [english.percent(x) for x in (0, 0.001, 0.005, 0.126, 1)] == [
        f"{n}\u00a0%" for n in ("0", "< 1", "< 1", "13", "100")
    ]
    assert [english.hours(s) for s in (0, 20, 60, 3599, 90_000)] == ["0:00 h", "20 s", "0:01 h", "1:00 h", "25:00 h"]
    with pytest.raises(ConfigError, match="en and fr"):
        Words("de")


number = st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-6)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(number, number, number, st.booleans()), min_size=1, max_size=35))
def test_a_chart_of_any_numbers_is_well_formed_and_stays_in_its_frame(days: list[Any]) -> None:
    marks = ["as_usual", "lower", "learning", "plain"]
    drawn = tuple(
        DayNumber(date(2026, 1, 1) + timedelta(days=i), Number(a, *sorted((a, b))), tuple(sorted((b, c))), marks[i % 4])  # type: ignore[arg-type]
        if there
        else DayNumber(date(2026, 1, 1) + timedelta(days=i), Number(), None, "none")
        for i, (a, b, c, there) in enumerate(days)
    )
    svg = charts.trend_chart(NumberWeeks("x", drawn), Words("fr"), percent=False, digits=2, title="<&>")
    root = ET.fromstring(svg)
    height = float(root.attrib["viewBox"].split()[3])
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.attrib["cy"]) <= height


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e5, 1e5), st.floats(1e-4, 1e5))
def test_ticks_are_round_and_within(low: float, width: float) -> None:
    found = charts.ticks(low, low + width)
    assert 2 <= len(found) <= 6 and found[0] >= low - 1e-6 * width and found[-1] <= low + width * (1 + 1e-6)


# PDF


def need_weasyprint() -> None:
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as e:
        pytest.skip(f"WeasyPrint (kinedge[report]) or its Pango is not installed: {e}")


def pdf_pages(pdf: bytes) -> list[str]:
    tool = shutil.which("pdftotext")
    if tool is None:
        pytest.skip("pdftotext (Debian: poppler-utils) is not installed")
    done = subprocess.run([tool, "-layout", "-", "-"], input=pdf, capture_output=True, check=True)
    return done.stdout.decode().split("\f")[:-1]


@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_the_pdf_has_all_of_the_page_on_few_sheets(folder: Path, paper: str) -> None:
    need_weasyprint()
    html = person_page(week_of(folder))
    pdf, maker = pdf_of(html, paper=paper)
    assert maker == "weasyprint" and pdf.startswith(b"%PDF") and pdf == pdf_of(html, paper=paper)[0]
    pages = pdf_pages(pdf)
    assert len(pages) in (3, 4)
    assert all(f"page {i} of {len(pages)}" in page for i, page in enumerate(pages, start=1))
    text = " ".join(" ".join(pages).split())
    for part in ("Week 47 of 2026", "Use ratio", "much less than usual", "What this is not", BASIS["model_digest"]):
        assert part in text
    sizes = {"a4": (595, 842), "letter": (612, 792)}
    box = re.search(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    if box is not None:  # where it is not compressed
        assert (round(float(box[1])), round(float(box[2]))) == sizes[paper]


def test_a_browser_prints_the_same(folder: Path) -> None:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium is installed")
    pdf, maker = pdf_of(person_page(week_of(folder)), maker="chromium")
    text = " ".join(" ".join(pdf_pages(pdf)).split())
    assert maker == "chromium" and "Week 47 of 2026" in text and "What this is not" in text


def test_a_missing_printer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"kinedge\[report\].*Pango.*chromium"):
        pdf_of("<html><head></head></html>")
    with pytest.raises(ConfigError, match="no paper"):
        pdf_of("", paper="a5")


# the command


def test_the_command_writes_html_and_json_of_the_latest_week(folder: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "p.html"
    told = ["report", "person", str(folder / "edge.db"), "--timezone", ZONE]
    assert main([*told, "--subject", "p-001", "--lang", "fr", "--out", str(page)]) == 0
    assert page.read_text("utf-8") == person_page(week_of(folder), "fr")
    capsys.readouterr()
    assert main([*told, "--subject", "p-001", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["week"] == "2026-W47" and content["unsure_share"] == week_of(folder).unsure_share
    assert content["episodes"][0]["id"] == week_of(folder).episodes[0].id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "several people"),
        (["--subject", "p-009"], "nothing is kept of p-009"),
        (["--subject", "p-001", "--week", "2026-W60"], "no week 60"),
        (["--subject", "p-001", "--timezone", "Mars/Base"], "time zone"),
        (["--subject", "p-001", "--out", "p.doc"], "HTML or PDF"),
        (["--subject", "p-001", "--out", "/proc/none/p.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_error(
    folder: Path, arguments: list[str], message: str, capsys: Any
) -> None:
    assert main(["report", "person", str(folder / "edge.db"), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_sealed_store_is_reported_with_its_key_and_not_without(tmp_path: Path, capsys: Any) -> None:
    key = tmp_path / "master.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    with EpisodeStore(tmp_path / "edge.db", vault=Vault(tmp_path / "edge.db.keys", bytes(range(32)))) as store:
        fill(store)
    gateway = tmp_path / "gateway.toml"
    gateway.write_text(
        f'site = "s"\ngateway = "g"\nstore = "edge.db"\n[keys]\nfile = "master.key"\n[measures]\ntimezone = "{ZONE}"\n'
        '[[people]]\nsubject = "p-001"\n',
        encoding="utf-8",
    )
    told = ["--subject", "p-001", "--json"]
    assert main(["report", "person", str(gateway), *told]) == 0
    by_config = capsys.readouterr().out
    assert main(["report", "person", str(tmp_path / "edge.db"), "--key", str(key), "--timezone", ZONE, *told]) == 0
    assert capsys.readouterr().out == by_config
    assert main(["report", "person", str(tmp_path / "edge.db"), *told]) == 1
    assert "sealed" in capsys.readouterr().err


def put(url: str, what: str, id: str, body: bytes) -> None:
    answered = httpx.put(f"{url}/v1/{what}/{id}", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code == 201, answered.text


def test_a_collector_tells_days_episodes_and_what_was_said_of_them(tmp_path: Path, capsys: Any) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        fill(store)
        envelopes = [s.envelope for s in store.episodes()]
        days = MeasuresStore(store.database).rows(subject="p-001", level="day")
    who = {"site": "clinic-a", "gateway": "gw-01", "config_digest": "a7" * 32, "kinedge_version": "0.1.0"}
    with running_collector(tmp_path) as url:
        for e in envelopes:
            put(url, "episodes", e.id, e.to_bytes())
        slow = next(e for e in envelopes if e.change is not None)
        assert httpx.post(f"{url}/v1/episodes/{slow.id}/reviews", json={"action": "confirm"}).status_code == 201
        page = tmp_path / "c.html"
        assert main(["report", "person", url, "--timezone", ZONE, "--out", str(page)]) == 0  # the latest week
        assert "Daily numbers of this week are not at this collector" in Page(page.read_text("utf-8")).text
        for i, d in enumerate(days):
            local = str(EPOCH + timedelta(days=d.start))
            row = measures_envelope(**who, **d.content, subject="p-001", part=d.part, day=local, as_of_utc_ns=i)
            put(url, "measures", row.id, row.to_bytes())
        capsys.readouterr()
        assert main(["report", "person", url, "--timezone", ZONE, "--week", "2026-W47", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
    assert len(content["episodes"]) == len(envelopes)
    assert {e["id"]: e["status"] for e in content["episodes"]}[slow.id] == "confirmed"
    assert (
        main(["report", "person", str(tmp_path / "edge.db"), "--timezone", ZONE, "--subject", "p-001", "--json"]) == 0
    )
    assert content["parts"] == json.loads(capsys.readouterr().out)["parts"]
    with pytest.raises(LinkError, match="no collector answers"):
        from_collector("http://127.0.0.1:9", "p", WEEK)


def test_a_broken_audit_trail_is_said_and_its_answers_are_left_out(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        ids = fill(store)
    answer_episode(tmp_path / "edge.db", ids[0], "confirmed")
    with EpisodeStore(tmp_path / "edge.db") as store, store.database.writing() as connection:
        connection.execute("UPDATE audit SET detail = '{}' WHERE n = 1")
    report = week_of(tmp_path)
    assert report.audit_broken and {e.status for e in report.episodes} == {"unknown"}
    assert "audit trail of this store is broken" in Page(person_page(report)).text


def test_a_store_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.db"):
        from_store(tmp_path / "none.db", None, None)


def test_the_training_report_is_found_beside_its_bundle_and_printed(tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "m.report.html"
    page.write_text("<!doctype html><html><head><title>m</title></head><body><p>As usual</p></body></html>", "utf-8")
    for run in (tmp_path, tmp_path / "m.kinedge", page):
        out = tmp_path / "out" / "m.html"
        assert main(["report", "training", str(run), "--out", str(out)]) == 0
        assert out.read_bytes() == page.read_bytes()
    page.unlink()
    capsys.readouterr()
    assert main(["report", "training", str(tmp_path)]) == 1
    assert "no report" in capsys.readouterr().err


def test_results_of_benchmarks_are_printed_with_all_their_rows(tmp_path: Path) -> None:
    need_weasyprint()
    result = Path(__file__).parents[1] / "benchmarks/results/alarms.json"
    out = tmp_path / "b.pdf"
    assert main(["report", "bench", str(result), "--out", str(out)]) == 0
    text = " ".join(" ".join(pdf_pages(out.read_bytes())).split())
    for row in json.loads(result.read_text("utf-8"))["rows"]:
        assert row["what"] in text


def test_a_recording_is_reported_as_measured_and_not_scored(tmp_path: Path, capsys: Any) -> None:
    with SessionWriter(
        tmp_path / "r", facts={"subject": "p-007"}, clock=lambda: 0, wall_clock=lambda: START_UTC_S * 10**9
    ) as writer:
        for sensor in ("wrist_left", "wrist_right"):
            writer.describe(SensorSpec(sensor))
            for second in range(20):
                writer.write(chunk(sensor, second))
    page = tmp_path / "r.html"
    assert main(["report", "person", str(tmp_path / "r"), "--timezone", "UTC", "--out", str(page)]) == 0
    text = Page(page.read_text("utf-8")).text
    assert (
        "A recording was measured, not scored" in text and "Week 46 of 2023" in text and "the day is not over" in text
    )
    capsys.readouterr()
    assert main(["report", "person", str(tmp_path / "r"), "--subject", "p-008", "--timezone", "UTC"]) == 1
    assert "nothing of p-008" in capsys.readouterr().err
