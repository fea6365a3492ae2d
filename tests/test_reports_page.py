"""The page of a report and its print: in two languages, printable, and nothing that could run."""

from __future__ import annotations

import asyncio
import re
import shutil
import string
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import Page, need_weasyprint, pdf_pages, week_of
from report_people import BASIS, WEEK, ZONE, answer, episode, fill_folder, said

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.caution import Decision
from kinedge.edge.promise import promise
from kinedge.edge.reports import charts, words
from kinedge.edge.reports.page import person_page
from kinedge.edge.reports.pdf import pdf_of
from kinedge.edge.reports.person import DayNumber, Number, NumberWeeks
from kinedge.edge.reports.words import Words
from kinedge.edge.store import EpisodeStore
from kinedge.errors import ConfigError

UNTOLD = ("risk", "diagnos", "risque", "relapse", "rechute")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_folder(tmp_path_factory.mktemp("gateway"))


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
