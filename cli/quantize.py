"""``kinedge quantize``: int8 and fp16 beside the model in single precision, and the proof that they answer the same."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from kinedge.bundle import Bundle, read_bundle, write_bundle
from kinedge.cli.app import app, need_extra
from kinedge.cli.training_data import TrainConfig, recordings_of
from kinedge.config import explain_validation_error, load_toml
from kinedge.errors import BackendError, ConfigError, StoreError

if TYPE_CHECKING:
    from kinedge.quantize.build import BuildConfig
    from kinedge.quantize.parts import Parts
    from kinedge.quantize.variants import Quantised, Reduced

__all__ = ["parts_for", "quantize"]


_REDUCED: Final[tuple[Reduced, ...]] = ("int8", "fp16")


class _Reduced(str, Enum):
    """What typer takes more than one of."""

    int8 = "int8"
    fp16 = "fp16"


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Argument(help="A .kinedge file.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="The TOML file that the bundle was trained with.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the new bundle goes.")],
    method: Annotated[
        str, typer.Option(help="auto (the least score error of the next three), minmax, entropy, percentile, or qat.")
    ] = "auto",
    precision: Annotated[
        list[_Reduced] | None, typer.Option(help="int8 or fp16; may be given again. int8 when left out.")
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0.0001, max=10, help="Score error that layers in int8 may cause; others stay in float.")
    ] = 0.002,
    prove: Annotated[bool, typer.Option("--prove", help="Compare all forms of the model on the test part.")] = False,
    sensitivity: Annotated[Path | None, typer.Option(help="Draw the sensitivity of the layers into this SVG.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the proof's table, as .md or .html.")] = None,
    graph: Annotated[Path | None, typer.Option(help="An ONNX file quantised elsewhere, such as by ModelOpt.")] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="The data are of other people: calibrate all precisions on them.")
    ] = False,
    leave_out: Annotated[list[str] | None, typer.Option(help="As when it was trained; may be repeated.")] = None,
    path: Annotated[Path | None, typer.Option(help="Where the data lies, in place of the file's path.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done and measured as JSON.")] = False,
) -> None:
    """Add models in int8 or fp16, with a calibration of their own, to a bundle, and prove that they answer the same.

    The people who were trained on give the ranges; those who stopped the training choose method and layers; the
    calibration part calibrates; the proof is on the test part. The new bundle has to be signed anew. A gateway runs
    it with precision = "int8" or "fp16".

    Whether a model bears int8 is measured, and what fails is not written. The shipped model (wrists-sim) does not:
    take --precision fp16 for it, which no data decide.

    Example: kinedge quantize wrists.kinedge --data examples/wrists-sim.toml --precision fp16 --out wrists-fp16.kinedge
    """
    with need_extra("quantize"):
        from kinedge.quantize.parity_table import as_html, as_markdown
        from kinedge.quantize.sensitivity import plot_svg
        from kinedge.quantize.variants import Int8Config, add_precisions

    asked = {p.value for p in precision or [_Reduced.int8]}
    wanted: list[Reduced] = [p for p in _REDUCED if p in asked]
    if graph is not None and "int8" not in wanted:
        raise ConfigError("--graph is an int8 model: give --precision int8 as well")
    if table is not None and not prove:
        raise ConfigError("--table shows the proof: give --prove as well")
    loaded = read_bundle(bundle)
    try:
        int8 = Int8Config.model_validate({"method": method, "budget": budget})
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, Int8Config, "options")) from e
    console = Console(stderr=True)
    with console.status("loading") as status:
        quiet = as_json or not console.is_terminal
        how, parts = parts_for(
            loaded,
            data,
            where=path,
            leave_out=tuple(leave_out or ()),
            other_people=recalibrate,
            bundle_name=str(bundle),
        )
        made = add_precisions(
            loaded,
            parts,
            int8,
            precisions=wanted,
            exclude_labels=how.exclude_labels,
            seed=how.seed,
            graph=None if graph is None else _bytes(graph),
            proof=prove,
            recalibrate=recalibrate,
            report=lambda what: None if quiet else status.update(what),
        )
    write_bundle(out, made.data)
    if sensitivity is not None and made.sweep is not None:
        _write(sensitivity, plot_svg(made.sweep))
    if table is not None and made.proof is not None:
        proof = made.proof.to_dict()
        _write(table, as_html(proof) if table.suffix == ".html" else as_markdown(proof))
    if as_json:
        typer.echo(json.dumps({"out": str(out), **made.to_dict()}, indent=2))
        return
    _show(out, made)


def parts_for(
    bundle: Bundle, data: Path, *, where: Path | None, leave_out: tuple[str, ...], other_people: bool, bundle_name: str
) -> tuple[BuildConfig, Parts]:
    """Load the recordings that a bundle was made of, and split them as they were.

    Parameters
    ----------
    data
        The TOML file it was trained with.
    where
        In place of the file's path.
    other_people
        The recordings are not those of the training; none of them has been seen.

    Raises
    ------
    ConfigError
        The file is wrong, or does not go with the bundle.
    SignalError, StoreError
        The recordings cannot be read, or are too few.
    """
    from kinedge.quantize.build import BuildConfig, on_grid, split_parts
    from kinedge.quantize.variants import same_recordings

    settings = load_toml(data, TrainConfig)
    try:
        how = BuildConfig.model_validate(settings.bundle)
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, BuildConfig, str(data))) from e
    if how.split == "cross":
        raise ConfigError(
            f"{data}: split = 'cross' leaves no people that the model has not seen; give a file of other people with "
            "split = 'holdout', and --recalibrate"
        )
    grid = on_grid(recordings_of(settings, how, where=where, here=data.parent, leave_out=leave_out), how)
    manifest = bundle.manifest
    if grid[0].sensors != manifest.sensor_specs or grid[0].rate_hz != manifest.rate_hz:
        raise ConfigError(
            f"{data}: sensors or rate_hz are not those of {bundle_name}; give the file it was trained with"
        )
    if not other_people and not same_recordings(bundle, grid):
        raise ConfigError(
            f"{data} does not give the recordings that {bundle_name} was made of; for other people, give "
            "--recalibrate to kinedge quantize: all precisions are then calibrated on them"
        )
    return how, split_parts(grid, how)


def _show(out: Path, made: Quantised) -> None:
    console = Console()
    console.print(f"{out}: {', '.join(sorted(made.bundle.manifest.precisions))}", soft_wrap=True)
    if made.int8 is not None:
        errors = ", ".join(f"{name} {error:.3g}" for name, error in made.int8.errors.items())
        console.print(f"int8 by {made.int8.method}{f' (score errors: {errors})' if errors else ''}", soft_wrap=True)
    if made.sweep is not None:
        layers = Table("layer", "score error alone", "with those above", "runs in")
        for row in made.sweep.rows:
            layers.add_row(row.layer, f"{row.alone:.2g}", f"{row.joined:.2g}", "int8" if row.int8 else "float")
        console.print(layers)
    for what in made.changes:
        console.print(f"changed: {what}", soft_wrap=True, markup=False)
    for finding in () if made.check is None else made.check.findings:
        console.print(str(finding), soft_wrap=True, markup=False)
    if made.proof is None:
        return
    forms = Table("form", "error of z", "VUS-PR change", "flipped", "other sensor first", "hit@1")

    def cell(value: float | None, style: str) -> str:
        return "" if value is None else format(value, style)

    for form in made.proof.rows:
        change = form.vus_pr_change if form.vus_pr_change is not None else form.vus_pr_injected_change
        cells: list[Any] = [
            cell(form.z_relative_rmse, ".1e") if form.run else "not run",
            cell(change, "+.4f"),
            cell(form.flipped, ".2%"),
            cell(form.order_changed, ".2%"),
            cell(form.hit_at_1, ".3f"),
        ]
        forms.add_row(form.form, *cells)
    console.print(forms)
    missed = [goal for goal, met in made.proof.goals().items() if not met]
    console.print("all goals are met" if not missed else f"goals missed: {', '.join(missed)}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise BackendError(f"{path}: cannot be read ({e.strerror})") from e


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise StoreError(f"{path}: cannot be written ({e.strerror})") from e
