"""kinedge quantize: a bundle with an int8 model, its own calibration, and the proof that all forms answer the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinedge.bundle import Bundle, pack_bundle, read_bundle
from kinedge.cli import main
from kinedge.cli import quantize as command
from kinedge.edge import reliability
from kinedge.edge.backends import OnnxBackend
from kinedge.edge.calibration import Calibration
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.native import library
from kinedge.edge.offline import align_recording, verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.errors import BackendError, BundleError, SignalError
from kinedge.quantize.build import BuildConfig, complete
from kinedge.quantize.follow import follow_calibration
from kinedge.quantize.parity import Proof, TorchBackend, prove, tampered
from kinedge.quantize.parity_table import as_html, as_markdown
from kinedge.quantize.parts import Parts
from kinedge.quantize.qat import QatConfig
from kinedge.quantize.restore import restore_model
from kinedge.quantize.variants import Int8Config, Quantised, add_precisions, same_recordings
from kinedge.training.cohort import calibrate_cohort
from kinedge.training.datasets import load_gait_healthy
from kinedge.training.fit import FitConfig, fit
from kinedge.training.simulate import SimulationConfig, simulate

LABELS = ("freeze", "anomaly:*")


@pytest.fixture(scope="module")
def parts(bundle: Bundle) -> Parts:
    specs = bundle.manifest.sensor_specs
    people = [simulate(SimulationConfig(subject_seed=600 + s, duration_s=75)).select(specs) for s in range(5)]
    return Parts(people[:1], people[1:2], people[2:4], people[4:])


@pytest.fixture(scope="module")
def made(bundle: Bundle, parts: Parts) -> Quantised:
    config = Int8Config(method="minmax", budget=0.05, range_s=60, compare_s=60)
    return add_precisions(bundle, parts, config, exclude_labels=LABELS, recalibrate=True)


@pytest.fixture(scope="module")
def proof(made: Quantised, parts: Parts) -> Proof:
    return prove(made.bundle, parts.test, exclude_labels=LABELS, n_injected=8)


def test_the_new_bundle_scores_in_either_precision_by_its_own_calibration(
    made: Quantised, bundle: Bundle, parts: Parts
) -> None:
    again = read_bundle(made.data)
    assert again.manifest.precisions == {"fp32": "model.fp32.onnx", "int8": "model.int8.onnx"}
    assert again.parts["model.fp32.onnx"] == bundle.parts["model.fp32.onnx"]
    full, small = Scorer(again), Scorer(again, precision="int8")
    assert not np.array_equal(full.calibration.reference, small.calibration.reference)
    a, b = (verdicts_of(s, parts.test[0]) for s in (full, small))
    assert len(a) == len(b) == 75
    assert [v.score for v in a] != [v.score for v in b]
    assert np.mean([v.decision != w.decision for v, w in zip(a, b, strict=True)]) < 0.1
    assert made.check is not None
    assert again.manifest.quality["int8_layers"] == len(made.check.int8) > 0
    assert made.check.ok


def test_the_int8_calibration_is_fitted_on_what_int8_says(made: Quantised, parts: Parts) -> None:
    """A calibration part scored in int8 fills its own reference evenly: the promised rate holds on what runs."""
    scorer = Scorer(made.bundle, precision="int8")
    p = [v.p_value for r in parts.calibration for v in verdicts_of(scorer, r)]
    assert 0.3 < np.mean(np.array(p) < 0.5) < 0.7


def test_a_calibration_that_follows_the_same_precision_stays_as_it_is(bundle: Bundle, parts: Parts) -> None:
    scorer = Scorer(bundle)
    cohort = calibrate_cohort([(parts.calibration, scorer)], exclude_labels=LABELS)
    same = follow_calibration(cohort, scorer, scorer, parts.calibration, exclude_labels=LABELS)
    arrays = cohort.to_arrays()
    assert all(np.array_equal(value, arrays[name]) for name, value in same.to_arrays().items())
    with pytest.raises(SignalError, match="no ordinary movement"):
        follow_calibration(cohort, scorer, scorer, [parts.test[0].slice(0, 100)], exclude_labels=LABELS)


def test_a_followed_calibration_moves_with_the_scores_and_ranks_its_own(made: Quantised, parts: Parts) -> None:
    class Wider(OnnxBackend):
        """Predicts a wider sigma: every score rises by nearly as many nats."""

        def step(self, x, mask, state):  # type: ignore[no-untyped-def]
            mu, log_sigma, after = super().step(x, mask, state)
            return mu, log_sigma + np.float32(0.5), after

    full = Scorer(made.bundle)
    other = Scorer(made.bundle, backend=Wider(made.bundle))
    followed = follow_calibration(full.calibration, full, other, parts.calibration, exclude_labels=LABELS)
    assert 0.05 < (followed.center - full.calibration.center).mean() < 0.5
    assert np.array_equal(followed.spread, full.calibration.spread)
    assert np.array_equal(followed.likelihood, full.calibration.likelihood)
    judged = Scorer(made.bundle, backend=Wider(made.bundle), calibration=followed)
    p = np.array([v.p_value for r in parts.calibration for v in verdicts_of(judged, r)])
    assert 0.3 < np.mean(p < 0.5) < 0.7
    unmoved = Scorer(made.bundle, backend=Wider(made.bundle), calibration=full.calibration)
    by_others = np.array([v.p_value for r in parts.calibration for v in verdicts_of(unmoved, r)])
    assert np.abs(by_others - p).mean() > 0.01
    # how strongly sensors move does not hang on the precision, but what is ranked where one is silent does
    known = replace(full.calibration, coordination=Scorer(read_bundle(DEFAULT_BUNDLE)).calibration.coordination)
    with_it = follow_calibration(known, full, other, parts.calibration, exclude_labels=LABELS).coordination
    assert with_it is not None and known.coordination is not None
    np.testing.assert_array_equal(with_it.weights.reference, followed.reference)
    np.testing.assert_array_equal(with_it.lines.high, known.coordination.lines.high)


def test_fp16_is_a_precision_with_a_calibration_of_its_own(bundle: Bundle, parts: Parts) -> None:
    made = add_precisions(bundle, parts, Int8Config(), precisions=("fp16",), exclude_labels=LABELS, recalibrate=True)
    assert (made.int8, made.check) == (None, None)
    again = read_bundle(made.data)
    assert again.manifest.precisions == {"fp32": "model.fp32.onnx", "fp16": "model.fp16.onnx"}
    assert "calibration.fp16.npz" in again.parts
    full, half = Scorer(again), Scorer(again, precision="fp16")
    a, b = (np.array([v.score for v in verdicts_of(s, parts.test[0])]) for s in (full, half))
    assert 0 < np.abs(a - b).mean() < 0.05
    with pytest.raises(BackendError, match="fp16 of this bundle would keep the old calibration"):
        add_precisions(again, parts, Int8Config(), exclude_labels=LABELS, recalibrate=True)
    found = prove(again, parts.test, exclude_labels=LABELS, n_injected=2)
    row = found.row("ONNX fp16")
    assert row.z_relative_rmse is not None
    assert 1e-5 < row.z_relative_rmse < 0.02
    assert found.goals()["onnx_fp16_flipped"]


def test_a_precision_without_a_calibration_is_never_judged_by_another(made: Quantised) -> None:
    members = {k: v for k, v in made.bundle.parts.items() if k != "calibration.int8.npz"}
    entries = made.bundle.manifest.model_dump(mode="json", exclude={"parts"})
    without = read_bundle(pack_bundle(entries, members))
    assert Scorer(without)
    with pytest.raises(BundleError, match=r"no calibration\.int8\.npz"):
        Scorer(without, precision="int8")


def test_a_bundle_of_before_still_loads_and_has_no_int8(bundle: Bundle) -> None:
    assert Scorer(bundle)
    with pytest.raises(BundleError, match="it has fp32"):
        bundle.model_bytes("int8")


def test_forms_in_single_precision_are_identical_and_int8_is_close(proof: Proof) -> None:
    assert [r.form for r in proof.rows if r.run] == [
        "torch fp32",
        "ONNX fp32 whole",
        "ONNX fp32 streaming",
        *(["native fp32"] if library() else []),
        "ONNX int8",
    ]
    assert [r.form for r in proof.rows if not r.run] == [
        *([] if library() else ["native fp32"]),
        "ONNX fp16",
        "TensorRT fp32",
        "TensorRT fp16",
        "TensorRT int8",
    ]
    for form in ("ONNX fp32 whole", "ONNX fp32 streaming", *(["native fp32"] if library() else [])):
        row = proof.row(form)
        assert row.z_relative_rmse is not None
        assert row.z_relative_rmse <= 1e-5
        assert (row.flipped, row.flipped_injected, row.order_changed, row.hit_at_1_change) == (0, 0, 0, 0)
    int8 = proof.row("ONNX int8")
    assert int8.z_relative_rmse is not None
    assert 1e-4 < int8.z_relative_rmse < 0.3
    assert int8.vus_pr is None  # nothing is labelled in ordinary movement
    assert int8.vus_pr_injected_change is not None
    assert abs(int8.vus_pr_injected_change) < 0.05
    assert proof.goals()["onnx_fp32_streaming_identical"]
    assert proof.n_verdicts == 75
    assert proof.n_injected == 8


def test_a_backend_that_answers_otherwise_is_caught(made: Quantised, parts: Parts) -> None:
    class Shifted(TorchBackend):
        def step(self, x, mask, state):  # type: ignore[no-untyped-def]
            mu, log_sigma, after = super().step(x, mask, state)
            return mu + np.float32(0.05), log_sigma, after

    manifest = made.bundle.manifest
    model = restore_model(made.bundle.model_bytes(), manifest)
    others = {"TensorRT fp32": Shifted(model), "TensorRT int8": OnnxBackend(made.bundle, precision="int8")}
    found = prove(made.bundle, parts.test, exclude_labels=LABELS, n_injected=2, others=others)
    assert not found.goals()["tensorrt_fp32_identical"]
    a, b = found.row("TensorRT int8"), found.row("ONNX int8")
    assert replace(a, form="") == replace(b, form="")  # judged by the int8 calibration, too
    assert [r.form for r in found.rows if not r.run and r.form != "native fp32"] == ["ONNX fp16", "TensorRT fp16"]


def test_the_tables_show_every_form(proof: Proof) -> None:
    facts = json.loads(json.dumps(proof.to_dict()))
    markdown, html = as_markdown(facts), as_html(facts)
    for row in proof.rows:
        assert f"| {row.form} |" in markdown
        assert f"<td>{row.form}</td>" in html
    assert markdown.count("not run") == html.count("not run") == (4 if library() else 5)


def test_pieces_are_tampered_with_outside_labelled_regions(parts: Parts) -> None:
    recording = parts.test[0]
    pieces = tampered([recording], n=6, exclude_labels=LABELS, seed=1)
    assert len(pieces) == 6
    assert {sensor for _, sensor in pieces} == {0, 1}
    for piece, sensor in pieces:
        (region,) = (r for r in piece.labels if r.label.startswith("anomaly:"))
        assert region.label.endswith(f"@{recording.sensors[sensor].name}")
    assert len(tampered([recording.slice(0, 500)], n=6, exclude_labels=LABELS, seed=1)) == 0


def test_missing_people_and_foreign_graphs_are_told(bundle: Bundle, parts: Parts) -> None:
    with pytest.raises(SignalError, match="nobody is left for calibration"):
        add_precisions(bundle, Parts(parts.training, parts.stopping), Int8Config(), exclude_labels=LABELS)
    with pytest.raises(SignalError, match="no recordings to compare"):
        prove(bundle, [], exclude_labels=LABELS)
    with pytest.raises(BackendError, match="no layer bears int8"):
        config = Int8Config(method="minmax", budget=1e-6, range_s=60, compare_s=60)
        add_precisions(bundle, parts, config, exclude_labels=LABELS)
    with pytest.raises(BackendError, match="no product of this graph is int8"):
        add_precisions(bundle, parts, Int8Config(), exclude_labels=LABELS, graph=bundle.model_bytes())


def test_a_graph_quantised_elsewhere_gets_a_calibration_too(made: Quantised, bundle: Bundle, parts: Parts) -> None:
    graph = made.bundle.parts["model.int8.onnx"]
    foreign = add_precisions(bundle, parts, Int8Config(), exclude_labels=LABELS, graph=graph, recalibrate=True)
    assert foreign.int8 is not None
    assert foreign.int8.method == foreign.bundle.manifest.quality["int8_method"] == "elsewhere"
    own = Calibration.from_arrays(made.bundle.calibration_arrays("int8"), bundle.manifest)
    assert np.array_equal(Scorer(foreign.bundle, precision="int8").calibration.reference, own.reference)
    assert foreign.bundle.parts["calibration.npz"] == made.bundle.parts["calibration.npz"]
    assert not same_recordings(bundle, parts.test)


def test_fine_tuning_is_kept_only_where_it_helps(bundle: Bundle, parts: Parts) -> None:
    tuning = QatConfig(steps=2, batch=2, window=64, learning_rate=0.5)  # ruins the network
    config = Int8Config(method="qat", budget=0.05, range_s=60, compare_s=60, qat=tuning)
    found = add_precisions(bundle, parts, config, exclude_labels=LABELS)
    assert found.int8 is not None
    errors = found.int8.errors
    assert set(errors) == {"minmax", "entropy", "percentile", "qat"}
    assert errors["qat"] > 2 * errors[found.int8.method]
    assert found.int8.method == min(("minmax", "entropy", "percentile"), key=lambda m: errors[m])


def test_the_command_quantises_proves_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.quantize.__doc__
    (tmp_path / "t.toml").write_text(
        "[simulated]\nsubjects = 4\nsessions = 1\nminutes = 1.2\n"
        "[bundle]\nsensors = ['wrist_left', 'wrist_right']\n"
        "[bundle.fit]\nmax_epochs = 1\nsteps_per_epoch = 5\nwidth = 8\ndilations = [1, 4]\nbatch = 4\n"
    )
    assert main(["train", str(tmp_path / "t.toml"), "-o", str(tmp_path / "m.kinedge"), "--no-report", "--json"]) == 0
    capsys.readouterr()
    arguments = ["quantize", str(tmp_path / "m.kinedge"), "--data", str(tmp_path / "t.toml")]
    out, drawn, table = (tmp_path / name for name in ("q.kinedge", "s.svg", "p.md"))
    more = ["--method", "percentile", "--budget", "5", "--prove", "--sensitivity", str(drawn), "--table", str(table)]
    assert main([*arguments, "-o", str(out), *more, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    bundle = read_bundle(out)
    assert told["digest"] == bundle.digest
    assert told["method"] == "percentile"
    assert set(told["score_error_by_method"]) == {"percentile"}
    assert json.loads(bundle.parts["parity.json"]) == told["parity"]
    assert bundle.manifest.quality["int8_z_relative_rmse"] > 0
    assert "TensorRT int8 | not run" in table.read_text()
    assert b"The same answer in every form" in bundle.parts["card.md"]
    assert drawn.read_text().startswith("<svg")

    assert main(["bench", "parity", str(out), "--json"]) == 0
    carried = json.loads(capsys.readouterr().out)
    more = ["--data", str(tmp_path / "t.toml"), "--injected", "4", "--out", str(tmp_path / "r.json")]
    assert main(["bench", "parity", str(out), *more]) == 0
    assert "not run" in capsys.readouterr().out
    anew = json.loads((tmp_path / "r.json").read_text())
    for found in (carried, anew):
        rows = {row["form"]: row for row in found["rows"]}
        assert [f for f, r in rows.items() if r["status"] == "ran"][-1] == "ONNX int8"
        assert all(rows[f"TensorRT {p}"]["note"] for p in ("fp32", "fp16", "int8"))
        assert found["settings"]["model"]["digest"] == bundle.digest[:16]
    same = ("z_relative_rmse", "flipped", "order_changed")
    assert [[r[k] for k in same] for r in carried["rows"]] == [[r[k] for k in same] for r in anew["rows"]]
    assert anew["settings"]["model"]["n_injected"] == 4
    assert main(["bench", "parity", str(tmp_path / "m.kinedge")]) == 1
    assert "carries no parity proof" in capsys.readouterr().err

    (tmp_path / "other.toml").write_text(
        (tmp_path / "t.toml").read_text().replace("[bundle]", "first_seed = 9\n[bundle]")
    )
    (tmp_path / "cross.toml").write_text(
        (tmp_path / "t.toml").read_text().replace("[bundle]\n", "[bundle]\nsplit = 'cross'\n")
    )
    for file, message in (("other.toml", "--recalibrate"), ("cross.toml", "split = 'cross' leaves no people")):
        assert main(["quantize", str(out), "--data", str(tmp_path / file), "-o", str(tmp_path / "x.kinedge")]) == 1
        assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert main([*arguments, "-o", str(out), "--method", "magic"]) == 1
    assert "method" in capsys.readouterr().err


def test_sensors_that_sit_alike_are_compared_on_the_hops_as_named(
    made: Quantised, parts: Parts, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast that tells left from right would stand among those compared."""
    monkeypatch.setattr(reliability, "_SIDES_APART", np.inf)
    assert Scorer(made.bundle).monitor.alike_sides
    alike = prove(made.bundle, parts.test, exclude_labels=LABELS, n_injected=8)
    for form in ("ONNX fp32 whole", "ONNX fp32 streaming", *(["native fp32"] if library() else [])):
        row = alike.row(form)
        assert row.z_relative_rmse is not None
        assert row.z_relative_rmse <= 1e-5
        assert (row.flipped, row.flipped_injected) == (0, 0)
    assert alike.row("torch fp32").z_largest == proof.row("torch fp32").z_largest


def test_real_walks_get_the_same_answers_in_every_form(shared_data: Path) -> None:
    """Torch, whole and streamed, on walks with real loss; the network is hardly trained, which parity does not mind."""
    walks = load_gait_healthy(shared_data / "gait_healthy.npz")[:12]
    assert any((~w.valid).any() for w in walks)
    grid = [align_recording(w, rate_hz=50) for w in walks]
    quick = FitConfig(max_epochs=1, steps_per_epoch=10, batch=4, width=8, dilations=(1, 4))
    result = fit(grid[:4], grid[4:5], quick)
    config = BuildConfig(name="walks", fit=quick)
    built = complete(grid, Parts(grid[:4], grid[4:5], grid[5:10]), result, config)
    found = prove(built.bundle, grid[10:], exclude_labels=config.exclude_labels, n_injected=4)
    for form in ("ONNX fp32 whole", "ONNX fp32 streaming", *(["native fp32"] if library() else [])):
        row = found.row(form)
        assert row.z_relative_rmse is not None
        assert row.z_relative_rmse <= 1e-5
        assert row.flipped == 0
