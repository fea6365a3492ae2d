"""The review desk in a real browser, on weeks that ``kinedge collect demo-data`` works out: what it shows and does."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from browser import LAPTOP, TABLET, Watched, axe_findings
from collector_server import Issuer, serving, wait_until
from test_collector import envelope

from kinedge.cli.app import main
from kinedge.edge import narrative
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.measures.arm import arm_estimates
from kinedge.edge.measures.legs import legs_estimates
from kinedge.edge.promise import promise, promises_of
from kinedge.upstream.schema import AUDIT, EPISODES
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings, OidcSettings

pytestmark = pytest.mark.timeout(300)

TOKEN = "a-token-of-a-desk"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
FORBIDDEN = re.compile(r"\b(risk|diagnos|risque)", re.IGNORECASE)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six weeks of four simulated people, until today."""
    path = tmp_path_factory.mktemp("weeks") / "desk.db"
    assert main(["collect", "demo-data", "--db", str(path)]) == 0
    return path


@pytest.fixture
def collector(weeks: Path, tmp_path: Path) -> Iterator[Collector]:
    shutil.copy(weeks, tmp_path / "desk.db")
    with serving(CollectorSettings(database_url=f"sqlite:///{tmp_path}/desk.db")) as running:
        yield running


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A desk with nothing in it yet."""
    path = tmp_path_factory.mktemp("few") / "desk.db"
    with serving(CollectorSettings(database_url=f"sqlite:///{path}")) as running:
        yield running


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Open a view; at the end no page may have had an error or have asked another host."""
    contexts, pages = [], []

    def go(url: str, view: str = "#/", *, query: str = "", viewport: Any = LAPTOP, wait: str = "h1") -> Any:
        context = browser.new_context(
            viewport=viewport, locale="en-GB", timezone_id="Europe/Paris", reduced_motion="reduce"
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        contexts.append(context)
        pages.append(Watched(page, url))
        page.goto(f"{url}/{query}{view}")
        page.wait_for_selector(wait)
        return page

    yield go
    for watched in pages:
        watched.check()
    for context in contexts:
        context.close()


def ids(collector: Collector, condition: Any = None) -> list[str]:
    """Ids by start, the newest first."""
    query = sa.select(EPISODES.c.id).order_by(EPISODES.c.start_utc_ns.desc())
    with collector.store.database.reading() as connection:
        return list(connection.scalars(query if condition is None else query.where(condition)))


def plain(text: str) -> str:
    """Return a text without what the page sets better: spaces that do not break, and apostrophes."""
    return text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2019", "'")


def there_are(page: Any, selector: str, n: int) -> None:
    """Wait for so many; a condition as a string would need ``eval``, which the page rightly forbids."""
    wait_until(lambda: page.locator(selector).count() == n, f"there are not {n} {selector}")


def abstentions_of(collector: Collector, id: str) -> list[Any]:
    return json.loads(collector.store.episode(id) or b"").get("abstentions", [])


def with_change(collector: Collector) -> str:
    return next(i for i in ids(collector) if b'"change":{' in (collector.store.episode(i) or b""))


def test_the_weeks_hold_what_the_model_and_the_trend_worked_out(collector: Collector) -> None:
    found = [json.loads(collector.store.episode(i) or b"") for i in ids(collector)]
    moments = [e for e in found if not e.get("change")]
    assert len(moments) >= 15 and all(e["raw"] and collector.store.raw(e["id"]) for e in moments)
    assert {e["change"]["kind"] for e in found if e.get("change")} == {"one_arm_lower", "contact_less_even"}
    assert {"as_usual", "sensor_lost"} <= {e["ended"] for e in found}
    assert collector.store.counts()["accepted_measures"] == 133
    assert {"confirmed", "dismissed", "new"} == {
        line["status"] for line in httpx.get(f"{collector.url}/v1/episodes", trust_env=False).json()["episodes"]
    }
    collector.store.verify_audit()
    # the left wrist trembles, and misleads the forecaster about the right one
    trembles = [e for e in moments if e["subject"] == "p-001" and e["ended"] == "as_usual"]
    trembles = [e for e in trembles if e["end_utc_ns"] - e["start_utc_ns"] >= 20e9]
    assert len(trembles) >= 5
    for e in trembles:
        assert e["sentence"].startswith("The left wrist"), e["sentence"]


def test_the_list_is_filtered_by_what_is_clicked_and_walked_by_keys(collector: Collector, opened: Open) -> None:
    page = opened(collector.url, wait="a.line")
    newest = ids(collector)
    assert page.locator("a.line").evaluate_all("all => all.map(a => a.dataset.id)") == newest
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.dataset.id") == newest[0]
    page.get_by_label("confirmed", exact=True).check()
    there_are(page, "a.line", len(ids(collector, EPISODES.c.status == "confirmed")))  # it is empty for a moment
    assert set(page.locator("a.line").evaluate_all("all => all.map(a => a.dataset.status)")) == {"confirmed"}
    page.get_by_label("Person").select_option("p-002")
    wait_until(lambda: page.url.endswith("#/?subject=p-002&status=confirmed"), page.url)
    of_both = ids(collector, (EPISODES.c.subject == "p-002") & (EPISODES.c.status == "confirmed"))
    there_are(page, "a.line", len(of_both))
    exported = page.locator(".exports a").first.get_attribute("href")
    rows = httpx.get(f"{collector.url}/{exported}", trust_env=False).text.splitlines()
    assert len(rows) == len(of_both) + 1, "what is exported is what is filtered"
    page.reload()
    there_are(page, "a.line", len(of_both))
    page.get_by_label("unsure", exact=True).check()
    page.wait_for_selector(".empty")
    page.get_by_role("button", name="Show all").click()
    there_are(page, "a.line", len(newest))
    page.locator("a.line").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"article[data-id='{newest[0]}']")


def test_what_arrives_while_the_list_is_open_is_seen(collector: Collector, opened: Open) -> None:
    page = opened(collector.url, "#/?order=oldest", wait="a.line")
    n = page.locator("a.line").count()
    page.locator("a.line").nth(3).focus()
    e = envelope(0)
    collector.store.put_episode(e.id, e.to_bytes())
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    there_are(page, "a.line", n + 1)
    assert page.locator("a.line").first.get_attribute("data-id") == e.id
    assert page.evaluate("document.activeElement.dataset.id") == ids(collector)[-5], "and nobody lost their place"


def test_more_than_a_page_is_there_when_asked_for(collector: Collector, opened: Open) -> None:
    for i in range(60):
        e = envelope(i)
        collector.store.put_episode(e.id, e.to_bytes())
    page = opened(collector.url, wait="a.line")
    assert page.locator("a.line").count() == 50
    page.get_by_role("button", name="Show more").click()
    there_are(page, "a.line", len(ids(collector)))
    assert page.locator("a.line").evaluate_all("all => all.map(a => a.dataset.id)") == ids(collector)


def test_one_episode_shows_where_the_surprise_starts_and_every_answer(collector: Collector, opened: Open) -> None:
    lost = next(i for i in ids(collector) if b'"ended":"sensor_lost"' in (collector.store.episode(i) or b""))
    e = json.loads(collector.store.episode(lost) or b"")
    page = opened(collector.url, f"#/episode/{lost}", wait=".signal canvas")
    assert plain(page.locator("h1").inner_text()) == plain(e["explanation"]["text"]["en"])
    first = page.locator(".signal[data-group]").first
    assert first.get_attribute("data-group").startswith(e["contributions"][0]["sensor"])
    assert first.get_attribute("data-highlight") == "true" and "of the surprise" in first.inner_text()
    page.get_by_text("Other channels").click()
    shown = page.locator(".signal[data-group]").evaluate_all("all => all.map(g => g.dataset.group)")
    assert sorted(shown) == ["wrist_left.acc", "wrist_left.gyr", "wrist_right.acc", "wrist_right.gyr"]
    assert "not received" in page.locator("[data-highlight=false]", has_text="not received").first.inner_text()
    assert page.locator(".trail-answer").count() == len(e["trail"])
    assert page.locator(".trail-unsure").count() == sum(p["decision"] == "unsure" for p in e["trail"])
    page.get_by_text("All answers as a table").click()
    assert page.locator(".table").first.locator("tbody tr").count() == len(e["trail"])
    silent = next(a for a in e["abstentions"] if a["code"] == "no_data")
    assert plain(silent["text"]["en"]) in plain(page.locator(".abstentions").inner_text())
    for digest in (e["model_digest"], e["config_digest"], e["raw"]["sha256"], e["id"]):
        assert page.locator(f"code[title='{digest}']").count() == 1
    page.get_by_role("button", name="Français").click()
    assert plain(silent["text"]["fr"]) in plain(page.locator(".abstentions").inner_text())
    assert plain(page.locator("h1").inner_text()) == plain(e["explanation"]["text"]["fr"])
    mine = ids(collector, EPISODES.c.subject == e["subject"])
    page.locator("a[rel=prev]").click()
    page.wait_for_selector(f"article[data-id='{mine[mine.index(lost) + 1]}']")


def test_what_stands_behind_an_unsure_answer_is_a_click_away_and_in_the_readers_language(
    collector: Collector, opened: Open
) -> None:
    told = [(i, n, a) for i in ids(collector) for n, a in enumerate(abstentions_of(collector, i))]
    found, n, one = next(each for each in told if each[2]["code"] == "newcomer")
    page = opened(collector.url, f"#/episode/{found}", wait=".abstentions")
    item = page.locator(".abstentions > li").nth(n)
    assert not item.locator(".facts").is_visible(), "figures do not stand in the face"
    item.locator("summary").click()
    figures = one["figures"]
    said = plain(item.inner_text())
    assert "no more than they show anyway" in said and f"{figures['reasons'][0]['weight']:.2f}" in said
    assert f"{figures['truth']:.0%}" in said and "an answer takes more than 20%" in said
    assert [r.split("\t")[0] for r in item.locator("tbody tr").all_inner_texts()] == [
        s["sensor"].replace("wrist_left", "left wrist").replace("wrist_right", "right wrist")
        for s in figures["sensors"]
    ]
    assert axe_findings(page) == []
    page.get_by_role("button", name="Français").click()
    said = plain(item.inner_text())
    assert "pas plus que d'ordinaire chez cette personne" in said
    assert f"{figures['p_value']:.4f}".replace(".", ",") in said and "poignet gauche" in said
    page.get_by_text("Toutes les réponses en tableau").click()
    assert page.locator("td[lang=en]").count() == 0
    assert "pas plus que d'ordinaire chez cette personne" in plain(page.locator(".table").first.inner_text())
    assert "milieu de la cohorte" in page.locator("main").inner_text(), "nobody is told a score is against their own"
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize(("audit", "hours"), [("holds", 8.0), ("doubtful", 36.5), ("does not hold", 72.0)])
def test_a_promise_is_said_as_the_gateway_would_in_either_language(
    few: Collector, opened: Open, audit: Any, hours: float
) -> None:
    alarm = AlarmConfig(hours_per_false_episode=hours)
    (made,) = promises_of(alarm, audits={"p": audit}, n_subjects=1400).values()
    e = envelope(int(hours), **made.fields)
    few.store.put_episode(e.id, e.to_bytes())
    page = opened(few.url, f"#/episode/{e.id}", wait=".facts")
    for language in ("en", "fr"):
        page.get_by_role("button", name="Français" if language == "fr" else "English").click()
        text = promise(alarm, audit=audit, n_subjects=1400, language=language)  # type: ignore[arg-type]
        if language == "fr":
            text = text.replace("36.5", "36,5")
        assert plain(page.locator(".facts").last.inner_text()).find(f"{text[0].upper()}{text[1:]}.") > 0


def test_a_promise_of_an_older_gateway_stays_as_it_came_and_says_its_language(few: Collector, opened: Open) -> None:
    e = envelope(3, promise="while calibration is valid, something")
    few.store.put_episode(e.id, e.to_bytes())
    page = opened(few.url, f"#/episode/{e.id}", query="?lang=fr", wait=".facts")
    assert page.locator("dd[lang=en]").inner_text() == "while calibration is valid, something"


def test_no_measure_is_shown_under_its_bare_name(weeks: Path) -> None:
    words = (Path(__file__).resolve().parents[1] / "web/desk/words.ts").read_text()
    known = set(re.findall(r"^  m_(\w+):", words, re.MULTILINE))
    with serving(CollectorSettings(database_url=f"sqlite:///{weeks}")) as collector:
        days = httpx.get(f"{collector.url}/v1/measures?limit=800", trust_env=False).json()["days"]
    names = {name for day in days for name in day["measures"]}
    names |= set(arm_estimates(np.ones((2, 10)), ("paretic", "other")))
    names |= set(legs_estimates(np.ones((2, 12)), ("left", "right"), rate_hz=200))
    assert {n for n in names if n not in known and re.sub("_(left|right|paretic|other)$", "", n) not in known} == set()


def test_a_review_made_here_is_in_the_history_the_audit_and_the_fhir(collector: Collector, opened: Open) -> None:
    id = ids(collector, EPISODES.c.status == "new")[0]
    page = opened(collector.url, f"#/episode/{id}", wait=".review textarea")
    page.get_by_label("Comment", exact=True).fill(f"Seen on the ward. {HOSTILE}")
    page.get_by_role("button", name="Confirm").click()
    page.wait_for_selector("article[data-status=confirmed]")
    assert HOSTILE in page.locator(".history").inner_text() and page.title() != "owned"
    assert page.locator(".history img, .history script").count() == 0
    assert collector.store.status(id) == "confirmed"
    with collector.store.database.reading() as connection:
        events = connection.execute(sa.select(AUDIT.c.detail).where(AUDIT.c.event == "reviewed").order_by(AUDIT.c.n))
        last = json.loads(events.scalars().all()[-1])
    assert (last["episode_id"], last["action"]) == (id, "confirm")
    collector.store.verify_audit()
    page.get_by_role("link", name="FHIR").wait_for()
    href = page.get_by_role("link", name="FHIR").get_attribute("href")
    bundle = httpx.get(f"{collector.url}/{href}", trust_env=False).json()
    (issue,) = (e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DetectedIssue")
    assert issue["status"] == "final"
    page.get_by_role("button", name="Open again").click()
    page.wait_for_selector("article[data-status=new]")
    page.get_by_role("button", name="Dismiss").click()
    page.wait_for_selector("article[data-status=dismissed]")
    assert page.get_by_role("button", name="Only comment").is_disabled()
    assert [r.action for r in collector.store.reviews(id)][-3:] == ["confirm", "reopen", "dismiss"]


def test_what_came_from_elsewhere_stays_text(collector: Collector, opened: Open) -> None:
    trail = [dict(p.model_dump(mode="json"), reasons=[HOSTILE]) for p in envelope(0).trail]
    e = envelope(
        0, sentence=HOSTILE, kinedge_version="<b>1</b>", promise=HOSTILE, trail=trail,
        abstentions=[{"code": "<i>", "sensor": "<i>", "share": 1, "text": {"en": HOSTILE, "fr": HOSTILE}}],
        contributions=[{"sensor": "<u>wrist</u>", "channel": "<u>x</u>", "share": 0.7}],
    )  # fmt: skip
    collector.store.put_episode(e.id, e.to_bytes())
    page = opened(collector.url, "#/?order=oldest", wait="a.line")
    assert HOSTILE in page.locator("a.line").first.inner_text()
    page.locator("a.line").first.click()
    page.wait_for_selector("article.episode")
    page.get_by_text("All answers as a table").click()
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("img, main script, main i:has(u), main u").count() == 0
    assert page.title() != "owned"


def test_the_calendar_says_what_each_day_was_and_leads_to_its_episodes(collector: Collector, opened: Open) -> None:
    page = opened(collector.url, "#/calendar", wait=".calendar .day-lower")
    for kind in ("as_usual", "lower", "unsure", "learning"):
        assert page.locator(f".calendar .day-{kind}").count() > 0, kind
    new = page.locator(".calendar .day:has(.dot-new)").last
    label = new.get_attribute("aria-label")
    assert "to review" in label and re.search(r"worn \d", label)
    cell = new.get_attribute("data-cell")
    new.focus()
    page.keyboard.press("ArrowLeft")
    row, column = cell.split("-")
    assert page.evaluate("document.activeElement.dataset.cell") == f"{row}-{int(column) - 1}"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("a.line")
    assert "since=" in page.url and page.locator("a.line").count() >= 1
    page.go_back()
    page.get_by_role("button", name="12 weeks").click()
    there_are(page, ".calendar tbody tr:first-child .day", 84)


def test_unsure_has_its_own_word_and_shape_in_list_and_calendar(collector: Collector, opened: Open) -> None:
    start = time.time_ns() - 3 * 86_400 * 10**9
    trail = [p.model_dump(mode="json") | {"decision": "unsure"} for p in envelope(0).trail]
    e = envelope(0, start_utc_ns=start, end_utc_ns=start + 10**9, trail=trail)
    collector.store.put_episode(e.id, e.to_bytes())
    page = opened(collector.url, "#/?decision=unsure", wait="a.line")
    mark = page.locator("a.line .decision")
    assert mark.count() == 1 and "decision-unsure" in mark.get_attribute("class")
    assert mark.inner_text().strip().lower() == "unsure"
    page.goto(f"{collector.url}/#/calendar")
    page.wait_for_selector(".calendar .dot-unsure")
    assert "1 unsure" in page.locator(".day:has(.dot-unsure)").first.get_attribute("aria-label")


def test_trends_show_the_persons_own_band_and_the_time_worn(collector: Collector, opened: Open) -> None:
    page = opened(collector.url, "#/person/p-001", wait="[data-measure=use_ratio] canvas")
    shown = page.locator("[data-measure]").evaluate_all("all => all.map(f => f.dataset.measure)")
    assert shown[:3] == ["use_ratio", "active_share", "wear"] and len(shown) == 4
    assert "their usual days" in page.locator("[data-measure=use_ratio]").inner_text()
    assert page.locator(".tag-lower").inner_text().endswith("away from their own trend")
    ratio = page.locator("[data-measure=use_ratio]")
    ratio.get_by_text("As a table").click()
    days = httpx.get(f"{collector.url}/v1/measures?subject=p-001&limit=800", trust_env=False).json()["days"]
    rows = ratio.locator("tbody tr").all_inner_texts()
    assert len(rows) >= 41
    lower = [d for d in days if d["watched"]["state"] == "one_arm_lower"]
    assert sum("away from their own trend" in r for r in rows) == len(lower) >= 1
    value = f"{lower[-1]['measures']['use_ratio']['value']:.2f}"
    assert value in next(r for r in rows if "away from" in r)
    page.get_by_label("Other measures").select_option("sparc_left")
    page.wait_for_selector("[data-measure=sparc_left] canvas")
    page.goto(f"{collector.url}/#/episode/{with_change(collector)}")
    page.wait_for_selector(".day-plot canvas")
    assert "more than" in page.locator(".facts").first.inner_text()


def test_a_shared_desk_asks_for_its_token_and_lets_go_of_it(weeks: Path, tmp_path: Path, opened: Open) -> None:
    shutil.copy(weeks, tmp_path / "desk.db")
    with serving(CollectorSettings(database_url=f"sqlite:///{tmp_path}/desk.db", token=TOKEN)) as collector:
        id = ids(collector, EPISODES.c.status == "new")[0]
        page = opened(collector.url, f"#/episode/{id}", wait=".sign-in")
        page.get_by_label("Access token").fill("not-the-token-of-the-desk")
        page.get_by_role("button", name="Sign in").click()
        page.locator(".field-error", has_text="not accepted").wait_for()
        assert axe_findings(page) == []
        page.get_by_label("Access token").fill(TOKEN)
        page.get_by_label("Your name").fill("B. Petit")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector(f"article[data-id='{id}']")  # the view it was opened for
        assert page.evaluate("document.cookie") == "", "no script reads it"
        assert TOKEN not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
        page.get_by_role("button", name="Dismiss").click()
        page.wait_for_selector("article[data-status=dismissed]")
        assert collector.store.reviews(id)[-1].reviewer == "desk (B. Petit)"
        assert "B. Petit" in page.locator(".history").inner_text()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_selector(".sign-in")
        page.reload()
        page.wait_for_selector(".sign-in")
        assert page.locator("article").count() == 0


def test_somebody_signs_in_at_their_organisation_and_only_reads(weeks: Path, tmp_path: Path, browser: Any) -> None:
    issuer = Issuer("kinedge-reader")
    issuer.seen_as = issuer.url.replace("127.0.0.1", "localhost")  # another site, as a real provider is
    shutil.copy(weeks, tmp_path / "desk.db")
    settings = CollectorSettings(
        database_url=f"sqlite:///{tmp_path}/desk.db", oidc=OidcSettings(issuer=issuer.url, audience="kinedge")
    )
    context = browser.new_context(locale="en-GB")
    with serving(settings) as collector:
        page = context.new_page()
        page.goto(collector.url)
        page.get_by_role("link", name="Sign in with your organisation").click()
        page.wait_for_selector("a.line")
        assert "anna" in page.locator(".who").inner_text()
        page.locator("a.line").first.click()
        page.wait_for_selector(".review")
        assert "You may read" in page.locator(".review").inner_text()
        assert page.locator(".review button").count() == 0
        assert {c["sameSite"] for c in context.cookies() if c["name"] == "kinedge_session"} == {"Strict"}
        issuer.roles = ()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("link", name="Sign in with your organisation").click()
        page.wait_for_selector(".notice")
        assert "no role here" in page.locator(".notice").inner_text()
    context.close()
    issuer.close()


def test_every_view_is_accessible_in_both_languages_and_themes(collector: Collector, opened: Open) -> None:
    moment, change = ids(collector)[0], with_change(collector)
    views = {
        "#/": "a.line",
        "#/calendar": ".calendar .day-lower",
        "#/people": ".person .day-as_usual",
        "#/person/p-001": "[data-measure=wear] canvas",
        "#/person/p-003": "[data-measure=wear] canvas",
        f"#/episode/{moment}": ".signal canvas",
        f"#/episode/{change}": ".day-plot canvas",
    }
    for query, viewport in (("?lang=en", LAPTOP), ("?lang=fr&theme=dark", TABLET)):
        page = opened(collector.url, "#/", query=query, viewport=viewport, wait="a.line")
        for view, wait in views.items():
            page.goto(f"{collector.url}/{query}{view}")
            page.wait_for_selector(wait)
            assert axe_findings(page) == [], (view, query)
            text = page.locator("body").inner_text()
            assert not FORBIDDEN.search(text) and not re.search(r"undefined|NaN|\{\w+\}", text), (view, query)
            width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert width <= 0, (view, "it scrolls sideways")


def test_a_collector_that_goes_away_is_said_and_found_again(collector: Collector, opened: Open) -> None:
    page = opened(collector.url, wait="a.line")
    page.context.set_offline(True)
    page.locator("a.line").first.click()
    page.wait_for_selector(".notice")
    assert "does not answer" in page.locator(".notice").inner_text()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("article.episode")


def test_no_reason_of_unsure_is_shown_under_its_bare_code() -> None:
    words = (Path(__file__).resolve().parents[1] / "web/desk/words.ts").read_text()
    assert set(re.findall(r"^  why_(\w+):", words, re.MULTILINE)) >= set(narrative._UNSURE)
