"""Matching episodes with events: what counts as found, as false, as late, as crying wolf."""

from __future__ import annotations

import pytest

from kinedge.recording import Region
from kinedge.training.evaluate import EpisodeMetrics, FoundEpisode, match_events

RATE = 50.0


def event(start_s: float, end_s: float, label: str = "x@wrist_left") -> Region:
    return Region(round(start_s * RATE), round(end_s * RATE), label)


def match(episodes: list[FoundEpisode], events: list[Region]) -> EpisodeMetrics:
    return match_events(
        episodes, events, rate_hz=RATE, duration_s=100.0, place_of=lambda r: r.label.partition("@")[2] or None
    )


def test_an_episode_that_overlaps_an_event_finds_it_and_its_delay_runs_to_the_opening() -> None:
    m = match([FoundEpisode(19, 31, 23, "wrist_left")], [event(20, 30)])
    assert (m.n_events, m.n_found, m.n_false) == (1, 1, 0)
    assert m.delays_s == [3]
    assert (m.n_placed, m.n_placeable) == (1, 1)
    assert m.hours == pytest.approx(90 / 3600)
    assert m.flagged_s == pytest.approx(2)


def test_an_episode_that_opens_just_after_an_event_still_finds_it_and_a_later_one_is_false() -> None:
    assert match([FoundEpisode(30.5, 33, 31.5)], [event(20, 30)]).n_found == 1
    late = match([FoundEpisode(33, 36, 34)], [event(20, 30)])
    assert (late.n_found, late.n_false) == (0, 1)


def test_the_wrong_sensor_is_not_counted_as_placed() -> None:
    m = match([FoundEpisode(20, 30, 22, "wrist_right")], [event(20, 30)])
    assert (m.n_placed, m.n_placeable) == (0, 1)


def test_one_endless_episode_finds_everything_and_shows_as_flagged() -> None:
    m = match([FoundEpisode(0, 100, 1)], [event(20, 30), event(60, 70)])
    assert m.n_found == 2
    assert m.summary()["flagged_share_outside_events"] == 1.0
    assert m.summary()["median_delay_s"] == 0.0


def test_figures_of_several_recordings_add_up() -> None:
    total = EpisodeMetrics()
    total += match([FoundEpisode(20, 30, 22)], [event(20, 30)])
    total += match([FoundEpisode(50, 60, 52)], [event(20, 30)])
    s = total.summary()
    assert (s["events"], s["found"], s["false_episodes"]) == (2, 1, 1)
    assert s["false_per_hour"] == pytest.approx(1 / (180 / 3600))
    assert EpisodeMetrics().summary()["median_delay_s"] is None
