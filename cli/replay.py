"""``kinedge replay``: what was recorded, through the same code as what is live."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from kinedge.cli.app import app
from kinedge.errors import ConfigError

__all__ = ["replay"]


@app.command()
def replay(
    path: Annotated[Path, typer.Argument(help="A recorded session's folder; or a data set's file, with --dataset.")],
    speed: Annotated[
        str, typer.Option(help="Recorded seconds per second, or 'max'. Default: 1 for a session, 8 for a data set.")
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(help="A gateway's TOML: the model it runs now, and its settings."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="A .kinedge file; the shipped wrist model when left out.")] = None,
    subject: Annotated[str, typer.Option(help="Only this person.")] = "",
    collector: Annotated[
        str, typer.Option(help="URL of a collector. Left out: none for a session; one is started for a data set.")
    ] = "",
    folder: Annotated[Path, typer.Option(help="Where the databases of this run go.")] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="One verdict per line, as run does; the figures for a data set.")
    ] = False,
    dataset: Annotated[str, typer.Option(help="fog_stanford, gait_healthy or daphnet.")] = "",
    item: Annotated[str, typer.Option(help="Data set: only recordings whose name contains this.")] = "",
    label: Annotated[str, typer.Option(help="Data set: the labelled regions that should be found.")] = "freeze",
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Data set: share of packets lost on the way.")] = 0.0,
    cut: Annotated[str, typer.Option(help="Data set: play only from-to, in seconds, such as 0-20.")] = "",
) -> None:
    """Play a recorded session again, or a data set through emulated devices, and score it as if it were live.

    A session that `kinedge run --record` made gives the same verdicts, bit for bit, at any speed.

    Example: kinedge replay recordings/20260115T093000Z --speed max --json

    Example: kinedge replay fog_stanford.npz --dataset fog_stanford --bundle fog-without-pt3.kinedge --subject pt3
    """
    factor = _parse_speed(speed)
    if dataset:
        if config is not None:
            raise ConfigError("--config is for recorded sessions; give a data set its model with --bundle")
        from kinedge.cli.replay_dataset import replay_dataset

        replay_dataset(
            path,
            dataset,
            bundle=bundle,
            subject=subject,
            item=item,
            label=label,
            speed=factor,
            loss=loss,
            cut=cut,
            collector=collector,
            folder=folder,
            as_json=as_json,
        )
        return
    if path.is_file():
        advice = (
            "kinedge record OUT --from-xdf makes a session of it" if "xdf" in path.suffix else "say which: --dataset"
        )
        raise ConfigError(f"{path}: is a file; sessions are folders, and files of data sets need their name ({advice})")
    if item or cut or loss:
        raise ConfigError("--item, --loss and --cut are for data sets; a session is played as it was")
    from kinedge.cli.replay_session import replay_sessions

    replay_sessions(
        path,
        speed=1.0 if factor is None else factor,
        config_path=config,
        bundle=bundle,
        subject=subject,
        collector=collector,
        folder=folder,
        as_json=as_json,
    )


def _parse_speed(text: str) -> float | None:
    if text in ("", "max"):
        return math.inf if text else None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0.01 <= speed <= 10_000:
        raise ConfigError(f"--speed {text!r}: expected a factor from 0.01 to 10000, or max")
    return speed
