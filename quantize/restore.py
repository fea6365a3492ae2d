"""The network of a bundle, read back from its exported graph: to quantise it, to tune it, to export it in another form.

The graph carries every weight by name, and the shape of the network follows from theirs. Only the two biases of the
location have become one on the way out; it comes back as that of the head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from kinedge.bundle import Manifest
from kinedge.errors import BackendError, ConfigError
from kinedge.training.model import Forecaster, ForecasterConfig

__all__ = ["restore_model"]


def restore_model(graph: bytes, manifest: Manifest) -> Forecaster:
    """Return the network that a graph of :func:`kinedge.quantize.export.export_onnx` was written from.

    Parameters
    ----------
    graph
        In single precision.
    manifest
        Of its bundle: channels and horizons.

    Raises
    ------
    BackendError
        The graph was not written by ``export_onnx``, or is not the one the manifest describes.
    """
    try:
        proto = onnx.load_from_string(graph).graph
    except Exception as e:  # the decoder is protobuf's, and so are its errors
        raise BackendError(f"bundle {manifest.name}: its graph is no ONNX ({e}); train it again") from e
    arrays = {i.name: numpy_helper.to_array(i) for i in proto.initializer}
    try:
        model = Forecaster(_shape(proto, arrays, manifest))
        layers: dict[str, torch.nn.Module] = {"inp": model.inp, "head": model.head}
        if model.var is not None:
            layers["var"] = model.var
        layers |= {f"conv_{i}": conv for i, conv in enumerate(model.convs, start=1)}
        state: dict[str, torch.Tensor] = {}
        for name, layer in layers.items():
            weight = np.ascontiguousarray(arrays[f"{name}_weight"].T)
            bias = np.zeros(len(weight), np.float32) if name == "var" else arrays[f"{name}_bias"].copy()
            layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
            state[name] = layer.get_parameter("weight")
    except (KeyError, IndexError, ValueError, RuntimeError, ArithmeticError, ConfigError) as e:
        raise BackendError(
            f"bundle {manifest.name}: no network can be read from its graph ({e}); it was not written by this export"
        ) from e
    if model.state_size != manifest.state_size or not all(bool(torch.isfinite(w).all()) for w in state.values()):
        raise BackendError(f"bundle {manifest.name}: the network in its graph is not the one its manifest describes")
    return model.eval()


def _shape(proto: onnx.GraphProto, arrays: dict[str, NDArray[Any]], manifest: Manifest) -> ForecasterConfig:
    width = arrays["inp_weight"].shape[1]
    kernel = arrays["conv_1_weight"].shape[0] // width
    (cut,) = (node for node in proto.node if node.op_type == "Split" and node.input[0] == "state")
    var = arrays.get("var_weight")
    past = arrays[cut.input[1]][var is not None :] // width
    return ForecasterConfig(
        n_channels=manifest.n_channels,
        horizons=manifest.horizons,
        var_order=0 if var is None else var.shape[0] // manifest.n_channels,
        width=width,
        dilations=tuple(int(p) // (kernel - 1) for p in past),
        kernel=kernel,
    )
