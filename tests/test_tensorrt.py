"""TensorRT-RTX parses and builds every graph without a GPU; the cache and the errors are those of TensorRT, too."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import kinedge.cli.compile  # noqa: F401
from kinedge.bundle import Bundle, pack_bundle, read_bundle
from kinedge.cli.app import main
from kinedge.edge.backends.cuda import Cuda
from kinedge.edge.backends.engine_cache import EngineCache, EngineKey
from kinedge.edge.backends.tensorrt import open_tensorrt
from kinedge.edge.backends.trt_build import build_engine, cached_engine, stream_ranges
from kinedge.edge.backends.trt_library import Library, TrtLog, driver_problem, load_library
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import BackendError, BundleError
from kinedge.quantize.engines import NO_GPU, compile_bundle, graph_for, wanted
from kinedge.quantize.export_conv import conv_form
from kinedge.quantize.int8 import Grid, layers_of, quantise

KEY = EngineKey(
    bundle="ab" * 32, graph="cd" * 32, library="tensorrt 10.3.0", gpu="Orin sm_87", precision="fp16", profiles="{}"
)

no_gpu = pytest.mark.skipif(driver_problem() is None, reason="this machine has a GPU")


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed here")
    return load_library("tensorrt-rtx", need_gpu=False)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines", key_file=tmp_path / "state" / "engine.key")


def int8(graph: bytes) -> bytes:
    """Quantise every product but the first, with ranges that fit nothing: only the form of the graph counts here."""
    layers = [layer.name for layer in layers_of(onnx.load_from_string(graph).graph)][1:]
    return quantise(graph, dict.fromkeys(layers, 0.05), layers=layers)


def shifted(graph: bytes) -> bytes:
    """Quantise blocks and head as ``kinedge quantize`` does: behind Relu, half the range is taken off before."""
    layers = [x.name for x in layers_of(onnx.load_from_string(graph).graph) if x.name not in ("inp", "var")]
    return quantise(graph, {name: Grid(0.02, shift=127 * 0.02) for name in layers}, layers=layers)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int8-shifted", "fp32-matrix", "int8-matrix"])
def test_every_form_of_the_graph_builds(rtx: Library, bundle: Bundle, name: str) -> None:
    graphs = {
        "fp32": lambda: graph_for(bundle, "fp32"),
        "fp16": lambda: graph_for(bundle, "fp16"),
        "int8": lambda: int8(conv_form(bundle.model_bytes())),
        "int8-shifted": lambda: shifted(conv_form(bundle.model_bytes())),
        "fp32-matrix": bundle.model_bytes,
        "int8-matrix": lambda: int8(bundle.model_bytes()),
    }
    built = build_engine(rtx, graphs[name](), bundle.manifest, precision=name.split("-", maxsplit=1)[0], max_streams=1)  # type: ignore[arg-type]
    assert len(built.engine) > 10_000


def test_what_tensorrt_says_of_a_bad_graph_is_one_error(rtx: Library, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"the graph was refused; TensorRT said: .*Failed to parse"):
        build_engine(rtx, b"no graph", bundle.manifest, precision="fp32", max_streams=1)
    odd = onnx.load_from_string(bundle.model_bytes())
    next(n for n in odd.graph.node if n.op_type == "Relu").op_type = "NonZero"
    with pytest.raises(BackendError, match="TensorRT said"):
        build_engine(rtx, odd.SerializeToString(), bundle.manifest, precision="fp32", max_streams=1)


def test_a_profile_that_does_not_fit_the_graph_is_one_error(rtx: Library, bundle: Bundle) -> None:
    other = bundle.manifest.model_copy(update={"state_size": bundle.manifest.state_size + 1})
    with pytest.raises(BackendError, match=r"wrists-sim fp32: .*TensorRT said: .*state"):
        build_engine(rtx, bundle.model_bytes(), other, precision="fp32", max_streams=1)


def test_profiles_cover_every_number_of_streams_once() -> None:
    for most in (1, 2, 16, 17, 64, 100, 4096):
        covered = [n for r in stream_ranges(most) for n in range(r.least, r.most + 1)]
        assert covered == list(range(1, most + 1))
    for bad in (0, 4097):
        with pytest.raises(BackendError, match="1 to 4096"):
            stream_ranges(bad)


def test_an_engine_is_built_once_and_again_when_anything_changes(
    rtx: Library, bundle: Bundle, cache: EngineCache
) -> None:
    graph = graph_for(bundle, "fp32")

    def get(**changes: object) -> bool:
        arguments = {"gpu": NO_GPU, "precision": "fp32", "max_streams": 1, **changes}
        return cached_engine(rtx, graph, bundle, cache, **arguments).built  # type: ignore[arg-type]

    assert [get(), get()] == [True, False]
    assert get(gpu="Orin sm_87")
    assert get(workspace_mib=64)
    assert get(again=True)
    assert not get()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EngineKey)])
def test_every_part_of_the_key_counts(cache: EngineCache, field: str) -> None:
    cache.put_engine(KEY, b"engine")
    assert cache.engine(KEY) == b"engine"
    assert cache.engine(dataclasses.replace(KEY, **{field: "ff" * 32})) is None


def test_an_engine_that_was_altered_is_refused_at_any_byte(cache: EngineCache) -> None:
    path = cache.put_engine(KEY, b"engine" * 10)
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(BackendError, match="was altered"):
            cache.engine(KEY)
    for cut in (0, 31, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BackendError, match="was altered"):
            cache.engine(KEY)
    path.write_bytes(whole)
    assert cache.engine(KEY) == b"engine" * 10


def test_an_engine_of_another_model_or_machine_is_refused(cache: EngineCache, tmp_path: Path) -> None:
    other = dataclasses.replace(KEY, gpu="Thor sm_110")
    here, there = cache.put_engine(KEY, b"one"), cache.put_engine(other, b"two")
    there.write_bytes(here.read_bytes())
    with pytest.raises(BackendError, match="not what its name says"):
        cache.engine(other)
    foreign = EngineCache(cache.folder, key_file=tmp_path / "elsewhere" / "engine.key")
    with pytest.raises(BackendError, match="another machine"):
        foreign.engine(KEY)


def test_graphs_and_timings_are_sealed_too(cache: EngineCache) -> None:
    assert cache.graph("ab" * 32, "fp16") is None and cache.timings("a", "b") == b""
    cache.put_graph("ab" * 32, "fp16", b"graph")
    cache.put_timings("a", "b", b"timings")
    assert cache.graph("ab" * 32, "fp16") == b"graph" and cache.timings("a", "b") == b"timings"
    path = next(cache.folder.glob("*/fp16.graph"))
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(BackendError, match="was altered"):
        cache.graph("ab" * 32, "fp16")
    path.with_name("int8.graph").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BackendError, match="not what its name says"):
        cache.graph("ab" * 32, "int8")


def test_the_key_is_its_owners_alone(cache: EngineCache) -> None:
    cache.put_engine(KEY, b"engine")
    assert cache.key_file.stat().st_mode & 0o777 == 0o600
    os.chmod(cache.key_file, 0o644)
    with pytest.raises(BackendError, match="chmod 600"):
        cache.engine(KEY)
    os.chmod(cache.key_file, 0o600)
    cache.key_file.write_bytes(b"short")
    with pytest.raises(BackendError, match="damaged"):
        cache.engine(KEY)
    with pytest.raises(BackendError, match="outside"):
        EngineCache(cache.folder, key_file=cache.folder / "key")


@no_gpu
def test_without_a_gpu_there_is_one_clear_message(bundle: Bundle, cache: EngineCache) -> None:
    for use in (
        lambda: load_library("tensorrt"),
        lambda: load_library("tensorrt", need_gpu=False),
        lambda: load_library("tensorrt-rtx"),
        lambda: open_tensorrt(bundle, cache=cache),
        Cuda,
    ):
        with pytest.raises(BackendError, match=r"NVIDIA.*use backend 'onnx' here"):
            use()


def test_errors_hold_what_tensorrt_said_once_and_no_more_than_a_page() -> None:
    log = TrtLog()
    for i in range(1000):
        log.add(f"line {i % 60} " + "x" * 10_000)
    text = str(log.error("it failed"))
    assert text.startswith("it failed; TensorRT said: line ") and len(text) < 60_000
    log.clear()
    log.add("no memory\n")
    log.add("no memory\n")
    assert str(log.error("it failed")) == "it failed; TensorRT said: no memory"


def test_fp16_goes_with_int8_and_a_precision_that_fails_leaves_the_others(
    rtx: Library, bundle: Bundle, cache: EngineCache
) -> None:
    assert wanted(bundle, ["int8"]) == ("fp16", "int8")
    assert wanted(bundle, ["fp32"]) == ("fp32",)
    with pytest.raises(BundleError, match="int8"):
        graph_for(bundle, "int8")
    done = {c.precision: c for c in compile_bundle(bundle, rtx, cache, precisions=["int8"], max_streams=1)}
    assert done["fp16"].built and not done["fp16"].problem
    assert "no 'int8' model" in done["int8"].problem and not done["int8"].built
    assert cache.graph(bundle.digest, "fp16") == graph_for(bundle, "fp16")


def test_an_int8_bundle_is_compiled_as_convolutions_with_its_own_ranges(
    rtx: Library, bundle: Bundle, cache: EngineCache
) -> None:
    fields = bundle.manifest.model_dump(mode="json")
    fields.pop("parts")
    fields["precisions"]["int8"] = "model.int8.onnx"
    matrix = int8(bundle.model_bytes())
    loaded = read_bundle(pack_bundle(fields, {**bundle.parts, "model.int8.onnx": matrix}))
    graph = graph_for(loaded, "int8")
    ops = [n.op_type for n in onnx.load_from_string(graph).graph.node]
    assert "MatMul" not in ops and ops.count("DequantizeLinear") == 2 * (ops.count("Conv") - 1)

    rng = np.random.default_rng(0)
    m = bundle.manifest
    x = rng.normal(size=(2, 100, m.n_channels)).astype(np.float32)
    feed = {"x": x, "mask": np.ones_like(x), "state": np.zeros((2, m.state_size), np.float32)}

    def run(data: bytes) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # fused kernels saturate on some processors
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        mu: np.ndarray = session.run(["mu"], feed)[0]
        return mu

    exact, one, other = run(bundle.model_bytes()), run(matrix), run(graph)
    # where rounding meets a half, the two forms may differ by a step here and there; int8 as such moves far more
    assert float(np.abs(other - one).mean()) < 0.05 * float(np.abs(exact - one).mean())
    assert all(c.built for c in compile_bundle(loaded, rtx, cache, precisions=["int8"], max_streams=1))


def test_kinedge_compile_tells_what_it_built(
    rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    arguments = ["compile", str(DEFAULT_BUNDLE), "--cache", str(tmp_path / "c"), "--precision", "fp32"]
    arguments += ["--max-streams", "1", "--library", "tensorrt-rtx", "--json"]
    for built in (True, False):
        assert main(arguments) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(e["precision"], e["built"]) for e in found["engines"]] == [("fp32", built)]
    if driver_problem() is not None:
        assert main(["compile", str(DEFAULT_BUNDLE)]) == 1
        assert "use backend 'onnx' here" in capsys.readouterr().err
