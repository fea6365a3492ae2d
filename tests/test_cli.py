"""The command line: every command explains itself, is documented, and fails with one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from kinedge.cli import app as app_module
from kinedge.cli.app import app, main
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.native import library

ROOT = Path(__file__).resolve().parents[1]


def commands() -> list[str]:
    app_module._register()
    group = get_command(app)
    return sorted(group.commands)  # type: ignore[attr-defined]


def test_the_commands_are_there() -> None:
    assert set(commands()) >= {"demo", "run", "replay", "emulate", "train", "inspect", "collect", "bench", "episodes"}


@pytest.mark.parametrize("command", commands())
def test_a_command_has_help_with_an_example_and_stands_in_the_readme(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text) > 200
    if command != "bench":
        assert "xample" in text
    assert f"kinedge {command}" in (ROOT / "README.md").read_text()


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"`kinedge ([a-z][a-z-]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= set(commands())


def test_inspect_prints_the_manifest_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DEFAULT_BUNDLE), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["training"]["command"].startswith("kinedge train")
    assert manifest["sensors"][0]["name"] == "wrist_left"
    assert main(["inspect", str(DEFAULT_BUNDLE)]) == 0
    assert "all digests hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["inspect", "absent.kinedge"], 1, "absent.kinedge: cannot be read"),
        (["run", "absent.toml"], 1, "absent.toml: cannot be read"),
        (["emulate", "x", "--unplug", "nonsense"], 1, "--unplug 'nonsense': expected"),
        (["emulate", "x", "--event", "dance@wrist_left:1-2"], 1, "no anomaly 'dance'"),
        (["bench", "step", "--streams", "many"], 1, "expected whole numbers"),
        (["replay", "absent.npz", "--dataset", "nothing"], 1, "no data set 'nothing'"),
        (["inspct"], 2, "Did you mean"),
    ],
)
def test_a_mistake_costs_one_sentence_and_an_exit_status(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kinedge", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == status
    assert message in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_the_step_benchmark_measures_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    arguments = [
        "bench",
        "step",
        "--streams",
        "1,4",
        "--rounds",
        "3",
        "--round-s",
        "0.001",
        "--out",
        str(out),
        "--json",
    ]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    own = ("native in pieces",) if library() else ()
    assert [(r["what"], r["streams"]) for r in found["rows"]] == [
        (w, n)
        for n in (1, 4)
        for w in ("onnxruntime", "onnxruntime in pieces", *own, "engine", "verdicts", "chunks of 10", "chunks of 50")
    ]
    for row in found["rows"]:
        assert row["median_us"] > 0
        assert row["ratio"] == 1 or row["what"] != "onnxruntime"
    assert found["machine"]["onnxruntime"]


def test_train_reads_its_file_and_refuses_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="kinedge train needs torch, which boards do not have")
    path = tmp_path / "t.toml"
    for text, message in [
        ("[bundle]\nname = 'x'\n", "either [simulated] or [data]"),
        ("[simulated]\nsubject = 3\n", "did you mean 'subjects'"),
        ("[simulated]\n[bundle]\nrate = 50\n", "did you mean 'rate_hz'"),
        ("[data]\nname = 'mine'\npath = 'x'\n", "no data set 'mine'"),
    ]:
        path.write_text(text)
        assert main(["train", str(path), "--out", str(tmp_path / "m.kinedge")]) == 1
        assert message in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_train_without_torch_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; from kinedge.cli import main; sys.exit(main(['train', 'a.toml']))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "torch is not installed" in done.stderr and "pip install 'kinedge[train]'" in done.stderr


def test_the_session_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 66
    assert {line.split()[0] for line in lines} == {"normal", "anomalous", "unsure"}


def test_the_anomaly_benchmark_counts_what_was_put_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "anomalies", "--subjects", "1", "--minutes", "1", "--json"]) == 0
    rows = {r["what"]: r for r in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["noise burst (sensor fault)"]["found"] == "1 of 1"
    assert rows["noise burst (sensor fault)"]["right_sensor"] == "1 of 1"
    assert "ordinary movement, 10% loss" in rows
    assert len(rows) >= 18
