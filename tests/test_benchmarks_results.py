"""Results of benchmarks: what is written is read back, what is foreign or altered is refused, two are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.benchmarks.compare import compare
from kinedge.benchmarks.figures import better, figure_of, main_measure, of_time, written
from kinedge.benchmarks.harness import Timing, quantile_row, result, timing_row
from kinedge.benchmarks.machine import describe_machine, parse_nvpmodel, source_commit
from kinedge.benchmarks.report import bench_html, bench_markdown, comparison_html
from kinedge.benchmarks.results import Result, read_folder, read_result, result_of, seal, write_result
from kinedge.cli.app import main
from kinedge.errors import ConfigError

COMMITTED = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False))
ROWS = st.lists(
    st.dictionaries(st.text(max_size=6), st.one_of(NUMBERS, st.text(max_size=6), st.booleans(), st.none()), max_size=4),
    max_size=4,
)


def made(median_us: float = 100.0, *, spread: float = 0.02, **more: Any) -> Result:
    row = timing_row("engine", Timing(median_us, 120.0, spread, 9, 130.0, 140.0, 1e6), streams=4)
    return result_of(
        seal({**result("step", [row, {"what": "other", "streams": 4}], settings={"n": 1}), **more}), name="x"
    )


@settings(deadline=None, max_examples=30)  # each asks git
@given(rows=ROWS, command=st.text(max_size=12))
def test_what_is_written_is_read_back_whole(rows: list[dict[str, Any]], command: str) -> None:
    named = [{**row, "what": str(i)} for i, row in enumerate(rows)]
    sealed = seal(result("step", named, settings={}), command=command)
    again = result_of(json.loads(json.dumps(sealed)), name="x")
    assert [dict(row) for row in again.rows] == named
    assert again.command == command and again.version == 2


def test_a_result_that_was_altered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    found = seal(result("step", [{"what": "a", "median_us": 3.0}], settings={}))
    write_result(found, path)
    assert read_result(path).digest == found["digest"]
    path.write_text(path.read_text().replace("3.0", "2.0"))
    with pytest.raises(ConfigError, match="altered after it was measured"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "kinedge.bench/3"}, "newer kinedge"),
        ({"schema": "pyperf/1"}, "reads kinedge.bench/1 and /2"),
        ({"schema": None}, "names no schema"),
        ({"rows": {}}, "lacks rows"),
        ({"rows": [{"median_us": 1}]}, "every row"),
        ({"warnings": [1]}, "warnings must be sentences"),
    ],
)
def test_what_is_no_result_of_ours_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    found = {**seal(result("step", [{"what": "a"}], settings={})), **change}
    with pytest.raises(ConfigError, match=words):
        result_of(found, name="x")


def test_every_result_that_was_ever_committed_is_read() -> None:
    found = read_folder(COMMITTED)
    assert {"step", "tsb", "caution", "collector"} <= found.keys()
    assert all(r.rows and r.utc.startswith("20") for r in found.values())


def test_a_file_that_is_no_json_and_a_folder_without_results_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        read_result(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="holds no results"):
        read_folder(tmp_path / "nowhere")


def test_a_difference_within_the_spread_is_none_and_one_beyond_it_is_said() -> None:
    near = {c.measure: c for c in compare(made(100, spread=0.1), made(104, spread=0.1)).rows}
    far = {c.measure: c for c in compare(made(100, spread=0.1), made(150, spread=0.1)).rows}
    assert near["median_us"].verdict == "within the spread"
    assert far["median_us"].verdict == "worse" and far["median_us"].ratio == 1.5
    assert far["p99_us"].verdict == ""  # the spread of rounds says nothing about tails


def test_a_comparison_says_what_else_differs() -> None:
    found = compare(made(), made(machine={**made().machine, "cpu": "another"}, settings={"n": 2}))
    assert any("another cpu" in w for w in found.warnings) and any("another setting n" in w for w in found.warnings)
    with pytest.raises(ConfigError, match="only results of one benchmark"):
        compare(made(), made(benchmark="decode"))
    with pytest.raises(ConfigError, match="no figure speed in both"):
        compare(made(), made(), measures=["speed"])


def test_a_verdict_on_times_is_doubtful_where_one_of_the_runs_warned_of_load_or_of_rounds_that_differ() -> None:
    busy = {"warnings": ["the machine is busy: load is above 0.7 per core"]}
    quiet: dict[str, Any] = {"warnings": []}

    def verdict(a: Result, b: Result) -> tuple[str, str]:
        (row,) = compare(a, b, measures=["median_us"]).rows
        return row.said, row.doubt

    assert verdict(made(100, **quiet), made(50, **quiet)) == ("better", "")
    assert verdict(made(100, **busy), made(50, **quiet)) == ("better, doubtful", "a busy")
    shaky = made(250, spread=0.3, **busy)
    assert verdict(made(100, **quiet), shaky) == ("worse, doubtful", "b busy and unstable")
    assert verdict(made(100, **busy), made(101, **busy))[0] == "within the spread, doubtful"
    rows = compare(made(100, **busy), made(50, **quiet)).as_rows()
    assert {r["verdict"] for r in rows if r["measure"] == "median_us"} == {"better, doubtful"}


def test_load_casts_no_doubt_on_what_is_no_time() -> None:
    rows = [{"what": "fused", "vus_pr": 0.5, "median_delay_s": 3.0, "us_per_sample": 4.0}]
    busy = ["the machine is busy: load is above 0.7 per core"]
    a, b = (
        result_of(
            seal({**result("tsb", [{**rows[0], "vus_pr": v, "us_per_sample": t}], settings={}), "warnings": busy}),
            name="x",
        )
        for v, t in ((0.5, 4.0), (0.6, 5.0))
    )
    said = {c.measure: c.said for c in compare(a, b).rows}
    assert (
        said["vus_pr"] == "better" and said["median_delay_s"] == "same" and said["us_per_sample"] == "worse, doubtful"
    )
    assert of_time("episodes_per_s") and of_time("people_per_core") and not of_time("false_per_hour")


def test_a_comparison_ends_with_how_many_verdicts_are_doubtful_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / name for name in ("a.json", "b.json")]
    for path, median, spread in zip(places, (100.0, 300.0), (0.01, 0.4), strict=True):
        rows = [timing_row("engine", Timing(median, 120.0, spread, 9, 130.0, 140.0, 1e6))]
        write_result(seal({**result("step", rows, settings={}), "warnings": []}), path)
    assert main(["bench", "compare", *map(str, places), "--measure", "median_us"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of 1 verdicts are doubtful (b: unstable)" in told and "kinedge bench ab" in told


def test_too_short_and_unstable_are_warned_of() -> None:
    rows = [
        timing_row("brief", Timing(1.0, 1.0, 0.0, 3, 1.0, 1.0, 10.0)),
        timing_row("noisy", Timing(1.0, 1.0, 0.4, 9, 1.0, 1.0, 1e6)),
        timing_row("fine", Timing(1.0, 1.0, 0.01, 9, 1.0, 1.0, 1e6)),
    ]
    warnings = result("step", rows, settings={})["warnings"]
    assert "too short to trust: brief" in warnings and "unstable: noisy" in warnings
    assert not any("fine" in w for w in warnings)


def test_quantiles_of_single_durations_are_of_all_of_them() -> None:
    row = quantile_row("decode", [float(i) for i in range(1, 1001)], unit="us")
    assert (row["p50_us"], row["p90_us"], row["max_us"], row["n"]) == (500.5, 900.1, 1000.0, 1000)
    assert row["unstable"]  # it grew all the time: its parts differ
    assert quantile_row("nothing", [], unit="us") == {"what": "nothing", "n": 0}


@pytest.mark.parametrize(
    ("cell", "value", "low", "high"),
    [
        ("4.50 (2.06-8.54)", 4.5, 2.06, 8.54),
        ("0.697 ± 0.002", 0.697, 0.695, 0.699),
        ("67%", 0.67, None, None),
        ("11 of 12", 11 / 12, None, None),
        (3, 3.0, None, None),
        ("", None, None, None),
        (True, None, None, None),
    ],
)
def test_figures_written_as_words_are_read(
    cell: object, value: float | None, low: float | None, high: float | None
) -> None:
    found = figure_of(cell)
    if value is None:
        assert found is None
        return
    assert found is not None
    assert (found.value, found.low, found.high) == (
        pytest.approx(value),
        *(x and pytest.approx(x) for x in (low, high)),
    )


def test_which_way_is_better_is_known_of_the_usual_figures() -> None:
    assert {better(m) for m in ("median_us", "us_per_sample", "wait_p99_ms", "false_per_hour", "aurc")} == {"less"}
    assert {better(m) for m in ("vus_pr", "people_per_core", "u80", "found", "hit_rate_100")} == {"more"}
    assert better("parameters") == ""
    assert [written(v) for v in (0.123456, 12345.6, 0.0, None, True, 7)] == ["0.1235", "12,346", "0", "", "yes", "7"]
    assert main_measure([{"what": "a", "false_per_hour": "4 (1-9)"}, {"what": "b", "false_per_hour": 1}]) is not None


def test_a_page_holds_every_row_warning_and_plot_and_nothing_from_outside() -> None:
    results = list(read_folder(COMMITTED).values())
    page, text = bench_html(results), bench_markdown(results)
    for r in results:
        assert all(w.replace("<", "&lt;") in page and w in text for w in r.warnings)
    assert page.count("<tr>") == sum(len(r.rows) + 1 for r in results)
    assert "<svg" in page and "█" in text
    step = bench_markdown([r for r in results if r.benchmark == "step"])
    assert "(less is better), logarithmic:" in step  # bars of a thousandfold range are none of length
    assert "<script" not in page and "http" not in page
    assert "&lt;b&gt;" in bench_html([made(benchmark="<b>")])


def test_compare_and_report_are_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    for path, median in ((a, 100.0), (b, 300.0)):
        rows = [timing_row(what, Timing(median, 120.0, 0.01, 9, 130.0, 140.0, 1e6)) for what in ("engine", "bare")]
        quiet = {**result("step", rows, settings={}), "warnings": []}  # whatever else runs here
        write_result(seal(quiet, command="kinedge bench step"), path)
    assert main(["bench", "compare", str(a), str(b), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["measure"] == "median_us" and rows[0]["b_of_a"] == 3.0 and rows[0]["verdict"] == "worse"
    assert main(["bench", "--compare", str(a), str(b)]) == 0
    assert "worse" in capsys.readouterr().out
    for name, words in (("r.html", "<svg"), ("r.md", "| engine |")):
        assert main(["bench", "report", str(tmp_path), "--out", str(tmp_path / name)]) == 0
        text = (tmp_path / name).read_text()
        assert words in text and "kinedge bench step" in text
    assert main(["bench", "report", str(a), "--out", str(tmp_path / "r.pdf")]) == 1
    assert "ends in .html or .md" in capsys.readouterr().err
    assert "b as a multiple of a" in comparison_html(compare(read_result(a), read_result(b)))


def test_a_result_tells_how_it_was_made_without_the_folders_of_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clap.json"
    assert main(["bench", "clap", "--trials", "10", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert read_result(out).command == "kinedge bench clap --trials 10"


def test_a_machine_is_described_by_what_it_shows(tmp_path: Path) -> None:
    for name, text in {
        "proc/cpuinfo": "processor: 0\nmodel name\t: Some CPU\n",
        "proc/meminfo": "MemTotal:        7802564 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/class/thermal/thermal_zone0/temp": "45500\n",
        "sys/class/thermal/thermal_zone1/temp": "51250\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = describe_machine(root=tmp_path)
    assert (found["cpu"], found["governor"], found["temperature_c"]) == ("Some CPU", "schedutil", 51.25)
    assert (found["board"], found["gpu"]) == ("NVIDIA Jetson Orin Nano Developer Kit", "of the board")
    assert found["memory_mb"] == 7619
    assert parse_nvpmodel("NV Power Mode: 15W\n0\n") == "15W (0)"
    assert parse_nvpmodel("NV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER (2)"
    assert parse_nvpmodel("error") is None
    assert source_commit(tmp_path) == (None, None)
