"""int8: ranges, Q/DQ pairs, fine-tuning, the sweep, and the network read back from its graph."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from kinedge.bundle import Bundle
from kinedge.errors import BackendError, SignalError
from kinedge.quantize.checker import check_qdq
from kinedge.quantize.export import export_onnx
from kinedge.quantize.export_conv import conv_form
from kinedge.quantize.int8 import METHODS, Grid, activation_scales, layers_of, quantise, stripped, weight_scales
from kinedge.quantize.qat import QatConfig, fake_quantised, tune
from kinedge.quantize.restore import restore_model
from kinedge.quantize.rounding import fitted, measure_inputs, round_weights
from kinedge.quantize.sensitivity import ScoreError, excerpts, feed_of, plot_svg, sweep
from kinedge.recording import Recording
from kinedge.training.model import Forecaster, ForecasterConfig
from kinedge.training.simulate import SimulationConfig, simulate
from kinedge.training.windows import Normalisation

LAYERS = ["inp", *(f"conv_{i}" for i in range(1, 7)), "head"]  # of the shipped model, which has no linear skip
BLOCKS = ["conv_2", "conv_3", "conv_4"]


@pytest.fixture(scope="module")
def people(bundle: Bundle) -> list[Recording]:
    specs = bundle.manifest.sensor_specs
    return [simulate(SimulationConfig(subject_seed=700 + s, duration_s=30)).select(specs) for s in range(3)]


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> bytes:
    return bundle.model_bytes()


@pytest.fixture(scope="module")
def scales(graph: bytes, bundle: Bundle, people: list[Recording]) -> dict[str, float]:
    return activation_scales(graph, [feed_of(r, bundle) for r in people[:2]], method="minmax")


@pytest.fixture(scope="module")
def grids(graph: bytes, scales: dict[str, float], bundle: Bundle, people: list[Recording]) -> dict[str, Grid]:
    return fitted(graph, scales, measure_inputs(graph, [feed_of(r, bundle) for r in people[:2]]))


def run(graph: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # fused kernels saturate on some processors
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, feed)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def test_the_network_comes_back_from_its_graph_bit_for_bit(bundle: Bundle, graph: bytes) -> None:
    assert export_onnx(restore_model(graph, bundle.manifest)) == graph


def test_a_graph_of_something_else_is_no_network(bundle: Bundle, graph: bytes) -> None:
    proto = onnx.load_from_string(graph)
    proto.graph.initializer.remove(next(i for i in proto.graph.initializer if i.name == "conv_3_weight"))
    for bad in (proto.SerializeToString(), b"not a graph", conv_form(graph)):
        with pytest.raises(BackendError, match=re.escape(bundle.manifest.name)):
            restore_model(bad, bundle.manifest)


def test_ranges_cover_what_goes_in_and_differ_by_method(
    graph: bytes, bundle: Bundle, people: list[Recording], scales: dict[str, float]
) -> None:
    feeds = [feed_of(r, bundle) for r in people[:2]]
    assert list(scales) == LAYERS
    assert scales["inp"] * 127 == pytest.approx(max(np.abs(f["x"]).max() for f in feeds), rel=1e-5)
    found = {m: activation_scales(graph, feeds, method=m) for m in METHODS}
    assert found["minmax"] == scales
    assert all(found["percentile"][name] <= scales[name] * 1.01 for name in LAYERS)
    assert found["entropy"] != found["percentile"]
    with pytest.raises(BackendError, match="cannot measure"):
        activation_scales(graph, [], method="minmax")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=12, max_size=12))
def test_rounded_weights_are_within_half_a_step_and_mirror(values: list[float]) -> None:
    weight = np.array(values, np.float32).reshape(3, 4)
    steps = weight_scales(weight)[:, None]
    rounded = np.round(weight / steps)
    assert np.abs(rounded).max() <= 127
    assert (np.abs(rounded * steps - weight) <= steps * 0.501).all()
    assert np.array_equal(weight_scales(-weight), steps[:, 0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 5))
def test_weights_rounded_together_stay_on_their_steps_and_move_the_answer_less(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(k, n))
    rows = weight_scales(weight.T.astype(np.float32))
    nearest = np.round(weight / rows) * rows
    assert np.allclose(round_weights(weight, np.eye(k), rows), nearest)  # nothing to make up for
    alike = rng.normal(size=(200, 1)) + 0.1 * rng.normal(size=(200, k))
    together = round_weights(weight, np.cov(alike, rowvar=False), rows)
    levels = together / rows
    assert np.abs(levels - np.round(levels)).max() < 1e-3
    assert np.abs(levels).max() <= 127.001
    moved = [np.square((alike - alike.mean(axis=0)) @ (w - weight)).mean() for w in (together, nearest)]
    assert moved[0] <= moved[1] * 1.2 + 1e-12


def test_inputs_are_described_as_they_are(graph: bytes, bundle: Bundle, people: list[Recording]) -> None:
    feeds = [feed_of(r, bundle) for r in people[:2]]
    found = measure_inputs(graph, feeds)
    rows = np.concatenate([np.concatenate([f["x"][0], f["mask"][0]], axis=1) for f in feeds]).astype(np.float64)
    assert found["inp"].n == len(rows)
    assert np.allclose(found["inp"].mean, rows.mean(axis=0))
    assert np.allclose(found["inp"].covariance, np.cov(rows, rowvar=False, bias=True), atol=1e-9)
    assert found["inp"].lowest == rows.min()
    assert all(found[name].lowest == 0 for name in (*BLOCKS, "head"))  # behind Relu
    with pytest.raises(BackendError, match="give some"):
        measure_inputs(graph, [])


def test_fitted_layers_answer_closer_by_half_and_shift_what_is_never_negative(
    graph: bytes, scales: dict[str, float], grids: dict[str, Grid], bundle: Bundle, people: list[Recording]
) -> None:
    assert {name for name, grid in grids.items() if grid.shift} == {*LAYERS} - {"inp"}
    feed = feed_of(people[2], bundle)
    plain = run(graph, feed)
    shares = []
    for layers in (BLOCKS, ["conv_1"], ["conv_6"], ["head"]):
        plainly, well = (run(quantise(graph, g, layers=layers), feed) for g in (scales, grids))
        shares.append(relative(well[0], plain[0]) / relative(plainly[0], plain[0]))
    assert np.mean(shares) < 0.6 and max(shares) < 0.75, shares


def test_fitted_layers_keep_the_contract_and_say_the_same_in_both_forms(
    graph: bytes, grids: dict[str, Grid], bundle: Bundle, people: list[Recording]
) -> None:
    made = quantise(graph, grids, layers=[*BLOCKS, "inp", "head"])
    plain, found = stripped(made)
    convolutions = quantise(conv_form(plain), found, layers=list(found))
    assert not check_qdq(made).findings
    assert {f.node for f in check_qdq(convolutions).findings} == {"inp_in_int8"}  # behind a Reshape in this form
    assert len(check_qdq(made).int8) == len(check_qdq(convolutions).int8) == 5
    feed = feed_of(people[2], bundle)
    exact, ours, theirs = (run(g, feed) for g in (graph, made, convolutions))
    for a, b, c in zip(exact, ours, theirs, strict=True):
        assert relative(c, b) < 0.2 * relative(b, a)
    again = quantise(plain, found, layers=list(found))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(run(again, feed), ours, strict=True))


def test_a_linear_skip_has_no_bias_to_correct_and_none_to_shift_by() -> None:
    model = Forecaster(ForecasterConfig(4, dilations=(1, 2), width=8))
    with torch.no_grad():
        model.var.weight.normal_(generator=torch.Generator().manual_seed(1))
    graph = export_onnx(model)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 300, 4)).astype(np.float32)
    feed = {"x": x, "mask": np.ones_like(x), "state": np.zeros((1, model.state_size), np.float32)}
    grids = fitted(graph, activation_scales(graph, [feed], method="minmax"), measure_inputs(graph, [feed]))
    assert (grids["var"].shift, grids["var"].bias) == (0, None)
    assert 0 < relative(run(quantise(graph, grids, layers=["var"]), feed)[0], run(graph, feed)[0]) < 0.02
    with pytest.raises(BackendError, match="var: a shifted input needs a bias"):
        quantise(graph, {"var": Grid(0.1, shift=1.0)}, layers=["var"])


def test_a_shift_that_the_bias_cannot_give_back_is_refused(graph: bytes, grids: dict[str, Grid]) -> None:
    with pytest.raises(BackendError, match="conv_1: weights of"):
        quantise(conv_form(graph), grids, layers=["conv_1"])
    padded = onnx.load_from_string(conv_form(graph))
    conv = next(n for n in padded.graph.node if n.op_type == "Conv" and n.input[1] == "conv_1_weight")
    next(a for a in conv.attribute if a.name == "pads").ints[3] = 1
    with pytest.raises(BackendError, match="no padding"):
        quantise(padded.SerializeToString(), {"conv_1": Grid(0.1, shift=1.0)}, layers=["conv_1"])


@pytest.mark.parametrize("form", ["products", "convolutions"])
def test_the_int8_graph_keeps_the_contract_and_nearly_the_answer(
    form: str, graph: bytes, scales: dict[str, float], bundle: Bundle, people: list[Recording]
) -> None:
    source = graph if form == "products" else conv_form(graph)
    made = quantise(source, scales, layers=BLOCKS)
    report = check_qdq(made)
    assert report.ok, report.findings
    assert not report.findings
    assert len(report.int8) == 3
    assert len(report.floating) == len(LAYERS) - 3
    feed = feed_of(people[2], bundle)
    errors = [relative(a, b) for a, b in zip(run(made, feed), run(source, feed), strict=True)]
    assert all(0 < e < 0.1 for e in errors)


def test_both_forms_say_the_same_in_int8(
    graph: bytes, scales: dict[str, float], bundle: Bundle, people: list[Recording]
) -> None:
    feed = feed_of(people[2], bundle)
    ours, convolutions = (run(quantise(g, scales, layers=BLOCKS), feed) for g in (graph, conv_form(graph)))
    plain = run(graph, feed)
    for a, b, c in zip(ours, convolutions, plain, strict=True):
        assert relative(a, b) < 0.2 * relative(a, c)  # rounding may fall the other way here and there


def test_stripping_gives_back_the_graph_and_its_ranges(graph: bytes, scales: dict[str, float]) -> None:
    plain, found = stripped(quantise(graph, scales, layers=BLOCKS))
    assert set(found) == set(BLOCKS)
    assert all(found[name].scale == pytest.approx(scales[name], rel=1e-6) for name in BLOCKS)
    before, after = onnx.load_from_string(graph).graph, onnx.load_from_string(plain).graph
    assert [n.SerializeToString() for n in before.node] == [n.SerializeToString() for n in after.node]
    weights = {i.name: numpy_helper.to_array(i) for i in after.initializer}
    for i in before.initializer:
        assert np.array_equal(weights[i.name], numpy_helper.to_array(i))
    assert check_qdq(quantise(conv_form(plain), found, layers=BLOCKS)).ok


def test_a_layer_that_is_not_there_and_a_graph_quantised_twice_are_refused(
    graph: bytes, scales: dict[str, float]
) -> None:
    with pytest.raises(BackendError, match="conv_9"):
        quantise(graph, scales, layers=["conv_9"])
    with pytest.raises(BackendError, match="already"):
        quantise(quantise(graph, scales, layers=BLOCKS), scales, layers=["conv_5"])
    with pytest.raises(BackendError, match="no ONNX graph"):
        quantise(b"\x00nonsense", scales, layers=[])


def test_the_sweep_keeps_the_sensitive_layers_in_float(
    graph: bytes, scales: dict[str, float], bundle: Bundle, people: list[Recording]
) -> None:
    error = ScoreError(bundle, people[2:])
    assert error.of(graph) == 0
    result = sweep(graph, scales, error, budget=0.05)
    assert sorted(r.layer for r in result.rows) == sorted(LAYERS)
    assert [r.alone for r in result.rows] == sorted(r.alone for r in result.rows)
    assert result.int8 and result.kept_in_float
    assert result.error == error.of(quantise(graph, scales, layers=result.int8)) <= 0.05
    assert set(sweep(graph, scales, error, budget=1e-9).int8) == set()
    drawn = plot_svg(result)
    assert drawn.count('fill="#1b6ca8"') == len(result.int8)
    assert all(f">{name}</text>" in drawn for name in LAYERS)


def test_nothing_to_compare_on_is_said(bundle: Bundle, people: list[Recording]) -> None:
    with pytest.raises(SignalError, match="too short"):
        ScoreError(bundle, [people[0].slice(0, 60)])


def test_excerpts_take_a_minute_each_from_all_over() -> None:
    long = [simulate(SimulationConfig(subject_seed=s, duration_s=70)) for s in range(3)]
    taken = excerpts(long, total_s=130)
    assert [r.subject for r in taken] == [long[0].subject, long[2].subject]
    assert [len(r) for r in taken] == [3000, 3000]


def test_torch_rounds_as_the_int8_graph_does(
    graph: bytes, scales: dict[str, float], bundle: Bundle, people: list[Recording]
) -> None:
    model = restore_model(graph, bundle.manifest)
    feed = feed_of(people[2], bundle)
    tensors = [torch.from_numpy(feed[name]) for name in ("x", "mask", "state")]
    with torch.no_grad():
        plain = model(*tensors)
        with fake_quantised(model, scales, layers=BLOCKS) as forward:
            rounded = forward(*tensors)
        after = model(*tensors)
    assert torch.equal(plain[0], after[0])
    expected = run(quantise(graph, scales, layers=BLOCKS), feed)
    for got, want, exact in zip(rounded, expected, plain, strict=True):
        assert relative(got.numpy(), want) < 0.2 * relative(want, exact.numpy())
    shifted = {name: Grid(scales[name] / 2, shift=127 * scales[name] / 2) for name in BLOCKS}
    with torch.no_grad(), fake_quantised(model, shifted, layers=BLOCKS) as forward:
        rounded = forward(*tensors)
    for got, want, exact in zip(rounded, run(quantise(graph, shifted, layers=BLOCKS), feed), plain, strict=True):
        assert relative(got.numpy(), want) < 0.2 * relative(want, exact.numpy())
    with pytest.raises(BackendError, match="conv_9"), fake_quantised(model, scales, layers=["conv_9"]):
        pass


def test_fine_tuning_lowers_what_int8_costs_and_is_repeatable(people: list[Recording]) -> None:
    config = ForecasterConfig(12, dilations=(1, 4), width=8)
    model = Forecaster(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    normalisation = Normalisation(np.zeros(12, np.float32), np.full(12, 5.0, np.float32), 20.0)
    coarse = dict.fromkeys(("conv_1", "conv_2"), 0.15)
    options = QatConfig(steps=60, batch=4, window=64, learning_rate=3e-3)

    def once() -> tuple[Forecaster, tuple[float, float]]:
        return tune(model, coarse, people, normalisation, options, layers=list(coarse), exclude_labels=())

    (tuned, (first, last)), (again, _) = once(), once()
    assert last < 0.8 * first
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), again.parameters(), strict=True))
    assert not torch.equal(tuned.convs[0].weight, model.convs[0].weight)


def test_products_are_found_in_either_form(graph: bytes) -> None:
    for source in (graph, conv_form(graph)):
        assert sorted(layer.name for layer in layers_of(onnx.load_from_string(source).graph)) == sorted(LAYERS)
