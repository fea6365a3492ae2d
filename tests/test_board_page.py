"""The board's page in a real browser: what it shows, to whom, and what it never does."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from board_replay import Replay, Server
from browser import LAPTOP, TABLET, Watched, axe_findings, wait_until_true

WORDS = {
    "en": {"normal": "as usual", "anomalous": "different from usual", "unsure": "unsure"},
    "fr": {"normal": "comme d’habitude", "anomalous": "différent de l’habitude", "unsure": "incertain"},
}
VIEWS = {"wall": "#/", "unsure": "#/person/p-003", "different": "#/person/p-002", "board": "#/board"}

Open = Callable[..., Any]


@pytest.fixture
def replay() -> Replay:
    return Replay(people=8)


@pytest.fixture
def server(replay: Replay) -> Iterator[Server]:
    with Server(replay) as running:
        yield running


@pytest.fixture
def opened(browser: Any, server: Server) -> Iterator[Open]:
    """Open a view; at the end no page may have had an error or have asked another host."""
    contexts, pages = [], []

    def go(view: str = "#/", *, query: str = "", viewport: Any = LAPTOP, ready: str = "h1") -> Any:
        context = browser.new_context(viewport=viewport, locale="en-GB", reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(10_000)
        contexts.append(context)
        pages.append(Watched(page, server.url))
        page.goto(f"{server.url}{query}{view}")
        page.wait_for_selector(ready)
        return page

    yield go
    for watched in pages:
        watched.check()
    for context in contexts:
        context.close()


def test_everybody_has_a_tile_with_word_and_shape(opened: Open, replay: Replay) -> None:
    page = opened()
    for person in replay.state["people"]:
        tile = page.locator(f"[data-subject='{person['subject']}']")
        assert tile.get_attribute("data-decision") == person["decision"]
        assert WORDS["en"][person["decision"]] in tile.inner_text().lower()
        assert tile.locator(".decision svg path").count() == 1
    shapes = {
        decision: page.locator(f".tile-{decision} .decision path").first.get_attribute("d") for decision in WORDS["en"]
    }
    assert len(set(shapes.values())) == 3


@pytest.mark.parametrize("view", VIEWS)
def test_a_telephone_shows_all_of_the_header_and_scrolls_no_page_sideways(opened: Open, view: str) -> None:
    page = opened(VIEWS[view], query="?lang=fr", viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    name, choice = (page.locator(which).bounding_box() for which in (".brand", ".top-actions"))
    assert name["x"] + name["width"] <= choice["x"] or name["y"] + name["height"] <= choice["y"]


def test_a_new_answer_is_seen_at_once(opened: Open, replay: Replay) -> None:
    page = opened()
    page.wait_for_selector("[data-subject='p-004'][data-decision='normal']")
    for decision in ("unsure", "anomalous", "normal"):
        replay.change("p-004", decision=decision)
        page.wait_for_selector(f"[data-subject='p-004'][data-decision='{decision}']", timeout=2000)


def test_tiles_keep_their_order_however_the_state_arrives(opened: Open, replay: Replay) -> None:
    people = [p["subject"] for p in replay.state["people"]]
    late, replay.state["people"] = replay.state["people"][:2], replay.state["people"][2:]
    model, replay.state["subjects"] = replay.state.pop("model"), people
    page = opened(ready="[data-connection='open']")
    replay.send("state", {"model": model})
    replay.send("state", {"people": copy.deepcopy(late)})
    page.wait_for_selector(f".tile >> nth={len(people) - 1}")
    assert page.locator(".tile").evaluate_all("tiles => tiles.map(t => t.dataset.subject)") == people
    replay.send("state", {"subjects": people[1:]})
    page.wait_for_selector(f"[data-subject='{people[0]}']", state="detached")


def test_a_wall_can_be_narrowed_to_one_answer(opened: Open, replay: Replay) -> None:
    page = opened()
    page.get_by_role("button", name=re.compile("^unsure", re.I)).click()
    shown = page.locator(".tile").evaluate_all("tiles => tiles.map(t => t.dataset.decision)")
    assert shown and set(shown) == {"unsure"}
    assert len(shown) == sum(p["decision"] == "unsure" for p in replay.state["people"])


def test_old_answers_are_never_shown_as_current_when_the_board_is_gone(
    opened: Open, replay: Replay, server: Server
) -> None:
    page = opened()
    page.wait_for_selector("[data-subject='p-004'][data-decision='normal']")
    replay.down.set()
    page.wait_for_selector("[role=alert] >> text=No connection to the board")
    assert page.locator(".tile:not([data-decision=none])").count() == 0
    assert "No current answer" in page.locator("[data-subject='p-004']").inner_text()
    assert "last: as usual" in page.locator("[data-subject='p-004']").inner_text().lower()
    replay.down.clear()
    page.wait_for_selector("[data-subject='p-004'][data-decision='normal']")
    assert page.locator("[role=alert] >> text=No connection").count() == 0


@pytest.mark.parametrize("view", ["#/", "#/person/p-004"])
def test_somebody_nothing_new_is_heard_of_is_not_as_usual(opened: Open, replay: Replay, view: str) -> None:
    quiet = replay.person("p-004")
    quiet["utc_ns"], quiet["today"]["share"] = time.time_ns() - 60 * 10**9, None
    replay.state["people"] = [quiet]
    replay.tick = lambda second: None  # type: ignore[method-assign]
    page = opened(view)
    page.wait_for_selector("[data-decision='none']")
    assert page.locator("[data-decision='normal']").count() == 0
    assert page.locator(".decision-normal").count() == 0


def test_the_reasons_of_an_unsure_answer_stand_in_their_order(opened: Open, replay: Replay) -> None:
    page = opened("#/person/p-003")
    page.wait_for_selector(".answer[data-decision='unsure']")
    reasons = replay.person("p-003")["reasons"]
    shown = page.locator(".reasons li").all_inner_texts()
    assert shown == [reason["text"]["en"] for reason in reasons]
    assert page.locator(".body-silent").get_attribute("data-sensor") == "wrist_left"
    assert "23 of 30 minutes" in page.locator(".baseline").inner_text()
    assert page.get_by_role("progressbar").get_attribute("aria-valuenow") == "77"


def test_the_body_shows_where_it_differs_and_says_so(opened: Open) -> None:
    page = opened("#/person/p-002")
    page.wait_for_selector(".answer[data-decision='anomalous']")
    assert page.locator(".body-sensor[data-highlight='true']").get_attribute("data-sensor") == "wrist_right"
    most = page.locator(".body-list li").first.inner_text()
    assert "right wrist" in most.lower() and "% of what is unusual" in most


def test_missing_samples_are_gaps(opened: Open, replay: Replay) -> None:
    page = opened("#/person/p-002")
    page.wait_for_selector("[data-sensor='wrist_left'] canvas")
    assert page.locator(".signals canvas").count() == 4
    replay.person("p-002")["sensors"][0]["state"] = "lost"
    replay.tick(1)
    page.wait_for_selector("[data-sensor='wrist_left'] >> text=Nothing is heard from this sensor now.")


@pytest.mark.parametrize(("language", "theme", "viewport"), [("en", "light", LAPTOP), ("fr", "dark", TABLET)])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious_and_text_has_seven_to_one(
    opened: Open, view: str, language: str, theme: str, viewport: Any
) -> None:
    page = opened(VIEWS[view], query=f"?lang={language}&theme={theme}", viewport=viewport)
    page.wait_for_selector(".tile, .answer, .facts")
    assert (page.get_attribute("html", "lang"), page.get_attribute("html", "data-theme")) == (language, theme)
    assert axe_findings(page) == []


def test_axe_finds_nothing_serious_in_a_dialog(opened: Open) -> None:
    page = opened("#/person/p-002")
    for name in ("Assign a sensor", "Learn their usual"):
        page.get_by_role("button", name=name).first.click()
        page.wait_for_selector("dialog[open]")
        assert axe_findings(page) == []
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")


@pytest.mark.parametrize("language", ["en", "fr"])
def test_no_view_speaks_of_what_is_not_known(opened: Open, language: str) -> None:
    page = opened(query=f"?lang={language}")
    for view in VIEWS.values():
        page.goto(page.url.split("#")[0] + view)
        page.wait_for_selector(".tile, .answer, .facts")
        text = page.locator("body").inner_text().lower()
        assert not re.search(r"\brisk|\brisque|diagnos|relapse|rechute", text)


def test_everything_can_be_reached_by_keyboard(opened: Open, replay: Replay) -> None:
    page = opened()
    page.wait_for_selector(".tile")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.subject") == "p-002":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus must be seen"
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer")
    wait_until_true(page, "document.activeElement.tagName === 'H1'")
    for _ in range(20):
        page.keyboard.press("Tab")
        if "Assign" in page.evaluate("document.activeElement.innerText"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.querySelector('dialog[open]').contains(document.activeElement)")
    page.keyboard.press("Escape")
    wait_until_true(page, "document.activeElement.innerText.includes('Assign')")


def test_a_live_region_is_not_flooded(opened: Open, replay: Replay) -> None:
    page = opened()
    page.wait_for_selector("[data-subject='p-004'][data-decision='normal']")
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(region.textContent))"
        ".observe(window.region = document.querySelector('[aria-live=polite]'),"
        " {childList: true, characterData: true, subtree: true})"
    )
    for i in range(20):
        replay.change("p-004", decision=("anomalous", "normal")[i % 2])
        page.wait_for_selector(f"[data-subject='p-004'][data-decision='{('anomalous', 'normal')[i % 2]}']")
    said = [text for text in page.evaluate("said") if text]
    assert said and "p-004: different from usual" in said[0]
    assert len(said) <= 3


HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


def test_hostile_words_stay_words(opened: Open, replay: Replay) -> None:
    both = {"en": HOSTILE, "fr": HOSTILE}
    person = copy.deepcopy(replay.person("p-003"))
    person.update(subject=HOSTILE, sentence=both, promise=both)
    person["reasons"] = [{"code": HOSTILE, "sensor": HOSTILE, "text": both}]
    for sensor in person["sensors"]:
        sensor.update(serial=HOSTILE, place=both)
    replay.state["people"].append(person)
    replay.history[HOSTILE] = []
    replay.state["notes"].append({"utc_ns": time.time_ns(), "text": HOSTILE})
    replay.state["tasks"].append({"name": HOSTILE, "state": "ended", "restarts": 1, "error": HOSTILE})
    replay.state["spare"].append(
        {"where": HOSTILE, "serial": HOSTILE, "sensor": HOSTILE, "subject": None, "state": "silent", "battery": None}
    )
    page = opened()
    assert HOSTILE in page.locator(".tile").last.inner_text()
    page.locator(".tile").last.click()
    page.wait_for_selector(".answer")
    assert HOSTILE in page.locator(".answer").inner_text()
    assert HOSTILE in page.locator(".sensors").inner_text()
    page.get_by_role("button", name="Assign a sensor").click()
    page.wait_for_selector("dialog[open] .devices li")
    page.keyboard.press("Escape")
    page.goto(page.url.split("#")[0] + "#/board")
    page.wait_for_selector(".notes")
    assert HOSTILE in page.locator(".notes").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, main script").count() == 0


def test_what_a_person_asks_for_is_asked_of_the_board(opened: Open, replay: Replay) -> None:
    page = opened("#/person/p-002")
    page.get_by_role("button", name="Learn their usual").click()
    page.get_by_label("Minutes of movement").fill("20")
    page.get_by_role("button", name="Start learning").click()
    page.wait_for_selector("dialog[open]", state="detached")
    page.get_by_role("button", name="Mute 15 min").click()
    page.get_by_role("button", name="Assign a sensor").click()
    page.get_by_label("Place on the body").select_option("wrist_left")
    page.get_by_role("button", name="Find by tapping").click()
    page.get_by_role("button", name="Assign KE-900 to p-002").click()
    wait_until_true(page, "!document.querySelector('dialog[open] .devices button[disabled]')")
    assert replay.asked == [
        ("/api/people/p-002/enrolment", {"action": "start", "minutes": 20}),
        ("/api/people/p-002/mute", {"minutes": 15}),
        ("/api/sensors/identify", {"subject": "p-002", "sensor": "wrist_left"}),
        ("/api/sensors/assign", {"where": "ble:KE-SPARE", "subject": "p-002"}),
    ]


def test_stopping_takes_the_name_of_the_gateway(opened: Open, replay: Replay) -> None:
    page = opened("#/board")
    page.get_by_role("button", name="Stop the board").click()
    really = page.locator("dialog[open]").get_by_role("button", name="Stop the board")
    page.get_by_label("to confirm").fill("gw-0")
    assert really.is_disabled()
    page.get_by_label("to confirm").fill("gw-01")
    really.click()
    page.wait_for_selector("dialog[open]", state="detached")
    assert replay.asked == [("/api/stop", {"confirm": "gw-01"})]


def test_a_board_that_asks_for_a_token_shows_nothing_before(opened: Open, replay: Replay) -> None:
    replay.token = "right"
    page = opened()
    assert page.locator(".tile").count() == 0 and "gw-01" not in page.content()
    assert axe_findings(page) == []
    page.get_by_label("Access token").fill("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=This token is not accepted.")
    page.get_by_label("Access token").fill("right")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tile")


def test_language_and_theme_are_remembered(opened: Open) -> None:
    page = opened()
    page.get_by_role("button", name="français").click()
    page.get_by_role("button", name="Thème").click()
    page.reload()
    page.wait_for_selector(".tile")
    assert page.get_attribute("html", "lang") == "fr"
    assert page.get_attribute("html", "data-theme") == "dark"
    text = page.locator("[data-subject='p-003']").inner_text().lower()
    assert WORDS["fr"]["unsure"] in text


def pose_of(state: str, number: int = 1, *, why: tuple[str, str] = ("", ""), still_s: float = 0.0) -> dict[str, Any]:
    names = {"wrist_left": "left wrist", "wrist_right": "right wrist"}
    return {
        "state": state, "purpose": "align", "number": number, "of": 4, "pose": "down", "hold_s": 5.0,
        "name": {"en": "arms down", "fr": "bras le long du corps"}, "seconds_left": 8.5,
        "instruction": {"en": "Let both arms hang.", "fr": "Laissez pendre les deux bras."},
        "text": {"en": f"what {state} means", "fr": f"ce que {state} veut dire"},
        "sensors": [
            {"sensor": s, "place": {"en": place, "fr": place}, "still_s": still_s, "why": w, "angle_deg": None,
             "error_deg": None, "text": {"en": "it moves" if w else "still", "fr": ""}}
            for (s, place), w in zip(names.items(), why, strict=True)
        ],
    }  # fmt: skip


def test_somebody_is_led_through_the_poses_and_told_which_sensor_moves(opened: Open, replay: Replay) -> None:
    page = opened("#/person/p-002")
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(region.textContent))"
        ".observe(window.region = document.querySelector('[aria-live=polite]'),"
        " {childList: true, characterData: true, subtree: true})"
    )
    page.get_by_role("button", name="Sensors put on again").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert axe_findings(page) == []
    page.get_by_role("button", name="Begin the poses").click()
    replay.change("p-002", pose=pose_of("ready"))
    page.wait_for_selector("[data-pose-state=ready] >> text=Let both arms hang.")
    assert page.get_by_role("heading", name="Pose 1 of 4").count() == 1
    assert "in 9\u00a0s" in page.locator(".pose-count").inner_text()
    wait_until_true(page, "said.join(' ').includes('Let both arms hang.')")
    replay.change("p-002", pose=pose_of("hold", why=("", "moving"), still_s=2.0))
    page.wait_for_selector("[data-pose-state=hold] li[data-sensor=wrist_right][data-why=moving]")
    assert "it moves" in page.locator("li[data-sensor=wrist_right]").inner_text().lower()
    assert page.get_by_role("progressbar").last.get_attribute("aria-valuenow") == "40"
    assert axe_findings(page) == []
    replay.change("p-002", pose=pose_of("stuck", why=("", "moving")))
    page.wait_for_selector("[data-pose-state=stuck] [role=alert] >> text=what stuck means")
    assert axe_findings(page) == []
    page.get_by_role("button", name="Repeat this pose").click()
    page.get_by_role("button", name="Go on without").click()
    wait_until_true(page, "!document.querySelector('dialog[open] button[disabled]')")
    replay.change("p-002", pose=pose_of("done", 4))
    page.wait_for_selector("[data-pose-state=done] >> text=what done means")
    assert axe_findings(page) == []
    page.get_by_role("button", name="Done", exact=True).click()
    page.wait_for_selector("dialog[open]", state="detached")
    path = "/api/people/p-002/pose"
    assert replay.asked == [(path, {"action": a}) for a in ("start", "repeat", "go_on", "cancel")]
    assert "it moves" not in " ".join(page.evaluate("said"))


def test_who_has_no_poses_is_not_asked_for_them(opened: Open) -> None:
    page = opened("#/person/p-004")
    page.wait_for_selector(".baseline")
    assert page.get_by_role("button", name="Sensors put on again").count() == 0
