"""``kinedge doctor``: what stands between this machine and its sensors, and what to do about it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from kinedge import __version__
from kinedge.bundle import read_bundle
from kinedge.cli.app import app
from kinedge.cli.surroundings import BROKEN, NOTE, OK, Finding, check_bluetooth, check_ports, printable, table_of
from kinedge.edge.backends import NativeBackend, OnnxBackend, load_backend
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.native import implementation, library
from kinedge.errors import KinedgeError
from kinedge.firmware_bridge.ble_radio import BleRadio

__all__ = ["check_model", "doctor"]

F32 = NDArray[np.float32]
_NEEDED: Final = ("numpy", "onnxruntime", "pydantic", "pyserial", "bleak")
_CLOSE: Final = 1e-5  # of the largest value: what two ways to add up may differ by
_OPTIONAL: Final = {"pyarrow": "record", "torch": "train", "fastapi": "upstream", "pylsl": "lsl"}


@app.command()
def doctor(
    port: Annotated[list[str] | None, typer.Option(help="A port that must be usable; may be repeated.")] = None,
    bundle: Annotated[Path, typer.Option(help="The model that must load.")] = DEFAULT_BUNDLE,
    listen_s: Annotated[
        float, typer.Option("--listen", min=0, max=60, help="Listen for devices so many seconds.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check versions, ports, Bluetooth and the model; exit status 1 when something is broken.

    Listening opens the ports, which makes some boards start anew.

    Example: kinedge doctor --port /dev/ttyACM0 --listen 3
    """
    findings = [*_check_versions(), check_model(bundle), *asyncio.run(_look_around(port or [], listen_s))]
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        Console().print(table_of(findings))
    if any(f.state == BROKEN for f in findings):
        raise typer.Exit(1)


def _check_versions() -> Iterator[Finding]:
    yield Finding("kinedge", OK, f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    for name in _NEEDED:
        try:
            yield Finding(name, OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, BROKEN, "is not installed", f"{sys.executable} -m pip install kinedge")
    if library() is None:
        yield Finding(
            "arithmetic", NOTE, implementation(), "the same verdicts, for more processor time; see docs/performance.md"
        )
    else:
        yield Finding("arithmetic", OK, implementation())
    for name, extra in _OPTIONAL.items():
        try:
            yield Finding(name, OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            advice = f"if you need it: pip install 'kinedge[{extra}]'"
            yield Finding(name, NOTE, f"is not installed; belongs to the extra '{extra}'", advice)


def check_model(bundle: Path) -> Finding:
    """Load a bundle and let it make one step."""
    what = f"model {bundle.name}"
    try:
        loaded = read_bundle(bundle)
        manifest = loaded.manifest
        backend = load_backend(loaded)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, manifest.hop, manifest.n_channels)).astype(np.float32)
        state = rng.normal(size=(2, manifest.state_size)).astype(np.float32)
        mu, log_sigma, after = backend.step(x, np.ones_like(x), state)
        agrees = ""
        if isinstance(backend, NativeBackend):
            agrees = _against_onnx(OnnxBackend(loaded).step(x, np.ones_like(x), state), (mu, log_sigma, after))
    except KinedgeError as e:
        return Finding(what, BROKEN, str(e), "install kinedge again, or name a bundle of this version with --bundle")
    if not (np.isfinite(mu).all() and np.isfinite(log_sigma).all()):
        advice = f"{backend.name} computes wrongly on this machine; name another in the gateway's backend"
        return Finding(what, BROKEN, "a step gives no numbers", advice)
    if agrees.startswith("but"):
        advice = 'say backend = ["onnx"] in the gateway\'s file, and tell the authors of kinedge what machine it is'
        return Finding(what, BROKEN, f"it makes a step with {backend.name}, {agrees}", advice)
    return Finding(what, OK, f"every digest holds, and it makes a step with {backend.name}{agrees}")


def _against_onnx(expected: tuple[F32, ...], found: tuple[F32, ...]) -> str:
    """Say how far a step is from ONNX Runtime's, of the largest value."""
    pairs = zip(found, expected, strict=True)
    largest = max(float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-30) for a, b in pairs)
    if largest <= _CLOSE:
        return f", within {largest:.0e} of ONNX Runtime" if largest else ", to the bit as ONNX Runtime does"
    return f"but {largest:.0e} from ONNX Runtime"


async def _look_around(ports: list[str], listen_s: float) -> list[Finding]:
    findings = await check_ports(ports, listen_s=listen_s)
    bluetooth, heard = await check_bluetooth(BleRadio(), listen_s=listen_s)
    findings.append(bluetooth)
    known = [h for h in heard if h.families]
    if listen_s and bluetooth.state == OK and not known:
        advice = "wake the sensors up, bring them near, and see that nothing else is connected to them"
        findings.append(Finding("bluetooth", NOTE, f"{len(heard)} devices heard, none of a known family", advice))
    for h in known:
        a = h.advertisement
        strength = "" if a.rssi_dbm is None else f", {a.rssi_dbm} dBm"
        text = f"{printable(a.name) or '(no name)'}: {', '.join(h.families)}{strength}"
        findings.append(Finding(f"heard {a.address}", OK, text, configure=f"ble = {json.dumps(a.address)}"))
    return findings
