"""Two sides in turns: the interval covers what it says, and a commit is measured by its own source."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import kinedge
from kinedge.benchmarks.ab import Side, bench_ab
from kinedge.benchmarks.intervals import ratio_of_pairs
from kinedge.cli.app import main
from kinedge.errors import SignalError

ROOT = Path(kinedge.__file__).resolve().parents[1]


@pytest.mark.parametrize("n_pairs", [6, 10, 25])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(n_pairs: int) -> None:
    """Lognormal times with drift that both sides of a pair share; 300 simulated comparisons, 95 % nominal."""
    rng = np.random.default_rng(n_pairs)
    covered = 0
    for _ in range(300):
        drift = np.exp(np.cumsum(rng.normal(0, 0.2, n_pairs)))
        a = 100 * drift * rng.lognormal(0, 0.1, n_pairs)
        b = 100 * 1.1 * drift * rng.lognormal(0, 0.1, n_pairs)
        found = ratio_of_pairs(a.tolist(), b.tolist())
        covered += found.low <= 1.1 <= found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_equal_sides_are_seldom_called_different_and_far_ones_always() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        a, b = rng.lognormal(0, 0.2, (2, 12))
        alarms += ratio_of_pairs(a, b).says != "no difference seen"
        assert ratio_of_pairs(a, 5 * b).says == "more"
    assert alarms <= 20


def test_drift_that_both_share_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 5, 12)
    a, b = drift * rng.lognormal(0, 0.01, 12), 1.3 * drift * rng.lognormal(0, 0.01, 12)
    found = ratio_of_pairs(a, b)
    assert found.low < 1.3 < found.high and found.high / found.low < 1.05


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0] * 4, [1.0] * 4), ([1.0] * 6, [1.0] * 5), ([1.0] * 5, [0.0] * 5), ([1.0] * 5, [float("nan")] * 5)],
)
def test_what_makes_no_ratio_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(SignalError, match="a ratio needs"):
        ratio_of_pairs(a, b)


def test_numbers_without_any_spread_are_told_as_they_are() -> None:
    found = ratio_of_pairs([2.0] * 5, [3.0] * 5)
    assert (found.value, found.low, found.high) == (pytest.approx(1.5),) * 3


@pytest.mark.timeout(900)  # twelve processes of a second each; a busy machine may take long for them
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository it compares commits of")
def test_a_commit_is_measured_by_its_own_source_and_its_worktree_is_gone_afterwards(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True, text=True).stdout.strip()

    tree = tmp_path / "tree"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), "HEAD"], cwd=ROOT, check=True)
    try:
        # a commit whose benchmark says 1,000 times what ours does
        claps = tree / "benchmarks" / "claps.py"
        claps.write_text(claps.read_text() + "\n\ndef bench_clap(**_):\n"
            "    return result('clap', [{'what': 'made up', 'median_us': 1000.0}], settings={})\n")  # fmt: skip
        git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "slower")
        commit = git("rev-parse", "HEAD")
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    sides = Side("a", commit, ("clap",)), Side("b", commit, ("clap", "--trials", "20"))
    found = bench_ab(*sides, pairs=5, measure="median_us")
    (row,) = found["rows"]
    assert row["a"] == row["b"] == 1000.0 and row["b_of_a"] == 1.0 and row["verdict"] == "no difference seen"
    assert found["settings"]["a"] == f"{commit}: clap" and found["settings"]["b"].endswith("clap --trials 20")
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "kinedge-ab-" not in listed


def test_what_cannot_be_compared_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ab", "here", "here", "--run", "decode"]) == 1
    assert "a and b are the same" in capsys.readouterr().err
    assert main(["bench", "ab", "here", "HEAD", "--run", "all"]) == 1
    assert "give a benchmark" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository it compares commits of")
def test_a_revision_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ab", "no-such-branch", "here", "--run", "decode"]) == 1
    assert "no revision 'no-such-branch'" in capsys.readouterr().err


def test_an_installed_kinedge_says_that_it_knows_no_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kinedge, "__file__", str(tmp_path / "site-packages" / "kinedge" / "__init__.py"))
    assert main(["bench", "ab", "main", "here", "--run", "decode"]) == 1
    assert "installed, not checked out" in capsys.readouterr().err
