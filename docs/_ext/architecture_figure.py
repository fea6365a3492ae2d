"""A figure of the rooms, drawn from the imports of the code: ``make figures``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["FIGURE", "Imports", "count_imports", "draw"]

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "images" / "architecture.svg"

# From top to bottom; core stands beside all of them.
JOBS = {
    "cli": "one file a command",
    "benchmarks": "what it costs, how well it does",
    "quantize": "models → what a board runs",
    "training": "recordings → models",
    "edge": "samples → verdicts → episodes → upstream",
    "firmware_bridge": "bytes → samples",
    "upstream": "the collector: knows only core",
}
CORE = "core"
COLOURS = {
    "cli": "#5b6b7a", "benchmarks": "#8457b8", "quantize": "#b0563b", "training": "#a27a10",
    "edge": "#1f5f8b", "firmware_bridge": "#2b7a4b", "upstream": "#9c3f6e",
}  # fmt: skip
_GRAPH = """
import json, grimp
graph = grimp.build_graph("kinedge", cache_dir=None)
print(json.dumps({m: sorted(graph.find_modules_directly_imported_by(m)) for m in sorted(graph.modules)}))
"""
_TOP, _ROW, _BOX, _LEFT, _WIDTH, _LANE = 70, 88, 62, 250, 350, 27


@dataclass(frozen=True)
class Imports:
    """What imports what.

    Parameters
    ----------
    modules
        Room -> modules in it.
    between
        (importing room, imported room) -> pairs of modules.
    """

    modules: dict[str, int]
    between: dict[tuple[str, str], int]


def count_imports() -> Imports:
    """Count the imports between the rooms, those for type checkers among them.

    Raises
    ------
    subprocess.CalledProcessError
        grimp is not installed, or the code does not parse.
    """
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "kinedge"
        package.mkdir()
        for item in (ROOT / "core").iterdir():
            if item.name != "__pycache__":
                (package / item.name).symlink_to(item)
        for room in JOBS:
            (package / room).symlink_to(ROOT / room)
        # a process of its own, in which no other copy of the package was imported
        run = [sys.executable, "-c", _GRAPH]
        told = subprocess.run(
            run, env={**os.environ, "PYTHONPATH": scratch}, check=True, capture_output=True, text=True
        )
    graph: dict[str, list[str]] = json.loads(told.stdout)
    pairs = [(_room(module), _room(other)) for module, imported in graph.items() for other in imported]
    between = Counter(pair for pair in pairs if pair[0] != pair[1])
    return Imports(dict(Counter(_room(m) for m in graph)), dict(sorted(between.items())))


def _room(module: str) -> str:
    name = module.partition(".")[2].partition(".")[0]
    return name if name in JOBS else CORE


def draw(imports: Imports) -> str:
    """Return the figure as SVG.

    Parameters
    ----------
    imports
        An arrow for each pair, as wide as the square root of its number.
    """
    facts = {"modules": imports.modules, "imports": {f"{a} > {b}": n for (a, b), n in imports.between.items()}}
    rooms = list(JOBS)
    y = {room: _TOP + i * _ROW for i, room in enumerate(rooms)}
    height = _TOP + len(rooms) * _ROW + 6
    jumps = sorted(
        ((a, b) for a, b in imports.between if b != CORE and rooms.index(b) - rooms.index(a) != 1),
        key=lambda e: (rooms.index(e[1]) - rooms.index(e[0]), rooms.index(e[0])),
    )
    width = _LEFT + _WIDTH + 60 + _LANE * len(jumps)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif">',
        "<title>The rooms of kinedge and what they import</title>",
        f"<metadata>{escape(json.dumps(facts))}</metadata>",
        f'<rect width="{width}" height="{height}" rx="12" fill="#ffffff"/>',
        '<text x="24" y="34" font-size="19" font-weight="650" fill="#16324a">The rooms of kinedge</text>',
        f'<text x="{width - 24}" y="34" font-size="13" fill="#5b6b7a" text-anchor="end">'
        "An arrow imports; its number counts the pairs of modules. Nothing points up.</text>",
    ]
    bottom = y[rooms[-1]] + _BOX
    n_core = imports.modules.get(CORE, 0)
    parts += _box(24, _TOP, 130, bottom - _TOP, "#16324a", CORE, "words all share", n_core, tall=True)
    for room in rooms:
        parts += _box(_LEFT, y[room], _WIDTH, _BOX, COLOURS[room], room, JOBS[room], imports.modules.get(room, 0))
        if n := imports.between.get((room, CORE), 0):
            middle = y[room] + _BOX / 2
            parts += _arrow(f"M{_LEFT} {middle}H162", COLOURS[room], n)
            parts += _number(206, middle, COLOURS[room], n)
    for above, below in pairwise(rooms):
        if n := imports.between.get((above, below), 0):
            x = _LEFT + 60
            parts += _arrow(f"M{x} {y[above] + _BOX}V{y[below] - 8}", COLOURS[above], n)
            parts += _number(x + 26, (y[above] + _BOX + y[below]) / 2 - 2, COLOURS[above], n)
    parts += _jumps(jumps, imports, y)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _jumps(jumps: list[tuple[str, str]], imports: Imports, y: dict[str, int]) -> list[str]:
    """Draw what skips a room: out to a lane of its own on the right, down, and back in."""
    right = _LEFT + _WIDTH
    lane = {jump: right + 46 + _LANE * i for i, jump in enumerate(jumps)}
    ends = {room: [j for j in jumps if room in j] for room in y}
    parts = []
    for jump in reversed(jumps):
        a, b = jump
        out = y[a] + _BOX * (_rank(ends[a], jump, lane, a) + 1) / (len(ends[a]) + 1)
        back = y[b] + _BOX * (_rank(ends[b], jump, lane, b) + 1) / (len(ends[b]) + 1)
        x, n, bend = lane[jump], imports.between[jump], 9
        path = f"M{right} {out:.0f}H{x - bend}q{bend} 0 {bend} {bend}V{back - bend:.0f}"
        path += f"q0 {bend} -{bend} {bend}H{right + 8}"
        parts += _arrow(path, COLOURS[a], n)
    for i, jump in enumerate(jumps):
        a, b = jump
        low, high = y[a] + _BOX, y[b] - 4
        parts += _number(lane[jump], (low + high) / 2 + (i % 3 - 1) * 13, COLOURS[a], imports.between[jump])
    return parts


def _rank(ends: list[tuple[str, str]], jump: tuple[str, str], lane: dict[tuple[str, str], int], room: str) -> int:
    """Order the ends at a box so that lines cross little: what comes in above what goes out, outer lanes outermost."""
    coming = sorted((j for j in ends if j[1] == room), key=lambda j: lane[j])
    going = sorted((j for j in ends if j[0] == room), key=lambda j: -lane[j])
    return [*coming, *going].index(jump)


def _box(x: int, y: int, w: int, h: int, colour: str, name: str, job: str, n: int, *, tall: bool = False) -> list[str]:
    cx = x + 16
    ty = y + (h / 2 - 12 if tall else 25)
    return [
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="9" fill="{colour}" fill-opacity="0.09" stroke="{colour}" '
        'stroke-width="1.6"/>',
        f'<text x="{cx}" y="{ty:.0f}" font-size="17" font-weight="650" fill="{colour}">{escape(name)}</text>',
        f'<text x="{cx}" y="{ty + 21:.0f}" font-size="13" fill="#33414e">{escape(job)}</text>',
        f'<text x="{cx if tall else x + w - 14}" y="{ty + (41 if tall else 0):.0f}" font-size="12" fill="#5b6b7a" '
        f'text-anchor="{"start" if tall else "end"}">{n} modules</text>',
    ]


def _arrow(path: str, colour: str, n: int) -> list[str]:
    """Draw a line with its head: the path ends 8 units before what it points at."""
    end = path.rpartition("H")
    down = "V" in path and path.rindex("V") > (path.rindex("H") if "H" in path else -1)
    wide = 0.9 + n**0.5 / 4
    if down:
        x, tip = path[1:].split(" ", maxsplit=1)[0], float(path.rpartition("V")[2]) + 8
        head = f"M{x} {tip:g}l-5.5 -10h11z"
    else:
        tip = float(end[2]) - 8
        row = _last_row(path)
        head = f"M{tip:g} {row:g}l10 -5.5v11z"
    return [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{wide:.1f}" stroke-opacity="0.75"/>',
        f'<path d="{head}" fill="{colour}"/>',
    ]


def _last_row(path: str) -> float:
    if "V" not in path:
        return float(path[1:].partition("H")[0].split(" ")[1])
    below = path.rpartition("V")[2]
    return float(below.partition("q")[0]) + 9


def _number(x: float, y: float, colour: str, n: int) -> list[str]:
    wide = 10 + 8 * len(str(n))
    return [
        f'<rect x="{x - wide / 2:.0f}" y="{y - 9:.0f}" width="{wide}" height="18" rx="9" fill="#ffffff" '
        f'stroke="{colour}"/>',
        f'<text x="{x:.0f}" y="{y + 4.3:.0f}" font-size="12" font-weight="600" fill="{colour}" '
        f'text-anchor="middle">{n}</text>',
    ]


if __name__ == "__main__":
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(draw(count_imports()), encoding="utf-8")
    sys.stdout.write(f"{FIGURE.relative_to(ROOT)}\n")
