"""What one step costs, beside the bare ONNX Runtime call with the same model and the same input, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from kinedge.benchmarks.harness import interleaved, result, timing_row
from kinedge.bundle import read_bundle
from kinedge.edge.scoring import Scorer

__all__ = ["bench_step"]


def bench_step(
    bundle: Path, *, streams: Sequence[int] = (1, 16, 64, 256, 1024), n_rounds: int = 15, round_s: float = 0.05
) -> dict[str, Any]:
    """Time one hop of all streams: the bare graph, the engine around it, and all up to the verdicts.

    Parameters
    ----------
    bundle
        The model.
    streams
        How many at once.
    n_rounds, round_s
        See ``interleaved``.

    Returns
    -------
    dict
        Rows with ``what`` one of ``onnxruntime``, ``engine``, ``verdicts``; ``ratio`` is to the bare call.

    Raises
    ------
    BundleError, BackendError
        The model does not load.
    """
    loaded = read_bundle(bundle)
    scorer = Scorer(loaded)
    m = scorer.manifest
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    bare = onnxruntime.InferenceSession(loaded.model_bytes(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    rows = []
    for n in streams:
        shape = (n, m.hop, m.n_channels)
        values = rng.normal(np.array(m.center), np.array(m.scale), shape).astype(np.float32)
        valid = rng.random(shape) > 0.02
        saturated = np.zeros(shape, bool)
        x = rng.normal(size=shape).astype(np.float32)
        feed = {"x": x, "mask": valid.astype(np.float32), "state": np.zeros((n, m.state_size), np.float32)}
        state = scorer.initial_state(n)
        for i in range(m.receptive_field // m.hop + m.block // m.hop + 2):  # past the warm-up: the full work is done
            _, state = scorer.step(values, valid, saturated, state, end_tick=(i + 1) * m.hop)

        timings = interleaved(
            {
                "onnxruntime": lambda feed=feed: bare.run(None, feed),  # type: ignore[misc]
                "engine": lambda v=values, k=valid, s=state: scorer.engine.step(v, k, s.engine),  # type: ignore[misc]
                "verdicts": lambda v=values, k=valid, a=saturated, s=state: scorer.step(  # type: ignore[misc]
                    v, k, a, s, end_tick=0
                ),
            },
            n_rounds=n_rounds,
            round_s=round_s,
        )
        for what, timing in timings.items():
            rows.append(
                timing_row(
                    what,
                    timing,
                    streams=n,
                    us_per_sample=round(timing.median_us / (n * m.hop), 4),
                    ratio=round(timing.median_us / timings["onnxruntime"].median_us, 3),
                )
            )
    settings = {
        "model": m.name,
        "parameters": m.n_parameters,
        "channels": m.n_channels,
        "samples_per_step": m.hop,
        "n_rounds": n_rounds,
        "round_s": round_s,
    }
    return result("step", rows, settings=settings)
