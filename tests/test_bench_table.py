"""Tables of results on a terminal: as wide as it is at most, with every number whole."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kinedge.benchmarks.figures import written
from kinedge.benchmarks.results import read_result
from kinedge.cli.bench_stages import COLUMNS
from kinedge.cli.bench_table import fitted, show_rows

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
CELLS = st.one_of(
    st.none(), st.integers(0, 10**7), st.floats(0, 1e6, allow_nan=False), st.sampled_from(["ran", "1 of 3"])
)
NAMES = ("median_us", "p99_us", "max_us", "spread", "ratio", "n", "note")


def drawn(rows: Any, *, width: int, **more: Any) -> str:
    out = io.StringIO()
    show_rows(rows, Console(file=out, width=width), title="", **more)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("name", "more"),
    [("step", {}), ("stages", {"columns": COLUMNS, "apart": ("p50_us", "p50_ms")})],
    ids=["step", "stages"],
)
def test_a_step_and_its_stages_fit_the_terminal_with_every_number_whole(
    name: str, more: dict[str, Any], width: int
) -> None:
    rows = read_result(RESULTS / f"{name}.json").rows
    told = drawn(rows, width=width, **more)
    assert max(map(len, told.splitlines())) <= width
    assert "…" not in told
    left_out = told.partition("too narrow for:")[2].partition("(")[0]
    assert not any(key in left_out for key in ("median us", "us per sample", "p50", "rss mb", "spread"))
    for row in rows:
        for key in ("median_us", "us_per_sample", "ratio", "p50_us", "p99_us", "p50_ms", "spread", "rss_mb"):
            if key in row and key.replace("_", " ") not in left_out:
                assert written(row[key]) in told, f"{row['what']}: {key}"
    assert ("too narrow for" in told) == (width == 80)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"what": st.sampled_from(["engine", "chunks of 50", "onnxruntime in pieces"])} | dict.fromkeys(NAMES, CELLS)
        ),
        min_size=1,
        max_size=4,
    ),
    width=st.integers(40, 140),
)
def test_a_table_is_never_wider_than_asked_and_never_cuts_a_cell(rows: list[dict[str, Any]], width: int) -> None:
    table, missing = fitted(rows, ["what", *NAMES], width=width)
    told = drawn(rows, width=width)
    assert max(map(len, told.splitlines())) <= width and "…" not in told
    words = " ".join(told.split())
    for row in rows:
        for key in set(NAMES) - set(missing):
            value = row[key]
            if isinstance(value, int | float) and math.isfinite(value):
                assert written(value) in words
    assert table is not None or not missing


def test_rows_that_tell_other_figures_have_a_table_of_their_own_or_are_lines() -> None:
    rows = [{"what": "decode", "p50_us": 3.0}, {"what": "live", "p50_ms": 9.0}, {"what": "memory", "rss_mb": 145.1}]
    told = drawn(rows, width=80, columns=["what", "p50_us", "p50_ms"], apart=("p50_us", "p50_ms"))
    assert told.count("┏") == 2 and "memory: rss mb 145.1" in told
