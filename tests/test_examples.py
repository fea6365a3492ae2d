"""Each script of ``examples/`` runs as it is, is short, and does what its first line says."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from collector_server import serving
from sample_episodes import sample_raw
from test_collector import envelope

from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return int(ended.value.code or 0)


def assert_printed_as_the_page_says(told: str) -> None:
    """The page shows this output: the same words (channels may tie), and about the same numbers."""
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    shown = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    number = re.compile(r"\d+(?:\.\d+)?")
    (same,) = [s for s in shown if sorted(number.sub("#", s).split()) == sorted(number.sub("#", told).split())]
    for a, b in zip(number.findall(same), number.findall(told), strict=True):
        assert float(a) == pytest.approx(float(b), rel=0.03, abs=1.0)


def test_there_are_five_short_scripts_with_a_line_that_runs_them() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 5
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, script.name
        assert f"python examples/{script.name}" in text, script.name


def test_a_csv_file_is_scored_and_the_change_that_was_put_in_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score_a_recording.py", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    at = [float(line.split()[0]) for line in lines if "anomalous" in line]
    assert any(14 <= t <= 24 for t in at), lines
    assert "unsure" in lines[0], "the first answer is never normal: too little was seen"


def test_a_described_board_is_decoded_and_every_lost_sample_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("decode_your_own_device.py", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "96 samples, 4 lost" in told
    assert "9.81" in told


def test_a_person_compared_with_themselves_is_told_normal_more_often(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("enrol_and_compare.py", "3", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert_printed_as_the_page_says(told)
    cohort, own = (float(x) for x in re.findall(r"normal ([\d.]+)%", told))
    assert own > cohort


def test_an_alarm_is_explained_in_two_languages_and_names_the_sensor_that_was_spoilt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain_an_alarm.py", "0", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    (side,) = re.findall(r"put in there: \w+ at wrist_(left|right)\n", told)
    assert f"en: The {side} wrist" in told
    assert f"fr: Le poignet {'gauche' if side == 'left' else 'droit'}" in told


def test_episodes_are_listed_and_saved_and_a_second_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/collector.db"
    raw = sample_raw(1)
    store = CollectorStore(url)
    for i, samples in ((0, None), (1, raw)):
        e = envelope(i, raw=samples)
        store.put_episode(e.id, e.to_bytes())
        if samples is not None:
            store.put_raw(e.id, samples)
    store.close()
    with serving(CollectorSettings(database_url=url)) as collector:
        assert run("export_from_a_collector.py", collector.url, str(tmp_path / "out"), monkeypatch=monkeypatch) == 0
        assert "2 new episodes; 2 rows" in capsys.readouterr().out
        assert run("export_from_a_collector.py", collector.url, str(tmp_path / "out"), monkeypatch=monkeypatch) == 0
    saved = sorted(p.name.partition(".")[2] for p in (tmp_path / "out").glob("*.*"))
    assert saved == ["csv", "fhir.json", "fhir.json", "json", "json", "raw"]
    bundles = [json.loads(p.read_bytes()) for p in (tmp_path / "out").glob("*.fhir.json")]
    assert {b["resourceType"] for b in bundles} == {"Bundle"}
