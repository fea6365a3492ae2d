"""Hit rates against labelled root causes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinedge.benchmarks.attribution import bench_attribution, hit_rate
from kinedge.errors import ConfigError, SignalError


def _machines(path: Path, causes: list[str]) -> Path:
    """Write a machine of six waves; channels 2 and 5 (from 1) jump in samples 300 to 320, 4 in 500 to 510."""
    rng = np.random.default_rng(0)
    t = np.arange(800)[:, None]
    train, test = (np.sin(t / np.arange(5, 11)) + 0.1 * rng.normal(size=(800, 6)) for _ in range(2))
    test[300:321, [1, 4]] += 3
    test[500:511, 3] -= 2
    np.savez(path, **{"m-1/train": train, "m-1/test": test, "interp": np.array(json.dumps({"m-1": causes}))})
    return path


def test_hit_rate_counts_true_channels_at_the_top_of_the_ranking() -> None:
    order = np.array([3, 1, 0, 2, 4])
    assert hit_rate(order, (3, 1), share=1.0) == 1
    assert hit_rate(order, (3, 0), share=1.0) == 0.5
    assert hit_rate(order, (3, 0), share=1.5) == 1
    assert hit_rate(order, (4,), share=1.5) == 0


def test_channels_that_jump_are_ranked_first(tmp_path: Path) -> None:
    found = bench_attribution(_machines(tmp_path / "m.npz", ["300-320:2,5", "500-510:4"]))
    rates = {row["what"]: row["hit_rate_100"] for row in found["rows"]}
    assert rates["residual given its own past, peak"] == 1
    assert rates["residual given all channels, peak"] == 1
    assert len(rates) == 6
    assert found["settings"]["segments"] == 2


def test_wrong_labels_score_low(tmp_path: Path) -> None:
    found = bench_attribution(_machines(tmp_path / "m.npz", ["300-320:1,3", "500-510:6"]))
    assert found["rows"][0]["hit_rate_100"] == 0


@pytest.mark.parametrize("cause", ["300-320", "320-300:1", "300-9000:1", "300-320:0", "300-320:7", "x-y:1"])
def test_causes_outside_the_data_are_refused(tmp_path: Path, cause: str) -> None:
    with pytest.raises(SignalError, match="cause"):
        bench_attribution(_machines(tmp_path / "m.npz", [cause]))


def test_what_holds_no_machines_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for path in (tmp_path / "missing.npz", tmp_path / "other.npz", _machines(tmp_path / "none.npz", [])):
        with pytest.raises(ConfigError):
            bench_attribution(path)
