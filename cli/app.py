"""The ``kinedge`` command line: one file per command, registered here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import typer

from kinedge import __version__
from kinedge.errors import ConfigError, KinedgeError

__all__ = ["CALLED_WITH", "app", "main", "need_extra"]

#: The arguments of the command that runs: a benchmark writes them down.
CALLED_WITH: Final[ContextVar[tuple[str, ...]]] = ContextVar("CALLED_WITH", default=())

app = typer.Typer(
    name="kinedge",
    help="Cautious, explained anomaly detection on wearable IMU streams, at the edge.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Cautious, explained anomaly detection on wearable IMU streams, at the edge."""


@contextmanager
def need_extra(extra: str) -> Iterator[None]:
    """Turn a missing optional library into one sentence that says what to install.

    Raises
    ------
    ConfigError
        An import inside the block found a library missing.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        if (e.name or "").startswith("kinedge"):
            raise
        raise ConfigError(f"{e.name} is not installed; this command needs: pip install 'kinedge[{extra}]'") from e


#: Which files a command needs: one that starts on a board pays for its own alone.
_FILES: Final[dict[str, tuple[str, ...]]] = {
    "audit": ("audit",),
    "forget": ("audit",),
    "bench": (
        "bench",
        "bench_ab",
        "bench_all",
        "bench_caution",
        "bench_collector",
        "bench_dashboard",
        "bench_left_out",
        "bench_peers",
        "bench_people",
        "bench_results",
        "bench_stages",
    ),
    "collect": ("collect", "collect_demo"),
    "compile": ("compile",),
    "config": ("config",),
    "data": ("data",),
    "demo": ("demo",),
    "doctor": ("doctor",),
    "emulate": ("emulate",),
    "enrol": ("enrol",),
    "enroll-gateway": ("enroll_gateway",),
    "episodes": ("episodes",),
    "feedback": ("feedback",),
    "inspect": ("inspect",),
    "keygen": ("keys",),
    "sign": ("keys",),
    "verify": ("keys",),
    "measures": ("measures",),
    "models": ("models",),
    "pose": ("pose",),
    "quantize": ("quantize",),
    "record": ("record",),
    "replay": ("replay",),
    "report": ("report",),
    "run": ("run",),
    "scan": ("scan",),
    "sync": ("sync",),
    "train": ("train",),
}


def _register(command: str | None = None) -> None:
    """Import the files of a command, or of all when there is none of this name; each adds itself to ``app``."""
    everything = [file for files in _FILES.values() for file in files]
    for file in everything if command is None else _FILES.get(command, everything):
        importlib.import_module(f"kinedge.cli.{file}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 an error of ours, 2 wrong usage."""
    arguments = tuple(sys.argv[1:] if argv is None else argv)
    _register(arguments[0] if arguments else None)
    called = CALLED_WITH.set(arguments)
    try:
        result = app(args=argv, standalone_mode=False)
    except KinedgeError as e:
        from rich.console import Console  # a board that serves draws nothing
        from rich.markup import escape

        Console(stderr=True).print(f"[red]error:[/red] {escape(str(e))}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        # typer's own usage errors carry their exit code and know how to show themselves
        show = getattr(e, "show", None)
        if show is None:
            raise
        show()
        return int(getattr(e, "exit_code", 2))
    finally:
        CALLED_WITH.reset(called)
    return int(result) if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
