"""Tables of documents are those of the committed results, and writing them twice changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import typer

from kinedge.benchmarks.harness import result
from kinedge.benchmarks.headline_figures import moved
from kinedge.benchmarks.headlines import GROUPS, HEADLINES
from kinedge.benchmarks.results import Result, read_folder, result_of, seal, write_result
from kinedge.benchmarks.suite import SUITE, chosen, is_done, with_data
from kinedge.benchmarks.tables import TABLES, fill, table_text
from kinedge.cli.app import main
from kinedge.cli.bench import bench
from kinedge.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "results.md"
COMMITTED = ROOT / "benchmarks" / "results"


def made(*rows: dict[str, object], **more: object) -> Result:
    found = {**result("step", list(rows), settings={}), "warnings": [], **more}
    return result_of(seal(found, command="kinedge bench step --streams 1"), name="x")


def test_the_tables_of_the_documents_are_those_of_the_committed_results(capsys: pytest.CaptureFixture[str]) -> None:
    marked = [p for p in (DOCUMENT, ROOT / "README.md") if "<!-- bench:" in p.read_text(encoding="utf-8")]
    assert DOCUMENT in marked
    assert main(["bench", "tables", *map(str, marked), "--results", str(COMMITTED), "--check"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_every_table_stands_in_the_results_and_writing_twice_changes_nothing() -> None:
    text, results = DOCUMENT.read_text(encoding="utf-8"), read_folder(COMMITTED)
    assert all(f"<!-- bench:{name} -->" in text for name in TABLES)
    once = fill(text, results)
    assert fill(once, results) == once


def test_the_readme_has_a_line_for_everything_promised_and_says_what_was_not_measured() -> None:
    readme, results = (ROOT / "README.md").read_text(encoding="utf-8"), read_folder(COMMITTED)
    assert "<!-- bench:headlines -->" in readme and "not measured" not in readme
    assert "not in this run" not in readme
    for headline in HEADLINES:
        assert headline.what in readme
    for title, lines in GROUPS.items():  # each table with the command, day and machine of each of its results
        table = readme.partition(f"### {title}\n")[2].partition("\n### ")[0]
        for source in {s for line in lines for s in line.sources}:
            assert results[source].day in table and results[source].where in table
            assert results[source].command in table
    without = {name: found for name, found in results.items() if name != "alarms_daphnet"}
    assert table_text("headlines", without).count("not measured") == 1
    assert table_text("headlines", {}).count("not measured") == len(HEADLINES)


def test_what_a_form_of_the_model_moves_is_told_by_its_size_up_or_down() -> None:
    rows = [
        {"what": f"{name}: ONNX int8", "status": "ran", "vus_pr_change": change, "vus_pr_injected_change": injected}
        for name, change, injected in (("a", None, 0.001), ("b", -0.006, 0.002))
    ]
    rows.append({"what": "a: ONNX fp16", "status": "ran", "vus_pr_change": 0.5, "vus_pr_injected_change": 0.5})
    rows.append({**unrun("c: ONNX int8")[0], "vus_pr_change": None, "vus_pr_injected_change": 9.0})
    measured = moved("ONNX int8", ("vus_pr_change", "vus_pr_injected_change"), 0.005)(rows)
    assert (measured.figure, measured.reached) == ("0.0060 at most", False)
    assert moved("ONNX int8", ("vus_pr_injected_change",), 0.005)(rows).reached


def test_a_goal_that_is_missed_says_so_and_what_was_not_run_is_no_figure() -> None:
    caution = {"what": "simulated, clean", "u80": 0.9, "u80_se": 0.01, "people": 2, "right_reason": 0.7}
    text = table_text("headlines", {"caution": made(caution), "parity": made(*unrun("a: TensorRT fp32"))})
    assert "| 0.900 to 0.900 | ± 0.010 at most | 0.82, reached |" in text
    assert "| 0.700 to 0.700 | 2 people | 0.85, **missed** |" in text
    assert "| **not run** (1 of 1 rows) |" in text
    assert "| … u80 of a plain threshold, the six | not in this run |  |  |" in text


def unrun(what: str) -> list[dict[str, object]]:
    return [{"what": what, "status": "not run", "note": "no GPU"}]


def test_a_table_says_command_day_machine_and_what_is_doubtful() -> None:
    row = {"what": "engine", "streams": 4, "median_us": 12.5, "spread": 0.2, "unstable": True}
    found = made(row, warnings=["unstable: engine", "the machine is busy: load is above 0.7 per core"])
    text = table_text("step", {"step": found})
    assert "| engine | 4 | 12.5 |" in text
    assert "`kinedge bench step --streams 1`, 20" in text and "Unstable (spread of 10 % or more)**: engine" in text
    assert "**The machine is busy" in text
    assert "Not measured yet: `kinedge bench stages --people 16 " in table_text("stages", {"step": found})


def test_what_stands_outside_the_marks_is_left_as_it_is() -> None:
    before = "a\n<!-- bench:step -->\nold | figures\n<!-- /bench:step -->\nz | y\n"
    after = fill(before, {"step": made({"what": "engine", "median_us": 1.0})})
    assert after.startswith("a\n<!-- bench:step -->\n|") and after.endswith("<!-- /bench:step -->\nz | y\n")
    assert "old" not in after


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- bench:nothing -->\n<!-- /bench:nothing -->", "no table 'nothing'"),
        ("<!-- bench:step -->\n", "do not open and close"),
        ("<!-- bench:step -->\n<!-- /bench:decode -->", "do not open and close"),
    ],
)
def test_wrong_marks_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fill(text, {})


def test_a_stale_document_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "d.md"
    document.write_text("<!-- bench:step -->\n<!-- /bench:step -->\n")
    write_result(seal(result("step", [{"what": "engine", "median_us": 1.0}], settings={})), tmp_path / "step.json")
    arguments = ["bench", "tables", str(document), "--results", str(tmp_path)]
    assert main([*arguments, "--check"]) == 1
    assert "run kinedge bench tables" in " ".join(capsys.readouterr().err.split())
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    assert "| engine | 1 |" in document.read_text()


def test_the_suite_knows_the_source_of_every_table() -> None:
    produced = {entry.name for entry in SUITE}
    assert {source for table in TABLES.values() for source in table.sources} <= produced
    assert len({entry.name for entry in SUITE}) == len(SUITE)


def test_what_was_measured_of_this_commit_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert not is_done(path)
    write_result(seal(result("step", [{"what": "a"}], settings={})), path)
    assert is_done(path)
    found = json.loads(path.read_text())
    write_result(seal({**found, "machine": {**found["machine"], "commit": "another"}}), path)
    assert not is_done(path)
    path.write_text("{")
    assert not is_done(path)


def test_data_that_is_not_there_is_said(tmp_path: Path) -> None:
    (entry,) = chosen(["attribution"], quick=False)
    assert "say where by --data" in with_data(entry, None, quick=False)[1]
    assert "lacks smd.npz" in with_data(entry, tmp_path, quick=False)[1]
    with pytest.raises(ConfigError, match="no benchmark magic"):
        chosen(["magic"], quick=False)
    with pytest.raises(ConfigError, match="has no quick form"):
        chosen(["clock"], quick=True)


def test_the_script_for_a_board_is_a_script_and_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """With a stand-in for the command that writes down how it was called: a board's minutes are not spent here."""
    called, command = tmp_path / "called", tmp_path / "kinedge"
    command.write_text(
        f'#!/bin/sh\necho "$*" >>{called}\nwhile [ $# -gt 1 ]; do [ "$1" = --out ] && echo {{}} >"$2"; shift; done\n'
    )
    command.chmod(0o755)
    script, folder = ROOT / "benchmarks" / "on_a_board.sh", tmp_path / "out"
    environment = {**os.environ, "KINEDGE": str(command)}
    for _ in range(2):
        subprocess.run(["sh", str(script), str(folder)], env=environment, check=True, capture_output=True)
    lines = called.read_text().splitlines()
    names = [line.split()[1] for line in lines]
    assert names[:6] == ["gpu", "step", "stages", "throughput", "decode", "report"]
    assert names[6:] == ["report"]  # the second time: the page alone
    assert main(["--version"]) == 0  # registers the commands
    assert set(names) <= main_commands()
    for line in lines[:5]:
        assert set(re.findall(r"--[a-z-]+", line)) <= options_of(line.split()[1])


def main_commands() -> set[str]:
    return {c.name or (c.callback.__name__ if c.callback else "") for c in bench.registered_commands}


def options_of(name: str) -> set[str]:
    command = typer.main.get_command(bench)
    return {option for p in command.commands[name].params for option in p.opts}  # type: ignore[attr-defined]


@pytest.mark.timeout(900)  # 25 s of processor time; a busy machine may take long for them
def test_the_quick_form_runs_every_benchmark_that_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["bench", "all", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "failed" not in out
    for entry in chosen([], quick=True):
        assert entry.name in out
    assert out.count("measured") >= sum(1 for e in chosen([], quick=True) if not e.files)
