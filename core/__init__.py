"""kinedge: cautious, explained anomaly detection on wearable IMU streams, at the edge.

This package holds the words that every room shares. The rooms are ``kinedge.firmware_bridge`` (bytes to
samples), ``kinedge.edge`` (samples to verdicts to episodes), ``kinedge.training``, ``kinedge.quantize``,
``kinedge.upstream``, ``kinedge.benchmarks`` and ``kinedge.cli``.
"""

from __future__ import annotations

from kinedge.bundle import Bundle, Manifest, read_bundle
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
