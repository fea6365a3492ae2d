"""Which device families there are: ours, and those of any installed package that declares an entry point.

A third party adds a family in its own ``pyproject.toml``::

    [project.entry-points."kinedge.devices"]
    acme = "acme_kinedge:AcmeDriver"
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Final

from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import Driver

__all__ = ["driver", "drivers"]

_OURS: Final[dict[str, str]] = {
    "kinedge": "kinedge.firmware_bridge.devices.kinedge_imu:KinedgeDriver",
    "metamotion": "kinedge.firmware_bridge.devices.metamotion:MetaMotionDriver",
    "movella_dot": "kinedge.firmware_bridge.devices.movella_dot:MovellaDotDriver",
    "movesense": "kinedge.firmware_bridge.devices.movesense:MovesenseDriver",
    "openearable": "kinedge.firmware_bridge.devices.openearable:OpenEarableDriver",
    "polar_pmd": "kinedge.firmware_bridge.devices.polar_pmd:PolarPmdDriver",
    "shimmer3": "kinedge.firmware_bridge.devices.shimmer3:Shimmer3Driver",
    "witmotion": "kinedge.firmware_bridge.devices.witmotion:WitMotionDriver",
    "xsens_mti": "kinedge.firmware_bridge.devices.xsens_mti:XsensMtiDriver",
}


@lru_cache(maxsize=1)
def drivers() -> dict[str, Driver]:
    """Return all families by name; one that fails to load is an error that names its package.

    Raises
    ------
    ConfigError
        A third-party entry point does not load, or takes a name that is taken.
    """
    found: dict[str, Driver] = {}
    for name in _OURS:
        found[name] = _ours(name)
    for point in entry_points(group="kinedge.devices"):
        if point.name in found:
            raise ConfigError(f"entry point {point.value}: the device family {point.name!r} exists already")
        try:
            made: Any = point.load()()
        except Exception as e:
            raise ConfigError(f"device family {point.name!r} ({point.value}) does not load: {e}") from e
        found[point.name] = made
    return found


def _ours(name: str) -> Driver:
    module, _, attribute = _OURS[name].partition(":")
    made: Driver = getattr(importlib.import_module(module), attribute)()
    return made


def driver(name: str) -> Driver:
    """Return one family; for one of ours, no other is imported, and no package on the machine is looked at.

    Raises
    ------
    ConfigError
        There is none of this name.
    """
    if name in _OURS:
        return _ours(name)
    known = drivers()
    if name not in known:
        raise ConfigError(f"no device family {name!r}; known are {', '.join(sorted(known))}")
    return known[name]
