"""``kinedge report``: one page to print, of a person's week, of a training run or of benchmarks."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from kinedge.cli.app import app, need_extra
from kinedge.cli.measures import Affected, measure_folder
from kinedge.edge.config import load_gateway_config
from kinedge.edge.measures.config import MeasuresConfig
from kinedge.edge.reports.gather import from_collector, from_store
from kinedge.edge.reports.person import MIN_WORN_H, Gathered, PersonWeek, latest_week, person_week
from kinedge.edge.reports.week import Week
from kinedge.edge.vault import Vault, read_master_key
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.recorded_source import is_recording

__all__ = ["report"]

report = typer.Typer(
    help="""Make one page that needs nothing else, as HTML or PDF, for a person to print.

    Example: kinedge report person gateway.toml --subject p-001 --week 2026-W47 --out p-001.pdf""",
    no_args_is_help=True,
)
app.add_typer(report, name="report")


class Lang(str, Enum):
    """Of the words."""

    en = "en"
    fr = "fr"


class Paper(str, Enum):
    """Of a PDF."""

    a4 = "a4"
    letter = "letter"


class By(str, Enum):
    """Who prints a PDF."""

    weasyprint = "weasyprint"
    chromium = "chromium"


_Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where it goes: .html or .pdf.")]
_Paper = Annotated[Paper, typer.Option(help="Of a PDF; a browser takes the printer's.")]
_By = Annotated[By | None, typer.Option("--pdf-by", help="Who makes a PDF; the first of these that is here.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the content as JSON, and write only what --out names.")]


@report.command()
def person(
    source: Annotated[str, typer.Argument(help="A gateway's TOML or store, a collector's URL, or a recording.")],
    subject: Annotated[str | None, typer.Option(help="Whose; not needed where there is one person.")] = None,
    week: Annotated[str | None, typer.Option(help="ISO week, as 2026-W47; the latest with data if left out.")] = None,
    lang: Annotated[Lang, typer.Option(help="Of the words.")] = Lang.en,
    out: _Out = None,
    paper: _Paper = Paper.a4,
    pdf_by: _By = None,
    as_json: _Json = False,
    key: Annotated[Path | None, typer.Option(help="The master key of a sealed store.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token for the collector.")] = None,
    timezone: Annotated[str, typer.Option(help="Such as Europe/Paris; the gateway's or this machine's.")] = "",
    affected: Annotated[Affected | None, typer.Option(help="Recording: side of the weaker arm.")] = None,
    legs: Annotated[list[str] | None, typer.Option(help="Recording: sensors of the legs; may be repeated.")] = None,
    leg_rate: Annotated[int, typer.Option(min=25, max=800, help="Recording: rate of the legs' grid, in Hz.")] = 100,
) -> None:
    """Tell a person's week on two or three pages: two numbers a day, the trend, the episodes, and how often and why
    the answer was "unsure".

    Example: kinedge report person gateway.toml --subject p-001 --week 2026-W47 --out p-001.pdf
    """
    wanted = None if week is None else Week.parse(week)
    zone = _zone(timezone)
    if source.startswith(("http://", "https://")):
        found, of = from_collector(source, subject, wanted, token=_token(token_file), zone=zone)
    elif is_recording(folder := _folder(Path(source))):
        config = MeasuresConfig(legs=tuple(legs or ()), leg_rate_hz=leg_rate, timezone=zone)
        found, of = _recorded(folder, config, affected, subject, wanted, quiet=as_json)
    else:
        found, of = _kept(Path(source), subject, wanted, key=key, zone=zone)
    content = person_week(found, of)
    if as_json:
        typer.echo(json.dumps(_as_json(content), indent=2))
    if out is None and not as_json:
        out = Path(f"{found.subject}-{of}.html")
    if out is not None:
        with need_extra("report"):
            from kinedge.edge.reports.page import person_page

        _write(out, person_page(content, lang.value), paper, pdf_by, quiet=as_json)


@report.command()
def training(
    run: Annotated[Path, typer.Argument(help="A bundle, its .report.html, or a folder with one.")],
    out: _Out = None,
    paper: _Paper = Paper.a4,
    pdf_by: _By = None,
) -> None:
    """Print the report that training has written beside its bundle, or copy it.

    Example: kinedge report training wrists.kinedge --out wrists.pdf
    """
    page = _training_page(run)
    try:
        html = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{page}: cannot be read ({e})") from e
    _write(out or Path(page.name).with_suffix(".pdf"), html, paper, pdf_by, quiet=False)


@report.command()
def bench(
    results: Annotated[list[Path], typer.Argument(help="What kinedge bench ... --out wrote, or folders of it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where it goes: .html or .pdf.")] = Path("bench.pdf"),
    title: Annotated[str, typer.Option(help="Of the page.")] = "Benchmarks",
    paper: _Paper = Paper.a4,
    pdf_by: _By = None,
) -> None:
    """Print results of benchmarks: machine, command, warnings, a plot and all rows of each; also bad ones.

    Example: kinedge report bench benchmarks/results/caution.json --out caution.pdf
    """
    from kinedge.benchmarks.report import bench_html
    from kinedge.benchmarks.results import read_folder, read_result

    found = [r for p in results for r in (read_folder(p).values() if p.is_dir() else [read_result(p)])]
    if not found:
        raise ConfigError(f"{', '.join(map(str, results))}: no results of benchmarks there")
    _write(out, bench_html(found, title=title), paper, pdf_by, quiet=False, landscape=True)


def _training_page(run: Path) -> Path:
    """Return the report of a run."""
    if run.is_dir():
        pages = sorted(run.glob("*.report.html"))
        if len(pages) != 1:
            what = f"several reports ({', '.join(p.name for p in pages)}); name one" if pages else "no report"
            raise ConfigError(f"{run}: {what}; kinedge train writes MODEL.report.html beside its bundle")
        return pages[0]
    page = run if run.suffix.lower() in (".html", ".htm") else run.with_suffix(".report.html")
    if not page.is_file():
        raise ConfigError(f"{page}: no report there; kinedge train writes MODEL.report.html beside its bundle")
    return page


def _kept(path: Path, subject: str | None, week: Week | None, *, key: Path | None, zone: str) -> tuple[Gathered, Week]:
    store, min_worn_h, vault = path, dict(MIN_WORN_H), None
    if path.suffix == ".toml":
        config = load_gateway_config(path)
        store = config.store
        if config.measures is not None:
            zone = zone or config.measures.timezone
            min_worn_h["arm"] = config.measures.min_worn_h
            min_worn_h["gait"] = min(min_worn_h["gait"], config.measures.min_worn_h)
        if config.keys is not None and key is None:
            vault = config.keys.vault(store)
    if key is not None:
        vault = Vault(Path(f"{store}.keys"), read_master_key(key))
    return from_store(store, subject, week, vault=vault, zone=zone, min_worn_h=min_worn_h)


def _recorded(
    folder: Path, config: MeasuresConfig, affected: Affected | None, subject: str | None, week: Week | None, *,
    quiet: bool,
) -> tuple[Gathered, Week]:  # fmt: skip
    rows = measure_folder(folder, config, None if affected is None else affected.value, quiet=quiet).rows
    names = sorted({r.subject for r in rows})
    if subject is None and len(names) > 1:
        raise ConfigError(f"{folder}: is of {', '.join(names)}; name one with --subject")
    subject = subject or names[0]
    gait_h = min(MIN_WORN_H["gait"], config.min_worn_h)
    found = Gathered(
        subject, "recording", rows, min_worn_h={"arm": config.min_worn_h, "gait": gait_h}, zone=config.timezone
    )
    of = week or latest_week(found)
    if of is None:
        raise ConfigError(f"{folder}: nothing of {subject} was measured there; here are {', '.join(names)}")
    return found, of


def _folder(path: Path) -> Path:
    return path.parent if path.suffix == ".parquet" else path


def _zone(name: str) -> str:
    try:
        return MeasuresConfig(timezone=name).timezone
    except ValidationError as e:
        raise ConfigError(f"--timezone {name}: is no time zone of this machine; write it as Europe/Paris") from e


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: no token can be read there ({e})") from e


def _write(out: Path, html: str, paper: Paper, by: By | None, *, quiet: bool, landscape: bool = False) -> None:
    from kinedge.edge.reports.files import write_page

    suffix = out.suffix.lower()
    if suffix not in (".html", ".htm", ".pdf"):
        raise ConfigError(f"{out}: reports are HTML or PDF; name it {out.with_suffix('.html')} or .pdf")
    said = ""
    if suffix == ".pdf":
        from kinedge.edge.reports.pdf import pdf_of

        pdf, maker = pdf_of(html, paper=paper.value, landscape=landscape, maker=None if by is None else by.value)
        write_page(out, pdf)
        said = f" ({maker})"
    else:
        write_page(out, html)
    if not quiet:
        Console().print(f"{out}{said}", highlight=False, soft_wrap=True)


def _as_json(content: PersonWeek) -> dict[str, Any]:
    """Return the content as plain values: days as dates, a share beside the seconds it comes from."""
    plain = asdict(replace(content, week=content.week))
    plain["week"] = str(content.week)
    plain["unsure_share"] = content.unsure_share
    plain["seconds"] = content.seconds
    return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]
