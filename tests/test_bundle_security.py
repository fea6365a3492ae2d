"""Hostile bundles: refused with one clear error before any inference library sees them, and within a budget."""

from __future__ import annotations

import io
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kinedge.arrays import arrays_from_npz
from kinedge.bundle import Bundle, pack_bundle, read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.trusted import load_trusted
from kinedge.errors import BundleError
from kinedge.onnx_guard import OPERATORS, check_graph
from kinedge.onnx_wire import read_onnx
from kinedge.quantize.export_conv import conv_form
from kinedge.quantize.fp16 import to_fp16
from kinedge.quantize.int8 import layers_of, load, quantise

MODEL = "model.fp32.onnx"
_SHIPPED = read_bundle(DEFAULT_BUNDLE)
_GRAPH = _SHIPPED.parts[MODEL]
N, S, HOP = _SHIPPED.manifest.n_channels, _SHIPPED.manifest.state_size, _SHIPPED.manifest.hop


def checked(graph: onnx.ModelProto | bytes) -> None:
    check_graph(
        graph if isinstance(graph, bytes) else graph.SerializeToString(),
        inputs={"x": (-1, -1, N), "mask": (-1, -1, N), "state": (-1, S)},
        outputs={"mu": (-1, -1, 2 * N), "log_sigma": (-1, -1, 2 * N), "state_out": (-1, S)},
        hop=HOP,
        where="here",
    )


@pytest.fixture
def shipped(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.parts[MODEL])


def test_every_form_the_exporters_write_passes(bundle: Bundle) -> None:
    matrix = bundle.parts[MODEL]
    for form in (matrix, conv_form(matrix)):
        checked(form)
        checked(to_fp16(form))
        layers = layers_of(load(form).graph)
        checked(quantise(form, {layer.name: 0.1 for layer in layers}, layers=[layer.name for layer in layers]))


def test_the_outline_is_what_onnx_itself_reads(shipped: onnx.ModelProto) -> None:
    outline = read_onnx(shipped.SerializeToString(), where="here")
    assert [n.op_type for n in outline.nodes] == [n.op_type for n in shipped.graph.node]
    assert [n.inputs for n in outline.nodes] == [tuple(n.input) for n in shipped.graph.node]
    for ours, theirs in zip(outline.initializers, shipped.graph.initializer, strict=True):
        array = numpy_helper.to_array(theirs)
        assert (ours.name, ours.shape) == (theirs.name, array.shape)
        if theirs.data_type == TensorProto.INT64:
            assert ours.integers == tuple(array.ravel().tolist())


def sub_graph(m: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    m.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))


def other_domain(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("Relu", ["x"], ["y"], domain="com.evil"))


def other_opset(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def old_opset(m: onnx.ModelProto) -> None:
    m.opset_import[0].version = 9


def local_function(m: onnx.ModelProto) -> None:
    m.functions.append(helper.make_function("d", "Relu", ["a"], ["b"], [], [helper.make_opsetid("", 17)]))


def external_data(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def external_location_alone(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].data_location = TensorProto.EXTERNAL


def huge_claim(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].dims[0] = 1 << 40


def negative_dim(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].dims[0] = -24


def wrong_width(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[2].dim_value = N + 1


def wrong_result(m: onnx.ModelProto) -> None:
    m.graph.node[-1].input.pop()


def missing_output(m: onnx.ModelProto) -> None:
    m.graph.output.pop()


def double_input(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def doubling(m: onnx.ModelProto) -> None:
    for i in range(40):
        name = "x" if i == 0 else f"big_{i - 1}"
        m.graph.node.insert(i, helper.make_node("Concat", [name, name], [f"big_{i}"], axis=1))


def outer_products(m: onnx.ModelProto) -> None:
    wide = numpy_helper.from_array(np.ones((N, 200_000), np.float32)[:, :1].repeat(1000, 1), "wide")
    m.graph.initializer.append(wide)
    m.graph.node.insert(0, helper.make_node("MatMul", ["x", "wide"], ["w"]))
    m.graph.node.insert(1, helper.make_node("Transpose", ["w"], ["wt"], perm=[0, 2, 1]))
    m.graph.node.insert(2, helper.make_node("MatMul", ["wt", "w"], ["ww"]))
    for i in range(40):
        m.graph.node.insert(3 + i, helper.make_node("MatMul", ["ww", "ww"], [f"www_{i}"]))


def padded(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.ones((1, HOP, 1), np.float32), "k"))
    m.graph.node.insert(0, helper.make_node("Conv", ["x", "k"], ["y"], pads=[1 << 40, 1 << 40]))


def range_of_anything(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("ConstantOfShape", ["x"], ["y"]))


def training(m: onnx.ModelProto) -> None:
    m.training_info.add()


def sparse(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.add()


def text_tensor(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))


def name_twice(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("Relu", ["x"], ["mu"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sub_graph, r"field 6 of an attribute is not allowed"),
        (other_domain, r"com\.evil:Relu is not allowed"),
        (other_opset, r"operators of , com\.microsoft"),
        (old_opset, "opset 9"),
        (local_function, "field 25 of the model"),
        (external_data, "field 13 of a tensor"),
        (external_location_alone, "kept in another file"),
        (huge_claim, "claims shape"),
        (negative_dim, "has shape"),
        (wrong_width, r"x is type 1 .*13.*expected"),
        (wrong_result, "state_out comes out as"),
        (missing_output, "its outputs are"),
        (double_input, "x is type 11"),
        (doubling, "too big for a board"),
        (outer_products, "too big for a board"),
        (padded, "too big for a board|do not go together"),
        (range_of_anything, "ConstantOfShape is not allowed"),
        (training, "field 20 of the model"),
        (sparse, "field 15 of the graph"),
        (text_tensor, "field 6 of a tensor"),
        (name_twice, "stands twice"),
    ],
)
def test_a_graph_with_more_than_plain_arithmetic_is_refused(
    bundle: Bundle, shipped: onnx.ModelProto, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    change(shipped)
    with pytest.raises(BundleError, match=message):
        checked(shipped)
    fields = bundle.manifest.model_dump(mode="json", exclude={"parts"})
    with pytest.raises(BundleError, match=message):
        read_bundle(pack_bundle(fields, {**bundle.parts, MODEL: shipped.SerializeToString()}))


def test_no_operator_that_runs_graphs_or_makes_sizes_from_data_is_on_the_list() -> None:
    banned = {"If", "Loop", "Scan", "SequenceMap", "ConstantOfShape", "Range", "Tile", "Expand", "Resize", "NonZero"}
    assert not OPERATORS & (banned | {"Pad", "OneHot", "RandomNormal", "Unique", "StringConcat", "Shape"})
    assert {"Conv", "MatMul", "QuantizeLinear", "DequantizeLinear"} <= OPERATORS


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_no_damage_to_a_graph_raises_anything_but_a_bundle_error(data: st.DataObject) -> None:
    whole = bytearray(_GRAPH)
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "swap", "random"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        for i in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[i] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del whole[at:]
    elif kind == "insert":
        whole[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    elif kind == "swap":
        to = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 40], whole[to : to + 40] = whole[to : to + 40], whole[at : at + 40]
    else:
        whole = bytearray(data.draw(st.binary(max_size=300)))
    try:
        checked(bytes(whole))
    except BundleError as e:
        assert str(e).startswith("here")


def test_a_flood_of_tiny_fields_ends_at_a_budget() -> None:
    with pytest.raises(BundleError, match="more than 100000 fields"):
        checked(b"\x10\x00" * 5_000_000)


def with_entry(plain: bytes, change: Callable[[zipfile.ZipInfo], None], *, name: str = "card.md") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            entry = zipfile.ZipInfo(info.filename)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if info.filename == name:
                change(entry)
            new.writestr(entry, old.read(info))
    return out.getvalue()


def link(entry: zipfile.ZipInfo) -> None:
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def device(entry: zipfile.ZipInfo) -> None:
    entry.create_system = 3
    entry.external_attr = (stat.S_IFBLK | 0o600) << 16


def slow_packing(entry: zipfile.ZipInfo) -> None:
    entry.compress_type = zipfile.ZIP_LZMA


@pytest.mark.parametrize(("change", "message"), [(link, "a link"), (device, "a link"), (slow_packing, "packed in way")])
def test_members_that_are_no_plain_files_are_refused(change: Callable[[zipfile.ZipInfo], None], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_bundle(with_entry(DEFAULT_BUNDLE.read_bytes(), change))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "CARD.md", "card.md/", "card.md\x00.py", "C:\\x", "a/b"])
def test_names_that_are_paths_or_differ_in_case_alone_are_refused(name: str) -> None:
    out = io.BytesIO(DEFAULT_BUNDLE.read_bytes())
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BundleError, match=r"each once|not listed|a folder"):
        read_bundle(out.getvalue())


def test_a_member_twice_is_refused_whichever_is_right() -> None:
    out = io.BytesIO(DEFAULT_BUNDLE.read_bytes())
    with zipfile.ZipFile(out, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("card.md", archive.read("card.md"))
    with pytest.raises(BundleError, match="each once"):
        read_bundle(out.getvalue())


def npy(header: bytes, body: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        head = header + b" " * (117 - len(header)) + b"\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body)
    return out.getvalue()


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(9,)", "(-1,)", "(1000000000000000000000,)"])
def test_an_array_that_claims_more_than_it_has_is_refused_before_memory_is_reserved(shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    with pytest.raises(BundleError, match=r"claims|not readable"):
        arrays_from_npz(npy(header, b"\0" * 64), where="here")


def test_a_bomb_of_every_part_is_refused_in_little_memory(tmp_path: Path) -> None:
    out = io.BytesIO()
    plain = io.BytesIO(DEFAULT_BUNDLE.read_bytes())
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if name == "manifest.json" else b"\0" * (60 << 20))
    path = tmp_path / "bomb.kinedge"
    path.write_bytes(out.getvalue())
    code = (
        "import sys, resource\nfrom pathlib import Path\nfrom kinedge.bundle import read_bundle\n"
        "from kinedge.errors import BundleError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_bundle(Path(sys.argv[1]))\n"
        "except BundleError:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 40_000  # KiB on Linux


def test_a_sparse_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.kinedge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="a bundle has at most"):
        read_bundle(path)


def test_trust_is_decided_before_any_graph_is_loaded(tmp_path: Path, bundle: Bundle) -> None:
    """A bundle whose graph ONNX Runtime cannot load is refused for its signature, not for its graph."""
    path = tmp_path / "m.kinedge"
    path.write_bytes(DEFAULT_BUNDLE.read_bytes())
    fields: dict[str, Any] = {"site": "s", "gateway": "g", "bundle": path, "people": [{"subject": "p"}]}
    loaded = "onnxruntime.InferenceSession"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, lambda *_, **__: pytest.fail("a graph was loaded before its signature was checked"))
        with pytest.raises(BundleError, match="not signed"):
            load_trusted(GatewayConfig.model_validate(fields))
    lax = GatewayConfig.model_validate({**fields, "trust": {"allow_unsigned": True}})
    assert load_trusted(lax)[1].bases[0].unsigned == ("model",)
    assert load_trusted(lax)[0].bundle.digest == bundle.digest
