"""Make a release: wheel, source archive, what is in them (SBOM, CycloneDX) and checksums. ``make release`` runs it.

    python packaging/release.py --out dist

An SBOM tells what an installation really holds: the wheel goes into an empty environment, with the pinned versions of
``constraints.txt``, and that environment is listed. There are two: what a board gets, and a board with the collector.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["INSTALLATIONS", "components", "main", "refuse_heavy", "sums"]

ROOT = Path(__file__).resolve().parents[1]
INSTALLATIONS = {"board": "", "collector": "[upstream]"}
HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "matplotlib",
    "scikit-learn",
    "tensorrt",
    "nvidia",
)  # or any name that begins so


def main(argv: Sequence[str] | None = None) -> int:
    """Build everything into a folder; 0 when all of it is there."""
    parser = argparse.ArgumentParser(description="wheel, source archive, SBOMs and checksums")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args(argv).out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if strangers := sorted(p.name for p in out.iterdir()):
        sys.stderr.write(f"{out}: holds {', '.join(strangers)}; a release goes into an empty folder (make clean)\n")
        return 1
    env = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or _commit_time()}
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], env=env)
    (wheel,) = out.glob("*.whl")
    version = wheel.name.split("-")[1]
    for name, extra in INSTALLATIONS.items():
        listed = out / f"kinedge-{version}-{name}.cdx.json"
        with tempfile.TemporaryDirectory() as scratch:
            _run([sys.executable, "-m", "venv", "--without-pip", scratch])
            python = f"{scratch}/bin/python"
            pins = str(ROOT / "constraints.txt")
            _run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "-c", pins, f"{wheel}{extra}"])
            command = [sys.executable, "-m", "cyclonedx_py", "environment", python, "--pyproject"]
            command += [str(ROOT / "pyproject.toml"), "--mc-type", "application", "--output-reproducible"]
            _run([*command, "--of", "JSON", "-o", str(listed)], env=env)
        refuse_heavy(components(json.loads(listed.read_text(encoding="utf-8"))))
    (out / "SHA256SUMS").write_text(sums(out), encoding="ascii")
    for path in sorted(out.iterdir()):
        sys.stdout.write(f"{path.name}  {path.stat().st_size:,} bytes\n")
    return 0


def components(sbom: dict[str, Any]) -> dict[str, str]:
    """Return name -> version of what an SBOM lists."""
    return {c["name"].lower(): str(c.get("version", "")) for c in sbom.get("components", ())}


def refuse_heavy(names: dict[str, str]) -> None:
    """Raise ``SystemExit`` when an installation holds what a board must never need."""
    if found := sorted(n for n in names if n.startswith(HEAVY) and not n.startswith("onnxruntime")):
        raise SystemExit(f"an installation without training pulls {', '.join(found)}")


def sums(folder: Path) -> str:
    """Return the lines that ``sha256sum --check`` reads, of every file but the sums themselves."""
    files = sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files)


def _commit_time() -> str:
    told = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "1795300000"


def _run(command: Sequence[str], *, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    sys.exit(main())
