"""Two commits, or two ways to call one benchmark, measured in turns: the ratio with an interval, not two numbers.

Each side is a process of its own, started anew for every turn, with the source tree it is about first on its path. The
sides take turns (a b, b a, a b, ...), so that neither is always the warmer one. A commit is checked out into a worktree
of its own beside nothing else; what is compared is the source, in the environment that runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import kinedge
from kinedge.benchmarks.figures import identity, main_measure
from kinedge.benchmarks.harness import result
from kinedge.benchmarks.intervals import ratio_of_pairs
from kinedge.errors import BackendError, ConfigError, SignalError

__all__ = ["HERE", "Side", "bench_ab"]

#: The revision that means this source tree, as it stands.
HERE: Final = "here"
_ROOMS: Final = ("firmware_bridge", "edge", "training", "quantize", "upstream", "benchmarks", "cli")
_TIMEOUT_S: Final = 1800.0
_SPREAD: Final = 0.10


@dataclass(frozen=True)
class Side:
    """One of the two.

    Parameters
    ----------
    name
        ``a`` or ``b``.
    revision
        Of git, or ``here``.
    arguments
        Of ``kinedge bench``, without ``--json`` and ``--out``.
    """

    name: str
    revision: str
    arguments: tuple[str, ...]


def bench_ab(
    a: Side,
    b: Side,
    *,
    pairs: int = 10,
    measure: str | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> dict[str, Any]:
    """Run both in turns and compare them row by row.

    Parameters
    ----------
    a, b
        What is compared.
    pairs
        Runs of each, at least five; one more of each warms up caches and is thrown away.
    measure
        The figure; the benchmark's main one when None.
    progress
        Told which turn is next, how many are over, and of how many.

    Raises
    ------
    ConfigError
        No such revision, too few pairs, or the two have no row and figure in common.
    BackendError
        A run failed.
    """
    if pairs < 5:
        raise ConfigError(f"--pairs {pairs}: an interval needs at least 5")
    found: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinedge-ab-")))
        trees = {side.name: stack.enter_context(_source(side.revision, folder / side.name)) for side in (a, b)}
        for k in range(pairs + 1):
            for i, side in enumerate((a, b) if k % 2 == 0 else (b, a)):
                progress(f"{side.name}: {side.revision}, turn {k} of {pairs}", 2 * k + i, 2 * pairs + 2)
                run = _run(side, trees[side.name])
                if k:
                    found[side.name].append(run)
        progress("", 2 * pairs + 2, 2 * pairs + 2)
    rows = _rows(found["a"], found["b"], measure)
    settings = {
        "a": f"{a.revision}: {' '.join(a.arguments)}",
        "b": f"{b.revision}: {' '.join(b.arguments)}",
        "commit_a": found["a"][0]["machine"].get("commit"),
        "commit_b": found["b"][0]["machine"].get("commit"),
        "pairs": pairs,
    }
    return result("ab", rows, settings=settings)


def _rows(
    runs_a: Sequence[dict[str, Any]], runs_b: Sequence[dict[str, Any]], measure: str | None
) -> list[dict[str, Any]]:
    wanted = measure or main_measure(runs_a[0]["rows"])
    if wanted is None:
        raise ConfigError("this benchmark has no single main figure: say which with --measure")
    series = [_by_row(runs, wanted) for runs in (runs_a, runs_b)]
    rows = []
    for key in [k for k in series[0] if k in series[1]]:
        first, second = series[0][key], series[1][key]
        if len(first) != len(runs_a) or len(second) != len(runs_b):
            continue
        try:
            ratio = ratio_of_pairs(first, second)
        except SignalError:
            continue  # a figure of 0: a count, not a time
        spreads = [_spread(values) for values in (first, second)]
        rows.append(
            {
                "what": ", ".join(key),
                "measure": wanted,
                "a": round(float(np.median(first)), 4),
                "b": round(float(np.median(second)), 4),
                "b_of_a": round(ratio.value, 4),
                "low": round(ratio.low, 4),
                "high": round(ratio.high, 4),
                "verdict": ratio.says,
                "spread_a": round(spreads[0], 4),
                "spread_b": round(spreads[1], 4),
                "unstable": max(spreads) >= _SPREAD,
            }
        )
    if not rows:
        raise ConfigError(f"a and b have no row with the figure {wanted} in common, or it is 0 there")
    return rows


def _by_row(runs: Sequence[dict[str, Any]], measure: str) -> dict[tuple[str, ...], list[float]]:
    found: dict[tuple[str, ...], list[float]] = {}
    for run in runs:
        for row in run["rows"]:
            value = row.get(measure)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(identity(row), []).append(float(value))
    return found


def _spread(values: Sequence[float]) -> float:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float((high - low) / middle) if middle else 0.0


def _run(side: Side, tree: Path | None) -> dict[str, Any]:
    environment = dict(os.environ)
    if tree is not None:
        environment["PYTHONPATH"] = str(tree)
    command = [sys.executable, "-m", "kinedge", "bench", *side.arguments, "--json"]
    try:
        done = subprocess.run(
            command, env=environment, cwd=tree, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as e:
        raise BackendError(f"{side.name} ({side.revision}): took longer than {_TIMEOUT_S:.0f} s") from e
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        last = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise BackendError(f"{side.name} ({side.revision}): kinedge bench {' '.join(side.arguments)}: {last}") from None
    return found


@contextmanager
def _source(revision: str, folder: Path) -> Iterator[Path | None]:
    """Give what to put first on the path for a revision: links that make its rooms one package; None for this tree."""
    if revision == HERE:
        yield None
        return
    root = Path(kinedge.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        raise ConfigError(f"{revision}: this kinedge was installed, not checked out; revisions need its git repository")
    source, path = folder / "source", folder / "path"
    added = _git(root, "worktree", "add", "--detach", "--force", str(source), revision)
    if added.returncode:
        raise ConfigError(f"no revision {revision!r}: {added.stderr.strip()[-200:]}")
    try:
        package = path / "kinedge"
        package.mkdir(parents=True)
        for entry in (source / "core").iterdir():
            (package / entry.name).symlink_to(entry)
        for room in _ROOMS:
            if (source / room).is_dir():
                (package / room).symlink_to(source / room)
        yield path
    finally:
        _git(root, "worktree", "remove", "--force", str(source))


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
