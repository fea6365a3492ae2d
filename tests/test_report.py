"""Report and data sheet: true figures, one file that needs nothing else, and nothing that could run."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kinedge.arrays import arrays_to_npz
from kinedge.bundle import CALIBRATION_NAME, Bundle, read_bundle
from kinedge.cli import main
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.coordination import Coordination
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError, SignalError
from kinedge.quantize.build import BuildConfig, Built, build_bundle, held_out, split_parts
from kinedge.quantize.documents import report_source, write_datasheet
from kinedge.quantize.parts import split_in_time
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.datasheet import datasheet_markdown
from kinedge.training.evaluate import poisson_interval
from kinedge.training.figures import student_t_quantiles
from kinedge.training.fit import FitConfig
from kinedge.training.own import OnDisk, find_people
from kinedge.training.report import ReportSource, render_report, write_report
from kinedge.training.simulate import SimulationConfig, simulate
from kinedge.training.study import study, synthetic_kinds

QUICK = FitConfig(max_epochs=2, steps_per_epoch=10, window=128, batch=4, width=6, var_order=4, dilations=(1, 4))
CONFIG = BuildConfig(name="tiny", shares=(0.2, 0.4, 0.2), fit=QUICK)
FREEZE = Region(1500, 1900, "freeze")


@pytest.fixture(scope="module")
def people() -> list[Recording]:
    recordings = [simulate(SimulationConfig(subject_seed=s, duration_s=80)) for s in range(5)]
    return [replace(r, labels=(FREEZE,)) for r in recordings]


@pytest.fixture(scope="module")
def built(people: list[Recording]) -> Built:
    return build_bundle(people, CONFIG, command="kinedge train tiny.toml", made_s=1_700_000_000)


@pytest.fixture(scope="module")
def source(built: Built, people: list[Recording]) -> ReportSource:
    return report_source(built, people, CONFIG)


@pytest.fixture(scope="module")
def html(source: ReportSource) -> str:
    return render_report(source)


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_that_loads_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    addresses = [a.get("src") or a.get("href") for _, a in page.tags if a.get("src") or a.get("href")]
    assert addresses
    assert all(a is not None and a.startswith("data:image/svg+xml;base64,") for a in addresses)
    assert "url(http" not in html
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    for address in addresses:
        svg = base64.b64decode(str(address).partition(",")[2]).decode()
        assert svg.startswith("<svg")
        assert not re.search(r"""(href|src)=["']https?:""", svg)


def test_the_report_says_what_was_measured(html: str, source: ReportSource, built: Built) -> None:
    text = re.sub(r"\s+", " ", Page(html).text)
    assert f"{built.fit.val_nll:.3f}".replace("-", "−") in text
    assert f"{built.fit.linear_val_nll:.3f}".replace("-", "−") in text
    assert built.bundle.digest in text
    assert "kinedge train tiny.toml" in text
    for subject in source.study.subjects:
        assert subject.subject in text
    assert "had no part in training, stopping or calibration" in text
    for word in ("diagnosis of", "at risk", "abnormal"):
        assert word not in text
    for kind in synthetic_kinds():
        assert kind.replace("_", " ") in text


def test_the_report_says_what_lost_packets_do_to_the_model(html: str, built: Built) -> None:
    scorer = Scorer(built.bundle)
    text = re.sub(r"\s+", "", Page(html).text)
    for sensor, (_, slope, own, others, lessens, by_others) in zip(
        scorer.sensors, scorer.calibration.likelihood, strict=True
    ):
        cells = []
        for share in (0.1, 0.3):
            added = "–" if slope <= 0 else f"{-(own + others) * share**0.5 / slope:.2f}"
            cells += [added, f"{100 / (1 + (lessens + by_others) * share):.0f}%"]
        assert "".join([sensor.replace("_", ""), *cells]) in text
    assert (scorer.calibration.likelihood[:, 4:] > 0).any()


def test_the_report_says_how_the_sensors_move_together(source: ReportSource, built: Built) -> None:
    calibration = Scorer(built.bundle).calibration
    found = Scorer(read_bundle(DEFAULT_BUNDLE)).calibration.coordination  # of two wrists, as here
    assert found is not None

    def told(coordination: Coordination | None) -> str:
        arrays = replace(calibration, coordination=coordination).to_arrays()
        parts = {**built.bundle.parts, CALIBRATION_NAME: arrays_to_npz(arrays)}
        return render_report(replace(source, bundle=Bundle(built.bundle.manifest, parts, built.bundle.digest)))

    lines, weights = found.lines, found.weights
    middle = len(lines.levels) // 2
    text = re.sub(r"\s+", "", Page(told(found)).text)
    for i, sensor in enumerate(Scorer(built.bundle).sensors):
        least, most = (np.exp((q - lines.middle)[middle, i] / 2) for q in (lines.low, lines.high))
        assert 0 < least < 1 < most
        row = f"{sensor.replace('_', '')}×{least:.2f}×{most:.2f}{weights.weight[i]:.2f}{weights.late_weight[i]:.2f}"
        assert row in text
    # bundles made before know nothing of it
    assert "move together" not in told(None)


def test_markup_in_names_stays_text_and_many_subjects_are_shown_as_far_as_there_is_room(source: ReportSource) -> None:
    evil = "<script>alert(1)</script>"
    (first, *_) = source.study.subjects
    many = tuple(replace(first, subject=f"{evil}{i}") for i in range(60))
    examples = tuple(replace(e, recording=replace(e.recording, subject=evil)) for e in source.study.examples[:1])
    html = render_report(replace(source, study=replace(source.study, subjects=many, examples=examples)))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 40 + 2
    assert "Shown are the 40 with the highest rates" in html


def test_the_study_knows_only_people_who_were_held_out(source: ReportSource, built: Built) -> None:
    tested = {r.subject for r in built.parts.test}
    used = {r.subject for name, rs in built.parts.items() if name != "test" for r in rs}
    assert {s.subject for s in source.study.subjects} == tested
    assert not tested & used
    assert {e.recording.subject for e in source.study.examples} <= tested


def test_the_study_agrees_with_the_bundle_and_keeps_events_out_of_ordinary_movement(
    source: ReportSource, built: Built
) -> None:
    total = source.study.ordinary
    assert built.bundle.manifest.quality["test_false_episodes"] == total.n_false
    seconds = sum(len(r) - 400 for r in built.parts.test) / 50
    assert total.hours == pytest.approx(seconds / 3600)
    (freezes,) = [k for k in source.study.kinds if k.strength is None]
    assert (freezes.kind, freezes.metrics.n_events) == ("freeze", len(built.parts.test))
    # blocks that look back into the freeze, or that are not whole yet, are no ordinary ones
    rf, block = built.bundle.manifest.receptive_field, built.bundle.manifest.block
    per_test = sum(1 for end in range(50, 4001, 50) if end >= rf + block and not 1500 <= end < 1900 + rf + block)
    assert sum(len(s.p_values) for s in source.study.subjects) == pytest.approx(per_test * len(built.parts.test), abs=2)
    z = source.study.residuals.reshape(len(built.parts.test), -1, 12)
    assert np.isnan(z[:, 1500:1900]).all()
    assert np.isfinite(z[:, 1000:1500]).any()


def test_every_kind_is_tried_weak_and_clear_and_examples_show_both_outcomes(source: ReportSource) -> None:
    tried = {(k.kind, k.strength): k.metrics for k in source.study.kinds if k.strength is not None}
    assert set(tried) == {(k, s) for k in synthetic_kinds() for s in (0.4, 1.0)}
    assert all(m.n_events == len(source.study.subjects) for m in tried.values())
    assert tried["noise_burst", 1.0].n_found > 0
    outcomes = [e.outcome for e in source.study.examples]
    assert outcomes.count("found") == 3
    assert 1 <= outcomes.count("missed") <= 3
    for e in source.study.examples:
        if e.outcome == "found":
            assert e.event is not None
            assert any(a < e.event[1] + 2 and b > e.event[0] for a, b in e.episodes)
        if e.event is not None:
            assert 0 <= e.event[0] < e.event[1] <= e.recording.duration_s
        assert sum(e.channel_share.values()) == pytest.approx(1, abs=1e-6)


def test_in_a_cross_split_everybody_is_judged_by_others_alone(people: list[Recording]) -> None:
    config = CONFIG.model_copy(update={"split": "cross", "fit": QUICK.model_copy(update={"max_epochs": 0})})
    three = [r.select(r.sensors[:1]) for r in people[:3]]
    built = build_bundle(three, config)
    held = held_out(built, config)
    assert [{r.subject for r in rs} for rs, _ in held] == [{r.subject} for r in three]
    own = Scorer(built.bundle).calibration.reference
    for _, scorer in held:
        assert len(scorer.calibration.reference) < len(own)
    found = study(held, exclude_labels=config.exclude_labels)
    assert [s.subject for s in found.subjects] == [r.subject for r in three]


def test_a_model_nobody_was_held_out_of_says_so(people: list[Recording], built: Built) -> None:
    nobody = replace(built, parts=replace(built.parts, test=()))
    source = report_source(nobody, people, CONFIG)
    assert source.study.subjects == ()
    assert "Nobody was held out" in Page(render_report(source)).text


def test_a_report_is_written_whole_and_its_bytes_follow_from_its_source(
    source: ReportSource, html: str, tmp_path: Path
) -> None:
    write_report(tmp_path / "a" / "r.html", source)
    assert (tmp_path / "a" / "r.html").read_text() == html
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["r.html"]


def test_finding_everything_by_flagging_always_is_said_in_the_first_lines(source: ReportSource) -> None:
    (first, *_) = source.study.subjects
    always = replace(first, metrics=replace(first.metrics, flagged_s=0.9 * 3600 * first.metrics.hours))
    brief = replace(source.study, subjects=(always,), examples=())
    text = re.sub(r"\s+", " ", Page(render_report(replace(source, study=brief))).text)
    assert "But 90 % of all other time was flagged too" in text.partition("What it was made from")[0]
    calm = replace(first, metrics=replace(first.metrics, flagged_s=0.0))
    assert "But" not in Page(render_report(replace(source, study=replace(brief, subjects=(calm,))))).text


def test_a_place_that_cannot_be_written_is_one_clear_error(source: ReportSource, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    brief = replace(source, study=replace(source.study, subjects=(), examples=(), kinds=(), residuals=np.zeros((0, 0))))
    with pytest.raises(ConfigError, match="give --report another place"):
        write_report(tmp_path / "file" / "r.html", brief)


def test_the_data_sheet_tells_sources_people_hours_gaps_and_cuts(source: ReportSource, built: Built) -> None:
    sheet = source.sheet
    (simulator,) = sheet["sources"]
    assert (simulator["name"], simulator["subjects"], simulator["recordings"]) == ("kinedge simulator", 5, 5)
    assert [p["part"] for p in sheet["parts"]] == ["training", "stopping", "calibration", "test"]
    assert sum(p["hours"] for p in sheet["parts"]) == pytest.approx(5 * 80 / 3600, abs=2e-3)
    assert sorted(s for p in sheet["parts"] for s in p["subjects"]) == [f"sim{k}" for k in range(5)]
    assert sheet["excluded_labels"] == {"freeze": {"regions": 5, "seconds": 40.0}}
    for i, sensor in enumerate(("wrist_left", "wrist_right")):
        missing = np.mean([1 - r.valid[:, 6 * i : 6 * i + 6].mean() for _, rs in built.parts.items() for r in rs])
        assert sheet["sensors"][i]["name"] == sensor
        assert sheet["sensors"][i]["missing_share"] == pytest.approx(missing, abs=1e-4)
    assert sheet["augmentation"]["sensor_dropout"] == QUICK.sensor_dropout
    json.dumps(sheet)
    readable = datasheet_markdown(sheet)
    assert "| freeze | 5 | 40 |" in readable
    assert "Licence" in readable


def test_public_data_sets_bring_their_licence_and_citation(
    source: ReportSource, built: Built, people: list[Recording]
) -> None:
    raw = [replace(people[0], source="daphnet/S01R01", notes={"clock": "none"}), replace(people[1], source="own/x")]
    sheet = report_source(replace(built, parts=replace(built.parts, test=())), raw, CONFIG).sheet
    daphnet, own = sheet["sources"]
    assert daphnet["licence"] == "CC BY 4.0"
    assert "2010" in daphnet["citation"]
    assert own["licence"] == "not stated"
    assert sheet["notes"] == ["clock: none"]
    assert sheet["people"]["consent_and_ethics"].startswith("not known")


def test_the_data_sheet_is_written_twice_for_machines_and_for_people(source: ReportSource, tmp_path: Path) -> None:
    paths = write_datasheet(tmp_path / "m.datasheet.json", source.sheet)
    assert [p.name for p in paths] == ["m.datasheet.json", "m.datasheet.md"]
    assert json.loads(paths[0].read_text())["schema"] == "kinedge.datasheet/1"
    with pytest.raises(ConfigError, match="give --out another place"):
        write_datasheet(tmp_path / "nowhere" / "m.json", source.sheet)


@pytest.mark.parametrize(
    ("nu", "p", "quantile"),
    # Abramowitz & Stegun, table 26.10
    [(3, 0.95, 2.353), (3, 0.99, 4.541), (5, 0.975, 2.571), (10, 0.999, 4.144), (30, 0.75, 0.683), (3, 0.05, -2.353)],
)
def test_student_t_quantiles_are_those_of_the_tables(nu: float, p: float, quantile: float) -> None:
    assert student_t_quantiles(nu, np.array([p]))[0] == pytest.approx(quantile, abs=2e-3)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39)])
def test_poisson_intervals_are_the_exact_ones(count: int, low: float, high: float) -> None:
    assert poisson_interval(count) == pytest.approx((low, high), abs=2e-3)


def numbered(n: int, *, subject: str = "one") -> Recording:
    """Sample values tell where in the recording they stand."""
    x = np.arange(n, dtype=np.float32)[:, None]
    return Recording((SensorSpec("hip", ("acc_x",)),), 50.0, x, np.ones((n, 1), bool), subject=subject)


def bounds(parts: Sequence[Sequence[Recording]]) -> list[list[tuple[float, float]]]:
    return [[(float(r.values[0, 0]), float(r.values[-1, 0])) for r in part] for part in parts]


def test_a_personal_split_goes_in_the_order_of_time_with_gaps() -> None:
    parts = split_in_time([numbered(1000)], (0.1, 0.2, 0.3), gap=20)
    assert bounds(parts) == [[(0, 399)], [(420, 499)], [(520, 699)], [(720, 999)]]
    # a recording that begins in a part needs no gap before it
    parts = split_in_time([numbered(500), numbered(500)], (0.5, 0.0, 0.2), gap=20)
    assert bounds(parts) == [[(0, 299)], [(320, 499), (0, 299)], [], [(320, 499)]]
    with pytest.raises(SignalError, match="too few"):
        split_in_time([numbered(60)], (0.2, 0.2, 0.2), gap=20)
    two = [numbered(500), numbered(500, subject="two")]
    with pytest.raises(SignalError, match="one person's recordings, got those of one, two"):
        split_parts(two, BuildConfig(split="personal", fit=QUICK))


def write_csv(path: Path, seed: int) -> None:
    r = simulate(SimulationConfig(duration_s=30, subject_seed=seed, sensors=("wrist_left",)))
    path.parent.mkdir(parents=True, exist_ok=True)
    units = ["m_s2"] * 3 + ["rad_s"] * 3
    heading = ["time_s", *(f"{c[:-2]}_{u}.{c[-1]}" for c, u in zip(r.channel_names, units, strict=True))]
    rows = [f"{i / 50:.2f}," + ",".join(f"{v:.6g}" for v in row) for i, row in enumerate(r.values)]
    path.write_text("\n".join([",".join(heading), *rows]) + "\n")


def test_recordings_of_ones_own_are_found_by_person(tmp_path: Path) -> None:
    write_csv(tmp_path / "anna" / "b.csv", 1)
    write_csv(tmp_path / "anna" / "a.csv", 2)
    write_csv(tmp_path / "ben" / "day" / "x.csv", 3)
    people = find_people(tmp_path, rate_hz=50.0)
    assert {name: [p.as_posix() for p in s.paths] for name, s in people.items()} == {
        "anna": ["anna/a.csv", "anna/b.csv"],
        "ben": ["ben/day/x.csv"],
    }
    first, second = people["anna"]()
    assert (first.subject, first.session, first.source) == ("anna", "a", "own recordings/anna/a.csv")
    assert len(first) == len(second) == 1500
    session = tmp_path / "monday" / "0915"
    session.mkdir(parents=True)
    for facts, person in (({"facts": {"subject": "ben"}}, "ben"), ({}, "monday"), ([], "monday")):
        (session / "session.json").write_text(json.dumps(facts))
        assert Path("monday/0915") in find_people(tmp_path, rate_hz=50.0)[person].paths
    key = people["anna"].key()
    assert key == OnDisk("anna", tmp_path, people["anna"].paths, 50.0).key()
    write_csv(tmp_path / "anna" / "a.csv", 5)
    with (tmp_path / "anna" / "a.csv").open("a") as file:
        file.write("\n")
    assert people["anna"].key() != key
    with pytest.raises(SignalError, match="no recording in it"):
        find_people(tmp_path / "anna" / "nothing", rate_hz=50.0)


def test_train_writes_bundle_report_and_data_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "t.toml"
    config.write_text(
        "[simulated]\nsubjects = 1\nsessions = 2\nminutes = 1.7\n[bundle]\nname = 'own'\nsplit = 'personal'\n"
        "[bundle.fit]\nmax_epochs = 1\nsteps_per_epoch = 3\nwindow = 64\nbatch = 4\nwidth = 6\nvar_order = 4\n"
        "dilations = [1, 4]\n"
    )
    out, page = tmp_path / "m.kinedge", tmp_path / "docs" / "page.html"
    assert main(["train", str(config), "--out", str(out), "--report", str(page), "--device", "auto", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["documents"] == [
        str(page),
        str(out.with_suffix(".datasheet.json")),
        str(out.with_suffix(".datasheet.md")),
    ]
    assert "It may still be the same day" in page.read_text()
    assert all(Path(p).exists() for p in facts["documents"])
    assert not out.with_name("m.kinedge.checkpoints").exists()
    assert main(["train", str(tmp_path), "--out", str(out)]) == 1
    assert "is a folder" in capsys.readouterr().err
