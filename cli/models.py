"""``kinedge models``: models that come from a repository, on the board and on the publisher's side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from kinedge.cli.app import app, need_extra
from kinedge.errors import BundleError

if TYPE_CHECKING:
    from kinedge.cli.models_repository import Published
    from kinedge.edge.rollout import ModelKeeper

__all__ = ["models"]

models = typer.Typer(
    help="Models from a repository: pull and roll back on a gateway, publish elsewhere.\n\n"
    "Example: kinedge models pull gateway.toml"
)
app.add_typer(models, name="models", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Argument(help="The gateway's TOML file, with \\[models].")]
Repository = Annotated[Path, typer.Argument(help="The repository's folder; any web server can serve it.")]
Keys = Annotated[Path, typer.Option("--keys", help="The folder of the publisher's secret keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _keeper(config: Path) -> tuple[ModelKeeper, list[dict[str, Any]]]:
    from kinedge.edge.config import load_gateway_config
    from kinedge.edge.rollout import ModelKeeper

    events: list[dict[str, Any]] = []
    settings = load_gateway_config(config)
    return ModelKeeper(settings, on_event=lambda e, detail: events.append({"event": e, **detail})), events


def _status(keeper: ModelKeeper) -> dict[str, Any]:
    state = keeper.versions.read_state()
    return {
        "current": keeper.versions.current,
        "previous": keeper.versions.previous,
        "staged": state.staged or None,
        "on_trial": state.trial or None,
        "refused": state.refused,
    }


def _show(status: dict[str, Any], events: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**status, "events": events}))
        return
    for event in events:
        _say(f"{event['event'].replace('_', ' ')}: {event['model_digest'][:16]} {event['reason']}")
    for what in ("current", "previous", "staged", "on_trial"):
        _say(f"{what.replace('_', ' ')}: {(status[what] or 'none')[:16]}")
    for digest, reason in status["refused"].items():
        _say(f"refused: {digest[:16]} {reason}")


@models.command()
def pull(config: ConfigFile, as_json: AsJson = False) -> None:
    """Fetch the latest model, test it here and make it the current one; what was refused before is tried again.

    A running gateway takes it at its next look. Fails when the model is refused.

    Example: kinedge models pull gateway.toml
    """
    keeper, events = _keeper(config)
    keeper.retry()
    with Console(stderr=True).status("fetching and testing"):
        keeper.poll(running=None)
    _show(_status(keeper), events, as_json=as_json)
    for event in events:
        if event["event"] == "model_refused":
            raise BundleError(f"refused: {event['reason']}")


@models.command()
def status(config: ConfigFile, as_json: AsJson = False) -> None:
    """Show which model runs, which ran before, which waits, and which were refused and why.

    Example: kinedge models status gateway.toml
    """
    keeper, events = _keeper(config)
    _show(_status(keeper), events, as_json=as_json)


@models.command()
def rollback(config: ConfigFile, as_json: AsJson = False) -> None:
    """Go back to the model before; the other is not taken again until you pull it. A running gateway follows.

    After a first pull there is none before it in the folder: then it is the one that `bundle` in the file names.

    Example: kinedge models rollback gateway.toml
    """
    keeper, events = _keeper(config)
    keeper.roll_back()
    _show(_status(keeper), events, as_json=as_json)


def _publisher(work: Callable[[], Published], *, as_json: bool) -> None:
    published = work()
    if as_json:
        said = {"versions": published.versions, "expires": published.expires, "models": published.models}
        typer.echo(json.dumps(said))
        return
    for role, version in published.versions.items():
        _say(f"{role}: version {version}, until {published.expires[role]}")
    _say(f"models: {', '.join(published.models) or 'none'}")


@models.command()
def init(repository: Repository, keys: Keys, as_json: AsJson = False) -> None:
    """Make an empty repository and its four keys. Give metadata/1.root.json to the gateways; put root.pem in a safe.

    Example: kinedge models init repo --keys keys
    """
    with need_extra("rollout"):
        from kinedge.cli import models_repository
    _publisher(lambda: models_repository.init(repository, keys), as_json=as_json)


@models.command()
def publish(
    repository: Repository,
    bundle: Annotated[Path, typer.Argument(help="A .kinedge bundle, signed (kinedge sign).")],
    keys: Keys,
    name: Annotated[str, typer.Option(help="What gateways call it in models.name.")] = "model",
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Gateways take it only with trust.allow_unsigned.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle the latest of its name, with the self-test that every board must pass with it.

    Example: kinedge models publish repo wrists.kinedge --keys keys --name wrists
    """
    with need_extra("rollout"):
        from kinedge.cli import models_repository
    _publisher(
        lambda: models_repository.publish(repository, bundle, keys, name=name, allow_unsigned=allow_unsigned),
        as_json=as_json,
    )


@models.command()
def refresh(
    repository: Repository,
    keys: Keys,
    rotate: Annotated[
        str | None, typer.Option(help="Put a new key in place of this role's: root, targets, snapshot or timestamp.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say again that this is the latest, before the dates run out; with --rotate, change a key, too.

    The dates of root and targets are renewed where their keys lie in --keys.

    Example: kinedge models refresh repo --keys keys
    """
    with need_extra("rollout"):
        from kinedge.cli import models_repository
    if rotate is None:
        _publisher(lambda: models_repository.refresh(repository, keys), as_json=as_json)
    else:
        _publisher(lambda: models_repository.rotate(repository, keys, role=rotate), as_json=as_json)
