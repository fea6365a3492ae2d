"""A release tells what is in it, refuses what a board must not need, and its demonstration runs without any extra."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "packaging"))

import release  # noqa: E402
import try_release  # noqa: E402


def of_a_board() -> dict[str, Distribution]:
    """Find what ``pip install kinedge`` brings, by what the installed packages say they need."""
    found: dict[str, Distribution] = {}
    waiting = ["kinedge"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = distribution(name)
            needs = [Requirement(r) for r in found[name].requires or ()]
            waiting += [r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_an_sbom_of_a_board_lists_its_packages_with_their_versions_and_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py", reason="SBOMs need: pip install cyclonedx-bom")
    there = tmp_path / "board"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", there], check=True, timeout=60)
    (site,) = there.glob("lib/python3*/site-packages")
    board = of_a_board()
    for name, package in board.items():
        folder = site / f"{name.replace('-', '_')}-{package.version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            package.read_text("METADATA") or package.read_text("PKG-INFO") or "", encoding="utf-8"
        )
    out = tmp_path / "board.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", there / "bin" / "python", "--pyproject"]
    command += [ROOT / "pyproject.toml", "--output-reproducible", "-o", out]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    told = json.loads(out.read_text(encoding="utf-8"))
    assert told["bomFormat"] == "CycloneDX"
    assert told["metadata"]["component"]["name"] == "kinedge"
    found = release.components(told)
    assert found["numpy"] == board["numpy"].version
    assert {"onnxruntime", "pydantic", "pyserial", "bleak", "cryptography"} <= set(found)
    assert len(found) >= len(board) - 1
    release.refuse_heavy(found)


def test_a_release_that_pulls_torch_is_refused() -> None:
    release.refuse_heavy({"numpy": "2.4.6", "onnxruntime": "1.32.0"})
    for name in ("torch", "onnx", "nvidia-cublas-cu12"):
        with pytest.raises(SystemExit, match=name):
            release.refuse_heavy({"numpy": "2.4.6", name: "1"})


def test_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"wheel")
    (tmp_path / "b.tar.gz").write_bytes(b"archive")
    (tmp_path / "SHA256SUMS").write_text(release.sums(tmp_path), encoding="ascii")
    assert release.sums(tmp_path).splitlines()[0] == f"{hashlib.sha256(b'wheel').hexdigest()}  a.whl"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)


def test_a_release_goes_only_into_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.whl").write_bytes(b"")
    assert release.main(["--out", str(tmp_path)]) == 1
    assert "old.whl" in capsys.readouterr().err


def test_this_python_is_found_and_none_is_found_that_does_not_start() -> None:
    found = try_release.pythons()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here in try_release.VERSIONS:
        assert here in found
    for version, place in found.items():
        told = subprocess.run([place, "--version"], capture_output=True, text=True, check=True)
        assert f"Python {version}." in told.stdout + told.stderr


def test_the_demonstration_runs_on_what_a_board_installs(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'fastapi', 'sqlalchemy', 'uvicorn', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"  # an import of it now fails
        "from kinedge.cli import main\n"
        "sys.exit(main(['demo', '--duration', '30', '--folder', 'here']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "No collector here" in done.stdout
    kept = re.search(r"(\d+) episodes kept\.", done.stdout)
    assert kept and int(kept[1]) >= 1
    assert "rest_tremor" in done.stdout
