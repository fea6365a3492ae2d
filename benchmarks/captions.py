"""What stands under a table: the command that repeats it, the day, the machine, and why its figures may be doubted."""

from __future__ import annotations

from typing import Final

from kinedge.benchmarks.results import Result

__all__ = ["caption"]

_MOST_UNSTABLE: Final = 4


def caption(found: Result, *, command: str, versions: bool = True) -> str:
    """Write the source of a table in one paragraph.

    Parameters
    ----------
    found
        The result that the table shows.
    command
        What measures it, for results that do not say so themselves.
    versions
        Whether to name the versions of Python, numpy and ONNX Runtime.
    """
    m = found.machine
    parts = [found.where]
    if versions:
        parts.append(", ".join(f"{key} {m[key]}" for key in ("python", "numpy", "onnxruntime") if m.get(key)))
    commit = f", commit {m['commit']}{' and changes' if m.get('changed') else ''}" if m.get("commit") else ""
    parts.append(f"kinedge {found.kinedge}{commit}")
    words = [f"`{found.command or command}`, {found.day}; {'; '.join(parts)}."]
    unstable = [w.partition(": ")[2] for w in found.warnings if w.startswith("unstable: ")]
    if unstable:
        more = f" and {len(unstable) - _MOST_UNSTABLE} more" if len(unstable) > _MOST_UNSTABLE else ""
        words.append(f"**Unstable (spread of 10 % or more)**: {'; '.join(unstable[:_MOST_UNSTABLE])}{more}.")
    if not found.command:
        words.append("The file is of before results kept their command.")
    words += [f"**{w[:1].upper()}{w[1:]}.**" for w in found.warnings if not w.startswith("unstable: ")]
    return " ".join(words)
