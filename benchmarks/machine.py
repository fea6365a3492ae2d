"""What machine a figure comes from: what a reader needs to judge it, and nothing that names its owner.

Everything is read from ``/proc`` and ``/sys``, from the packages' own metadata and, on a Jetson, from ``nvpmodel``.
What a machine does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import kinedge
from kinedge.edge.native import implementation

__all__ = ["describe_machine", "is_busy", "parse_nvpmodel", "source_commit"]

_PACKAGES: Final = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt")
_BUSY_PER_CORE: Final = 0.7
_ROOT: Final = Path("/")
_TIMEOUT_S: Final = 10.0


def describe_machine(*, root: Path = _ROOT) -> dict[str, Any]:
    """Describe this machine.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are; another one is for tests.

    Returns
    -------
    dict
        ``cpu``, ``cores``, ``governor``, ``temperature_c`` (the hottest zone), ``load_1min``, ``gpu``, ``board``,
        ``power_mode``, ``memory_mb``, ``system``, ``python``, ``omp_num_threads``, ``commit`` of kinedge's source and
        whether it was ``changed`` since, what does the ``arithmetic`` beside the model, and the versions of what
        computes.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit, changed = source_commit()
    return {
        "cpu": _cpu(root) or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature_c": _temperature_c(root),
        "load_1min": round(os.getloadavg()[0], 2),
        "memory_mb": _memory_mb(root),
        "gpu": _gpu(root),
        "board": _text(root / "proc/device-tree/model"),
        "power_mode": _power_mode(root),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "commit": commit,
        "changed": changed,
        "arithmetic": implementation(),
        **versions,
    }


def is_busy() -> bool:
    """Whether more runs here than a figure of time can bear: load above 0.7 per core."""
    return os.getloadavg()[0] > _BUSY_PER_CORE * (os.cpu_count() or 1)


def source_commit(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """Return the commit of the source tree that runs, and whether tracked files differ from it; None when installed.

    Parameters
    ----------
    folder
        Of the tree; the one this package was imported from when None.
    """
    folder = Path(kinedge.__file__).resolve().parents[1] if folder is None else folder
    if not (folder / ".git").exists():
        return None, None
    commit = _run(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"])
    if commit is None:
        return None, None
    status = _run(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return commit.strip(), None if status is None else bool(status.strip())


def parse_nvpmodel(text: str) -> str | None:
    """Return the mode out of what ``nvpmodel -q`` prints, such as ``15W (0)``; None when it names none."""
    name = number = None
    for line in text.splitlines():
        if line.startswith("NV Power Mode:"):
            name = line.partition(":")[2].strip() or None
        elif name is not None and number is None and line.strip().isdigit():
            number = line.strip()
    return name if name is None or number is None else f"{name} ({number})"


def _power_mode(root: Path) -> str | None:
    found = _run(["nvpmodel", "-q"]) if root == _ROOT else None
    if found is not None and (mode := parse_nvpmodel(found)) is not None:
        return mode
    return _text(root / "sys/firmware/acpi/platform_profile")


def _cpu(root: Path) -> str | None:
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def _gpu(root: Path) -> str | None:
    """Name the NVIDIA GPU that the driver lists; a Jetson's is part of its board."""
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in (_text(path) or "").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    board = _text(root / "proc/device-tree/model") or ""
    return "of the board" if "Jetson" in board else None


def _memory_mb(root: Path) -> int | None:
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _temperature_c(root: Path) -> float | None:
    found = []
    for path in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        text = _text(path)
        if text is not None and text.lstrip("-").isdigit():
            found.append(int(text) / 1000)
    return max(found, default=None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
