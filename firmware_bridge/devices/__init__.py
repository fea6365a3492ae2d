"""Device families, one module each, found through one registry."""

from __future__ import annotations

from kinedge.firmware_bridge.devices.registry import driver, drivers

__all__ = ["driver", "drivers"]
