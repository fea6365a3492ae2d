"""``kinedge bench compare``, ``report`` and ``tables``: results against each other, as a page, and in documents."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kinedge.cli.bench import bench
from kinedge.cli.bench_table import fitted, show_lines
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.benchmarks.compare import Comparison

__all__ = ["Form", "compare", "report", "show_comparison", "tables"]


class Form(str, Enum):
    """How a page is written."""

    html = "html"
    markdown = "markdown"


@bench.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A result: the one before.")],
    b: Annotated[Path, typer.Argument(help="A result of the same benchmark: the one after.")],
    measure: Annotated[list[str] | None, typer.Option(help="Only this figure; may be given again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a page there: .html, or .md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Hold two results of one benchmark against each other, row by row; a difference within the spread is none.

    Example: kinedge bench compare before.json after.json --measure median_us
    """
    show_comparison(a, b, measures=measure, out=out, as_json=as_json)


@bench.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="What kinedge bench ... --out wrote, or folders of it.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; printed when left out.")] = None,
    form: Annotated[Form | None, typer.Option(help="By the ending of --out when left out.")] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Benchmarks",
) -> None:
    """Write results as one page that holds its plots, with the machine, command and warnings of each.

    Example: kinedge bench report benchmarks/results --out bench.html
    """
    from kinedge.benchmarks.report import bench_html, bench_markdown
    from kinedge.benchmarks.results import read_folder, read_result

    found = [r for p in results for r in (read_folder(p).values() if p.is_dir() else [read_result(p)])]
    write = bench_html if _form(form, out) is Form.html else bench_markdown
    _give(write(found, title=title), out)


@bench.command()
def tables(
    documents: Annotated[list[Path], typer.Argument(help="Documents with marks, such as docs/results.md.")],
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("benchmarks/results"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a table is not up to date.")] = False,
) -> None:
    """Write the tables of documents from results, between their marks; everything else stays as it is.

    Example: kinedge bench tables docs/results.md README.md
    """
    from kinedge.benchmarks.results import read_folder
    from kinedge.benchmarks.tables import check_documents, fill, read_document

    found = read_folder(results)
    if check:
        if stale := check_documents(documents, found):
            names = ", ".join(map(str, stale))
            raise ConfigError(f"{names}: the tables are not those of {results}; run kinedge bench tables {names}")
        typer.echo(f"{len(documents)} documents are up to date")
        return
    for path in documents:
        text = fill(before := read_document(path), found, name=str(path))
        if text != before:
            _give(text, path)
        typer.echo(f"{path}: {'written' if text != before else 'up to date'}")


def show_comparison(
    a: Path, b: Path, *, measures: list[str] | None = None, out: Path | None = None, as_json: bool = False
) -> None:
    """Print a comparison, or write it as a page."""
    from kinedge.benchmarks.compare import compare as hold_against
    from kinedge.benchmarks.report import comparison_html, comparison_markdown
    from kinedge.benchmarks.results import read_result

    found = hold_against(read_result(a), read_result(b), measures=measures)
    if out is not None:
        _give(comparison_html(found) if _form(None, out) is Form.html else comparison_markdown(found), out)
    if as_json:
        facts = {"schema": "kinedge.bench.comparison/1", "benchmark": found.benchmark, "a": a.name, "b": b.name}
        more = {"only_a": found.only_a, "only_b": found.only_b, "warnings": found.warnings}
        typer.echo(json.dumps({**facts, "rows": found.as_rows(), **more}, indent=2))
        return
    if out is not None:
        return
    console = Console()
    _show_rows(found, console)
    for name, only in (("a", found.only_a), ("b", found.only_b)):
        if only:
            console.print(f"only in {name}: {'; '.join(only)}", highlight=False)
    for warning in found.warnings:
        console.print(f"[magenta]warning:[/magenta] {warning}", highlight=False)
    said = [c for c in found.rows if c.verdict]
    if doubtful := [c for c in said if c.doubt]:
        sides: dict[str, dict[str, None]] = {}
        for name, _, words in (side.partition(" ") for c in doubtful for side in c.doubt.split(", ")):
            sides.setdefault(name, {}).update(dict.fromkeys(words.split(" and ")))
        why = "; ".join(f"{name}: {', '.join(words)}" for name, words in sorted(sides.items()))
        summary = f"[magenta]{len(doubtful)} of {len(said)} verdicts are doubtful[/magenta] ({why})"
        advice = "measure again where nothing else runs, or both in turns with kinedge bench ab"
        console.print(f"{summary}: {advice}", highlight=False)


def _show_rows(found: Comparison, console: Console) -> None:
    several = len({c.measure for c in found.rows}) > 1
    columns = ["what", *(["figure"] if several else []), "a", "b", "b / a", "spread", "verdict"]
    rows = [
        {
            "what": ", ".join(c.identity),
            "figure": c.measure.replace("_", " "),
            "a": c.a,
            "b": c.b,
            "b / a": None if c.ratio is None else f"{c.ratio:.3f}",
            "spread": "" if c.low is None or c.high is None else f"{c.low:.2f}–{c.high:.2f}",
            "verdict": c.said,
        }
        for c in found.rows
    ]
    title = f"{found.benchmark}{'' if several else ', ' + str(rows[0]['figure'])}: b as a multiple of a"
    table, _ = fitted(rows, columns, width=console.width, styles={"better": "green", "worse": "red"})
    if table is None:
        console.print(title, style="italic", highlight=False)
        show_lines(rows, columns, console)
        return
    table.title = title
    console.print(table)


def _form(form: Form | None, out: Path | None) -> Form:
    if form is not None:
        return form
    ending = "" if out is None else out.suffix.lower()
    if ending in (".html", ".htm"):
        return Form.html
    if ending in ("", ".md", ".markdown"):
        return Form.markdown
    raise ConfigError(f"{out}: a page ends in .html or .md; or say --form")


def _give(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"{out}: the page cannot be written there ({e.strerror})") from e
