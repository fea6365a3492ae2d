"""Results as a page: one HTML file or one Markdown text that holds its own plots and says where each figure is from.

``bench_html`` and ``bench_markdown`` take results as ``results.read_result`` gives them. Every benchmark has its
command, date, machine, warnings, a plot of its main figure and all its rows; nothing is left out because it is bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from kinedge.benchmarks.compare import Comparison
from kinedge.benchmarks.figures import better, figure_of, identity, main_measure, written
from kinedge.benchmarks.plots import Bar, axis_name, bars_as_svg, bars_as_text
from kinedge.benchmarks.results import Result

__all__ = ["bench_html", "bench_markdown", "comparison_html", "comparison_markdown", "table_markdown"]

_MOST_BARS: Final = 24
_WITH_LIMITS: Final = ("vus_pr", "hit_rate_100")  # whose interval stands in ``low`` and ``high``
_WORDS: Final = ("note", "status", "verdict", "doubt", "of", "measure", "origin", "kind")  # columns that hold words
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --paper: #fff; --bar: #2f6f9f;
  --doubt: #8a3ffc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --line: #30363d; --paper: #0d1117;
  --bar: #6cb6e4; --doubt: #c297ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.facts { color: var(--soft); font-size: .9rem; } code { font-size: .85rem; overflow-wrap: anywhere; }
.warnings { color: var(--doubt); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .words { text-align: left; }
nav a { margin-right: .8rem; white-space: nowrap; }
svg.bars { width: 100%; max-width: 54rem; height: auto; margin: .5rem 0; }
svg .bar { fill: var(--bar); } svg .whisker { stroke: var(--ink); stroke-width: 1.5; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .label { text-anchor: end; }
svg .axis { fill: var(--soft); }
@media print { nav { display: none; } h2 { break-after: avoid; } tr, svg.bars { break-inside: avoid; }
  html { font-size: 8.5pt; } body { font-size: 8pt; max-width: none; margin: 0; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 5.8pt; width: 100%; } th, td { padding: .12rem .22rem; overflow-wrap: anywhere; }
  thead { display: table-header-group; } svg.bars { max-width: 32rem; } }
@page { margin: 12mm; size: landscape; @bottom-right { content: counter(page) " / " counter(pages);
  font: 7pt sans-serif; } }
"""


def bench_markdown(results: Sequence[Result], *, title: str = "Benchmarks") -> str:
    """Write results as Markdown; plots are rows of block characters.

    Parameters
    ----------
    results
        In the order in which they are shown.
    title
        Of the page.
    """
    parts = [f"# {title}", ""]
    for r in results:
        parts += [f"## {r.benchmark}", "", _facts(r), ""]
        parts += [f"* **warning**: {w}" for w in r.warnings]
        if r.warnings:
            parts.append("")
        measure, bars = _bars(r)
        if measure is not None and len(bars) > 1:
            axis = axis_name(bars, f"{measure}{_direction(measure)}")
            parts += [f"{axis}:", "", "```", bars_as_text(bars), "```", ""]
        parts += [table_markdown(r.rows), ""]
    return "\n".join(parts)


def bench_html(results: Sequence[Result], *, title: str = "Benchmarks") -> str:
    """Write results as one HTML page without scripts or files beside it, for screens light and dark and for paper."""
    links = " ".join(f'<a href="#{_anchor(i)}">{escape(r.benchmark)}</a>' for i, r in enumerate(results))
    body = [f"<h1>{escape(title)}</h1>", f"<nav>{links}</nav>" if len(results) > 1 else ""]
    for i, r in enumerate(results):
        body.append(f'<section id="{_anchor(i)}"><h2>{escape(r.benchmark)}</h2>{_facts_html(r)}')
        measure, bars = _bars(r)
        if measure is not None and len(bars) > 1:
            body.append(bars_as_svg(bars, measure=measure + _direction(measure)))
        body.append(_table_html(r.rows) + "</section>")
    return _page(title, "\n".join(body))


def comparison_markdown(found: Comparison) -> str:
    """Write what ``compare`` found as Markdown."""
    parts = [f"# {found.benchmark}: a against b", "", f"* a: {_facts(found.a)}", f"* b: {_facts(found.b)}"]
    parts += [f"* **warning**: {w}" for w in found.warnings]
    return "\n".join([*parts, "", table_markdown(found.as_rows()), ""])


def comparison_html(found: Comparison) -> str:
    """Write what ``compare`` found as one HTML page, with the ratios of the main figures drawn."""
    main = main_measure(found.b.rows)
    bars = [
        Bar(", ".join(c.identity), c.ratio, c.low, c.high, bool(c.doubt) or c.verdict in ("", "within the spread"))
        for c in found.rows
        if c.measure == main and c.ratio is not None
    ]
    warnings = "".join(f"<li>{escape(w)}</li>" for w in found.warnings)
    body = [
        f"<h1>{escape(found.benchmark)}: a against b</h1>",
        f"<h3>a</h3>{_facts_html(found.a)}<h3>b</h3>{_facts_html(found.b)}",
        f'<ul class="warnings">{warnings}</ul>' if warnings else "",
        bars_as_svg(bars[:_MOST_BARS], measure=f"{main}: b as a multiple of a") if bars else "",
        _table_html(found.as_rows()),
    ]
    return _page(f"{found.benchmark}: a against b", "\n".join(body))


def table_markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Write rows as a Markdown table; all columns that hold anything, or these."""
    columns = columns or _columns(rows)
    lines = ["| " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (written(row.get(c)).replace("|", "\\|").replace("\n", " ") for c in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            # details by person or kind are in the file; a table of them is nothing to read
            if value not in (None, "") and not isinstance(value, Mapping):
                found.setdefault(key)
    return tuple(found)


def _bars(r: Result) -> tuple[str | None, list[Bar]]:
    measure = main_measure(r.rows)
    found = []
    for row in r.rows if measure is not None else ():
        figure = figure_of(row.get(measure or ""))
        if figure is not None:
            low, high = (row.get(k) if measure in _WITH_LIMITS else None for k in ("low", "high"))
            doubtful = bool(row.get("unstable") or row.get("too_short"))
            found.append(Bar(", ".join(identity(row)), figure.value, low or figure.low, high or figure.high, doubtful))
    return measure, found[:_MOST_BARS]


def _direction(measure: str) -> str:
    way = better(measure)
    return f" ({way} is better)" if way else ""


def _facts(r: Result) -> str:
    command = f"`{r.command}`, " if r.command else ""
    commit = r.machine.get("commit")
    source = f", commit {commit}{' (changed)' if r.machine.get('changed') else ''}" if commit else ""
    return f"{command}{r.day}, {r.where}, kinedge {r.kinedge}{source}"


def _facts_html(r: Result) -> str:
    machine = {k: v for k, v in r.machine.items() if v is not None}
    settings = "; ".join(f"{k.replace('_', ' ')} {written(v)}" for k, v in r.settings.items())
    about = "; ".join(f"{k.replace('_', ' ')} {written(v)}" for k, v in machine.items())
    warnings = "".join(f"<li>{escape(w)}</li>" for w in r.warnings)
    return (
        f'<p class="facts">{f"<code>{escape(r.command)}</code><br>" if r.command else ""}{escape(r.utc)}, '
        f"kinedge {escape(r.kinedge)}<br>{escape(about)}<br>{escape(settings)}</p>"
        + (f'<ul class="warnings">{warnings}</ul>' if warnings else "")
    )


def _table_html(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = _columns(rows)
    words = {c: ' class="words"' if c in _WORDS else "" for c in columns}
    head = "".join(f"<th{words[c]}>{escape(c.replace('_', ' '))}</th>" for c in columns)
    lines = ["".join(f"<td{words[c]}>{escape(written(row.get(c)))}</td>" for c in columns) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _anchor(i: int) -> str:
    return f"result-{i + 1}"


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
