"""kinedge: cautious, explained anomaly detection on wearable IMU streams, at the edge.

This package holds the words that every room shares. The rooms are ``kinedge.firmware_bridge`` (bytes to
samples), ``kinedge.edge`` (samples to verdicts to episodes), ``kinedge.training``, ``kinedge.quantize``,
``kinedge.upstream``, ``kinedge.benchmarks`` and ``kinedge.cli``.

What is named here is loaded when it is first asked for: a board that starts one room pays for that one alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kinedge.errors import (
    BackendError,
    BundleError,
    ConfigError,
    KinedgeError,
    LinkError,
    OutboxError,
    ProtocolError,
    SignalError,
    StoreError,
)

if TYPE_CHECKING:
    from kinedge.bundle import Bundle, Manifest, read_bundle
    from kinedge.recording import Recording, Region
    from kinedge.signals import ImuChunk, SensorSpec

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ConfigError",
    "ImuChunk",
    "KinedgeError",
    "LinkError",
    "Manifest",
    "OutboxError",
    "ProtocolError",
    "Recording",
    "Region",
    "SensorSpec",
    "SignalError",
    "StoreError",
    "__version__",
    "read_bundle",
]

_HOMES = {
    "Bundle": "bundle",
    "Manifest": "bundle",
    "read_bundle": "bundle",
    "Recording": "recording",
    "Region": "recording",
    "ImuChunk": "signals",
    "SensorSpec": "signals",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kinedge' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kinedge.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
