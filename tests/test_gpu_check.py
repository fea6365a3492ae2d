from __future__ import annotations

import pytest

from kinedge.benchmarks.gpu_check import bench_gpu, exit_status
from kinedge.edge.backends.trt_library import driver_problem
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.native import library


@pytest.mark.skipif(driver_problem() is None, reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_measured_and_every_other_row_says_why_not() -> None:
    found = bench_gpu(DEFAULT_BUNDLE, streams=(1, 3), n_rounds=3, round_s=0.001, contract=False)
    rows = {(row["what"], row.get("streams")): row for row in found["rows"]}
    ran = {key for key, row in rows.items() if row["status"] == "ran"}
    native = ("native cpu",) if library() else ()
    timed = {(what, n) for what in ("onnxruntime cpu", *native, "torch cpu") for n in (1, 3)}
    assert ran == {("train cpu", None), *timed}
    assert all(rows[key]["median_us"] > 0 for key in timed)
    assert float(rows["torch cpu", 3]["note"].split(" by ")[1].split()[0]) < 1e-5
    left = {key[0]: row for key, row in rows.items() if key not in ran}
    assert {"train cuda", "torch cuda graph", "onnxruntime cuda", "tensorrt fp16", "tensorrt-rtx fp32"} <= set(left)
    assert {row["status"] for row in left.values()} == {"not run"}
    assert str(driver_problem()) in left["tensorrt fp16"]["note"]
    assert "no int8 graph" in left["tensorrt int8"]["note"]
    assert exit_status(found) == 3
    assert found["machine"]["gpu"] == driver_problem()


def test_the_exit_status_says_the_worst() -> None:
    def status(*states: str) -> int:
        return exit_status({"rows": [{"status": s} for s in states]})

    assert [status("ran"), status("ran", "not run"), status("not run", "failed", "ran")] == [0, 3, 1]
