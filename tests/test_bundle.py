"""The bundle: every part checked, nothing hostile gets through, the same content gives the same bytes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kinedge.arrays import arrays_from_npz, arrays_to_npz
from kinedge.bundle import CALIBRATION_NAME, pack_bundle, read_bundle, write_bundle
from kinedge.errors import BundleError


def fields() -> dict[str, Any]:
    return {
        "name": "tiny",
        "created_utc": "2026-01-01T00:00:00Z",
        "kinedge_version": "0.1.0",
        "intended_use": "tests",
        "sensors": [{"name": "wrist_left", "channels": ["acc_x", "gyr_z"]}],
        "rate_hz": 50.0,
        "horizons": [2],
        "receptive_field": 8,
        "hop": 50,
        "block": 100,
        "center": [0.0, 0.0],
        "scale": [1.0, 1.0],
        "clip": 10.0,
        "student_t_nu": [[4.0, 4.0]],
        "inputs": [],
        "outputs": [],
        "state_size": 4,
        "precisions": {"fp32": "model.fp32.onnx"},
        "n_parameters": 1,
    }


def graph() -> bytes:
    """The smallest graph that has the manifest's inputs and outputs."""
    series: list[str | int] = ["B", "T", 2]
    shapes = {"x": series, "mask": series, "state": ["B", 4], "mu": series, "log_sigma": series, "state_out": ["B", 4]}
    values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["mu"]),
        helper.make_node("Relu", ["x"], ["log_sigma"]),
        helper.make_node("Identity", ["state"], ["state_out"]),
    ]
    made = helper.make_graph(nodes, "tiny", values[:3], values[3:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def parts() -> dict[str, bytes]:
    return {
        "model.fp32.onnx": graph(),
        CALIBRATION_NAME: arrays_to_npz({"a": np.arange(4.0)}),
        "card.md": b"# card",
    }


def rewritten(data: bytes, change: dict[str, bytes | None], *, add: dict[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = change.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (add or {}).items():
            new.writestr(name, content)
    return out.getvalue()


def test_what_was_written_is_read_and_named_by_its_digest(tmp_path: Path) -> None:
    data = pack_bundle(fields(), parts())
    write_bundle(tmp_path / "m.kinedge", data)
    bundle = read_bundle(tmp_path / "m.kinedge")
    assert bundle.model_bytes() == parts()["model.fp32.onnx"]
    assert list(bundle.calibration_arrays()["a"]) == [0, 1, 2, 3]
    assert pack_bundle(fields(), parts()) == data
    other = read_bundle(pack_bundle(fields(), {**parts(), "card.md": b"# other"}))
    assert other.digest != bundle.digest


def test_an_altered_part_is_refused() -> None:
    data = rewritten(pack_bundle(fields(), parts()), {"model.fp32.onnx": graph().replace(b"Relu", b"Tanh")})
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx does not have the digest"):
        read_bundle(data)


def test_a_part_that_is_missing_extra_or_too_large_is_refused() -> None:
    data = pack_bundle(fields(), parts())
    with pytest.raises(BundleError, match="listed but missing"):
        read_bundle(rewritten(data, {"card.md": None}))
    with pytest.raises(BundleError, match=r"evil\.py not listed"):
        read_bundle(rewritten(data, {}, add={"evil.py": b"import os"}))
    with pytest.raises(BundleError, match="larger than the 6 bytes"):
        read_bundle(rewritten(data, {"card.md": b"#" * 10_000_000}))


def test_a_zip_bomb_is_not_unpacked() -> None:
    manifest = b'{"a":"' + b"0" * (200 << 20) + b'"}'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("manifest.json", manifest)
    with pytest.raises(BundleError, match="larger than"):
        read_bundle(out.getvalue())


def test_a_path_out_of_the_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="not allowed"):
        pack_bundle(fields(), {**parts(), "../../etc/passwd": b"x"})
    with pytest.raises(BundleError, match="not listed"):
        read_bundle(rewritten(pack_bundle(fields(), parts()), {}, add={"../x": b"x"}))


def test_pickled_arrays_are_refused_without_being_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "sprung").touch, ())

    body = io.BytesIO()
    np.save(body, np.array([Trap()], dtype=object), allow_pickle=True)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.npy", body.getvalue())
    with pytest.raises(BundleError, match="plain arrays"):
        arrays_from_npz(out.getvalue(), where="here")
    with pytest.raises(BundleError):
        arrays_from_npz(pickle.dumps(Trap()), where="here")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"sensor": []}, "did you mean 'sensors'"),
        ({"center": [0.0]}, "center and scale must have 2"),
        ({"scale": [1.0, 0.0]}, "scale must be positive"),
        ({"block": 75}, "multiple of hop"),
        ({"precisions": {"fp32": "other.onnx"}}, "used but not listed"),
        ({"student_t_nu": [[2.0, 4.0]]}, "above 2"),
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"sensors": [{"name": "Left Wrist", "channels": ["acc_x", "gyr_z"]}]}, "lower case"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_with_what_and_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        pack_bundle({**fields(), **change}, parts())


def test_nan_in_a_manifest_is_refused() -> None:
    data = pack_bundle(fields(), parts())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    manifest["clip"] = float("nan")
    with pytest.raises(BundleError):
        read_bundle(rewritten(data, {"manifest.json": json.dumps(manifest).encode()}))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_damage_to_the_file_raises_anything_but_a_bundle_error(data: st.DataObject) -> None:
    whole = bytearray(pack_bundle(fields(), parts()))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "random"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        whole[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del whole[at:]
    elif kind == "insert":
        whole[at:at] = data.draw(st.binary(min_size=1, max_size=50))
    else:
        whole = bytearray(data.draw(st.binary(max_size=500)))
    try:
        bundle = read_bundle(bytes(whole))
    except BundleError:
        return
    assert bundle.parts == parts()  # damage outside the content (a time stamp) may pass, altered content never
