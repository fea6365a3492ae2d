"""How a session begins: whose calibration counts, how old it is, and which devices changed hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kinedge.edge.beginnings import WORN, Wearers, beginnings
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.people import People
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.recording import Recording

MADE_S = 1_780_000_000.0


@pytest.fixture(scope="module")
def people(scorer: Scorer, person: Callable[..., Recording]) -> People:
    enrolment = enrol_recordings(scorer, [person(150.0)], subject="p-001", allow_short=True, made_s=MADE_S)
    return People(scorer, ["p-001", "p-002"], {"p-001": enrolment})


def test_a_session_says_how_old_a_calibration_is_and_that_it_has_to_be_validated_anew(people: People) -> None:
    own, cohort = beginnings(people, {"p-001": "at most one"}, now_utc_s=MADE_S + 3.2 * 86_400)
    assert own.age_days == pytest.approx(3.2) and own.enrolled_utc == "2026-05-28T20:26:40Z"
    assert "3 days old" in own.sentence() and own.sentence().endswith("ten minutes were heard; then: at most one.")
    assert own.audit in own.sentence()
    assert "compared with the cohort" in cohort.sentence() and cohort.age_days is None
    before, _ = beginnings(people, {}, now_utc_s=0.0)
    assert before.age_days == 0 and "nothing is promised" in before.sentence()


def test_a_device_that_changes_hands_leaves_a_row_that_outlives_the_session(people: People, tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        wearers = Wearers(store.events(WORN))
        first = wearers.met("p-001", "wrist_left", "A1", people)
        assert first is not None and first["before"] is None
        assert first["calibration"] == people.enrolments["p-001"].digest
        assert wearers.met("p-001", "wrist_left", "A1", people) is None
        assert wearers.met("p-002", "wrist_left", "", people) is None  # it cannot be told from another
        store.record_event(WORN, first)
    with EpisodeStore(tmp_path / "edge.db") as store:
        wearers = Wearers(store.events(WORN))
        assert wearers.met("p-001", "wrist_left", "A1", people) is None
        handed = wearers.met("p-002", "wrist_left", "A1", people)
        assert handed is not None and (handed["before"], handed["calibration"]) == ("p-001", "cohort")
        back = wearers.met("p-001", "wrist_left", "A1", people)
        assert back is not None and back["before"] == "p-002"
