"""Energy of what runs, where the board can say: tegrastats on a Jetson, RAPL counters on Intel and AMD.

Elsewhere the answer is "not measurable here" with the reason, never a guess from a data sheet. What is counted is the
whole module or package, other work included; a figure for one program needs an otherwise idle machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from kinedge.errors import SignalError

__all__ = [
    "Energy",
    "Rapl",
    "TegraSample",
    "Tegrastats",
    "measure_energy",
    "parse_tegrastats",
    "rapl_joules",
]

_POWERCAP: Final = Path("/sys/class/powercap")
_INTERVAL_MS: Final = 100
_RAM: Final = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU: Final = re.compile(r"\bCPU \[([^\]]*)\]")
_GPU: Final = re.compile(r"\bGR3D_FREQ (\d+)%")
_TEMPERATURE: Final = re.compile(r"\b([A-Za-z][A-Za-z0-9_]*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL: Final = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")
#: The rail that feeds everything, by board generation; where there is none, these add up to it.
_TOTAL_RAILS: Final = ("VDD_IN", "POM_5V_IN")
_PARTS: Final = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


@dataclass(frozen=True)
class Energy:
    """What was used between two moments.

    Parameters
    ----------
    joules
        None where the board cannot say.
    seconds
        Between the moments.
    source
        ``tegrastats``, ``RAPL``, or why it cannot be measured.
    parts
        Joules by rail or domain.
    """

    joules: float | None
    seconds: float
    source: str
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def watts(self) -> float | None:
        """Mean power; None where the board cannot say."""
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds


@dataclass(frozen=True)
class TegraSample:
    """One line of tegrastats.

    Parameters
    ----------
    ram_mb, ram_total_mb
        Used and there.
    cpu_percent
        By core; None for a core that is off.
    gpu_percent
        None when the line does not say.
    temperatures_c
        By zone.
    power_mw
        By rail, at this moment.
    """

    ram_mb: int
    ram_total_mb: int
    cpu_percent: tuple[int | None, ...]
    gpu_percent: int | None
    temperatures_c: dict[str, float]
    power_mw: dict[str, int]

    @property
    def total_mw(self) -> int | None:
        """Power of the whole module; None when its rails do not say."""
        for rail in _TOTAL_RAILS:
            if rail in self.power_mw:
                return self.power_mw[rail]
        parts = [self.power_mw[rail] for rail in _PARTS if rail in self.power_mw]
        return sum(parts) if len(parts) == len(_PARTS) else None


def parse_tegrastats(line: str) -> TegraSample:
    """Read a line of tegrastats, of JetPack 4 to 7.

    Raises
    ------
    SignalError
        The line is none.
    """
    ram, cpu = _RAM.search(line), _CPU.search(line)
    if ram is None or cpu is None:
        raise SignalError(f"no line of tegrastats: {line[:80]!r}")
    gpu = _GPU.search(line)
    behind = line[cpu.end() :]
    return TegraSample(
        int(ram[1]),
        int(ram[2]),
        tuple(_core_percent(core) for core in cpu[1].split(",")),
        None if gpu is None else int(gpu[1]),
        {name: float(value) for name, value in _TEMPERATURE.findall(behind)},
        {name: int(now) for name, now, _ in _RAIL.findall(behind)},
    )


def rapl_joules(before_uj: int, after_uj: int, *, range_uj: int) -> float:
    """Return the joules between two readings of a counter that begins anew behind ``range_uj`` (once at most)."""
    spent = after_uj - before_uj
    return (spent if spent >= 0 else spent + range_uj + 1) / 1e6


class Rapl:
    """Counters of the processor's packages under ``/sys/class/powercap``; used in a ``with`` block, then asked.

    Parameters
    ----------
    folder
        Where the kernel shows them.
    """

    def __init__(self, folder: Path = _POWERCAP) -> None:
        # packages alone: core, uncore and dram are inside or beside them, and would be counted twice
        self._zones = [z for z in sorted(folder.glob("intel-rapl:*")) if z.name.count(":") == 1]
        self._before: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        self._began_s = self._seconds = 0.0

    def problem(self) -> str:
        """Say why nothing can be read; empty when it can."""
        if not self._zones:
            return "no RAPL counters (/sys/class/powercap)"
        try:
            self._read()
        except (OSError, ValueError):
            return "the RAPL counters are for root alone (energy_uj)"
        return ""

    def __enter__(self) -> Rapl:
        self._began_s, self._before = time.monotonic(), self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds, after = time.monotonic() - self._began_s, self._read()
        for zone in self._zones:
            name = (zone / "name").read_text(encoding="ascii").strip()
            limit = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            self._spent[name] = rapl_joules(self._before[zone.name], after[zone.name], range_uj=limit)

    def energy(self) -> Energy:
        """Return what was used in the block."""
        return Energy(sum(self._spent.values()), self._seconds, "RAPL", dict(self._spent))

    def _read(self) -> dict[str, int]:
        return {z.name: int((z / "energy_uj").read_text(encoding="ascii")) for z in self._zones}


class Tegrastats:
    """The board's own meter, ten readings a second; used in a ``with`` block, then asked.

    Parameters
    ----------
    command
        Of the program; ``--interval`` is added.

    Attributes
    ----------
    samples
        Readings so far.
    """

    def __init__(self, command: Sequence[str] = ("tegrastats",)) -> None:
        self._command = [*command, "--interval", str(_INTERVAL_MS)]
        self.samples: list[TegraSample] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._began_s = self._seconds = 0.0

    def problem(self) -> str:
        """Say why nothing can be read; empty when it can."""
        return "" if shutil.which(self._command[0]) else "no tegrastats here"

    def __enter__(self) -> Tegrastats:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self._began_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._seconds = time.monotonic() - self._began_s
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        if self._reader is not None:
            self._reader.join(10)

    def energy(self) -> Energy:
        """Return what was used in the block: mean power of the readings times its length."""
        totals = [mw for s in self.samples if (mw := s.total_mw) is not None]
        if not totals:
            return Energy(None, self._seconds, "not measurable here: tegrastats told no power of the whole module")
        rails = {name for s in self.samples for name in s.power_mw}
        parts = {name: self._joules([s.power_mw[name] for s in self.samples if name in s.power_mw]) for name in rails}
        return Energy(self._joules(totals), self._seconds, "tegrastats", dict(sorted(parts.items())))

    def _joules(self, power_mw: Sequence[int]) -> float:
        return sum(power_mw) / len(power_mw) / 1000 * self._seconds

    def _listen(self) -> None:
        process = self._process
        if process is None or process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                try:
                    self.samples.append(parse_tegrastats(line))
                except SignalError:
                    continue


@contextmanager
def measure_energy() -> Iterator[list[Energy]]:
    """Measure the block by whatever this machine has; the list it gives holds one ``Energy`` afterwards."""
    found: list[Energy] = []
    meters: tuple[Tegrastats | Rapl, ...] = (Tegrastats(), Rapl())
    problems = [meter.problem() for meter in meters]
    meter = next((m for m, problem in zip(meters, problems, strict=True) if not problem), None)
    began_s = time.monotonic()
    if meter is None:
        yield found
        found.append(Energy(None, time.monotonic() - began_s, f"not measurable here: {'; '.join(problems)}"))
        return
    with meter:
        yield found
    found.append(meter.energy())


def _core_percent(core: str) -> int | None:
    percent = core.strip().partition("%")[0]
    return int(percent) if percent.isdigit() else None
