"""Results of ``kinedge bench`` on a terminal: tables that fit its width, and nothing of the figures cut off."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinedge.benchmarks.figures import written

__all__ = ["fitted", "show_lines", "show_rows"]

_HIDDEN: Final = ("unstable", "too_short", "n_rounds")
_BY_ITSELF: Final = ("note", "of", "status")  # words that need no name
#: What goes first where the terminal is too narrow; the JSON has it all.
_LEAST: Final = ("ratio_in_pieces", "max_us", "max_ms", "p99_us", "p90_ms", "p90_us", "n", "lowest", "highest")
_SHORTEST_WORDS: Final = 16  # a cell of words is not made narrower than this, or than it is
_WHOLE: Final = 20  # a cell so short is not broken

Row = Mapping[str, Any]


def show_rows(
    rows: Sequence[Row],
    console: Console,
    *,
    title: str,
    columns: Sequence[str] | None = None,
    apart: Sequence[str] = (),
) -> None:
    """Print the rows of a result as one table, or as several where rows tell different figures.

    Parameters
    ----------
    rows
        Of the result.
    console
        Where to.
    title
        Above the first table.
    columns
        Which, in order; all when None.
    apart
        Figures that have a table each, of the rows that tell them; rows with none of them become lines.
    """
    columns = columns or list(dict.fromkeys(c for row in rows for c in row if c not in _HIDDEN))
    left = list(rows)
    for figure in apart or ("what",):
        shown, left = [r for r in left if figure in r], [r for r in left if figure not in r]
        if not shown:
            continue
        table, missing = fitted(shown, columns, width=console.width)
        if table is None:
            console.print(Text(title, style="italic"))
            show_lines(shown, columns, console)
        else:
            table.title = title or None
            console.print(table)
        if missing:
            names = ", ".join(c.replace("_", " ") for c in missing)
            console.print(f"too narrow for: {names} (--out keeps them)", style="dim", highlight=False)
        title = ""
    show_lines(left, [c for row in left for c in row if c not in _HIDDEN], console)


def fitted(
    rows: Sequence[Row], columns: Sequence[str], *, width: int, styles: Mapping[str, str] | None = None
) -> tuple[Table | None, tuple[str, ...]]:
    """Return a table no wider than ``width``, and the columns that had to go for that; None where none is so narrow.

    Numbers are never broken or cut; words wrap, the lines between columns go, and then the columns that tell least.
    ``styles`` gives cells of these words a style.
    """
    cells = {c: [written(row.get(c)) for row in rows] for c in columns}
    kept = [c for c in columns if any(cells[c])]
    least = {c: _least(c, cells[c]) for c in kept}
    missing: list[str] = []
    lined = sum(least[c] + 3 for c in kept) + 1 <= width
    between = 3 if lined else 2
    while sum(least[c] + between for c in kept) + 1 > width:
        drop = next((c for c in _LEAST if c in kept), None)
        if drop is None:
            return None, ()
        kept.remove(drop)
        missing.append(drop)
    spare = width - 1 - sum(least[c] + between for c in kept)
    table = Table(title_justify="left", box=box.HEAVY_HEAD if lined else box.SIMPLE_HEAD)
    table.show_edge = table.pad_edge = lined
    table.collapse_padding = not lined
    widths = dict(least)
    # words first take what is left over, then heads that would else stand in several lines
    for wanted in ({c: max(map(len, cells[c])) for c in kept}, {c: len(c) for c in kept}):
        for c in kept:
            more = max(0, min(spare, wanted[c] - widths[c]))
            widths[c], spare = widths[c] + more, spare - more
    for c in kept:
        words = any(isinstance(row.get(c), str) for row in rows)
        head = textwrap.fill(c.replace("_", " "), widths[c], break_long_words=False)
        table.add_column(Text(head), justify="left" if words else "right", width=widths[c], no_wrap=not words)
    for i in range(len(rows)):
        table.add_row(*(Text(cells[c][i], style=(styles or {}).get(cells[c][i], "")) for c in kept))
    return table, tuple(missing)


def show_lines(rows: Sequence[Row], columns: Sequence[str], console: Console) -> None:
    """Print rows as lines of words, for figures that no table of this width holds."""
    for row in rows:
        told = [(c, row[c]) for c in dict.fromkeys(columns) if c != "what" and written(row.get(c))]
        words = (written(v) if c in _BY_ITSELF else f"{c.replace('_', ' ')} {written(v)}" for c, v in told)
        console.print(Text(f"{row['what']}: {', '.join(words)}"))


def _least(column: str, cells: Sequence[str]) -> int:
    """Return the width that a column needs: its longest word of the head, and its cells as far as they may wrap."""
    head = max(map(len, column.split("_")))
    longest = max(map(len, cells))
    if longest > _WHOLE or column == "what":
        words = max(len(word) for cell in cells for word in cell.split(" ")) if any(cells) else 0
        longest = max(words, min(longest, _SHORTEST_WORDS))
    return max(head, longest)
