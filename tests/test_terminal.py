"""What a terminal shows: whole labels on a narrow one, and episodes by the digits that stand in their table."""

from __future__ import annotations

import io
import json
from collections import deque
from pathlib import Path

import pytest
from rich.console import Console
from sample_episodes import sample_fields

from kinedge.cli.app import main
from kinedge.cli.live import LiveView, Track
from kinedge.edge.offline import verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.recording import Recording


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_live_view_keeps_its_labels_and_sentences_whole_on_a_narrow_terminal(
    scorer: Scorer, person: object, width: int
) -> None:
    recording = person(12.0)  # type: ignore[operator]
    assert isinstance(recording, Recording)
    track = Track(scores=deque([0.5] * 60), verdict=verdicts_of(scorer, recording)[-1])
    names = [f"{sensor} {quantity}" for sensor in ("wrist_left", "wrist_right") for quantity in ("acc", "gyr")]
    for name in names:
        track.signals[name] = deque([1.0, 9.0] * 30)
    out = io.StringIO()
    caution = "a missed change weighs as much as a false call: normal is said from a belief of 0.10 on, else unsure"
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    console.print(LiveView("kinedge http://127.0.0.1:9464", caution=caution).person("p-001", track, width=width))
    told = out.getvalue()
    assert max(map(len, told.splitlines())) <= width
    assert "…" not in told
    words = " ".join(told.replace("│", " ").split())
    for whole in (*names, "1 = 99 % of the cohort", "different 0.", "caution a missed change", "else unsure"):
        assert whole in words


def test_an_episode_is_shown_by_the_digits_that_stand_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        ids = [store.commit(sample_fields(i), None).id for i in range(3)]
    assert main(["episodes", ids[1][:12], "--store", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == ids[1]
    assert main(["episodes", "", "--store", str(path)]) == 1
    assert "several episodes begin so" in capsys.readouterr().err
    assert main(["episodes", "0" * 12, "--store", str(path)]) == 1
    assert "no such episode" in capsys.readouterr().err
