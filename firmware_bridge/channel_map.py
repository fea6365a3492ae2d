"""Which columns of a foreign stream are which of our channels, and what makes them SI: from labels and units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.signals import UNIT_OF, SensorSpec, quantity_of
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["ChannelMap", "map_channels"]

_LABEL: Final = re.compile(r".*?(acc|gyr|mag)[a-z]*[^a-z0-9]*([xyz])(?:[^a-z0-9].*)?")
_AXES: Final = tuple(f"{q}_{axis}" for q in ("acc", "gyr", "mag") for axis in "xyz")
_DEGREE: Final = math.pi / 180

# Lower case, without blanks, ^, * and brackets; both micro signs are u, ² is 2.
_SCALE: Final[dict[str, dict[str, float]]] = {
    "acc": {
        **dict.fromkeys(("m/s2", "m/s/s", "ms-2", "m.s-2", "meters/second2", "metres/second2"), 1.0),
        **dict.fromkeys(("g", "gravity"), STANDARD_GRAVITY_M_S2),
        **dict.fromkeys(("mg", "milli-g"), STANDARD_GRAVITY_M_S2 / 1000),
    },
    "gyr": {
        **dict.fromkeys(("rad/s", "rads-1", "rad.s-1", "rps", "radians/second"), 1.0),
        **dict.fromkeys(("deg/s", "°/s", "dps", "deg.s-1", "degs-1", "degrees/second"), _DEGREE),
        "mdps": _DEGREE / 1000,
    },
    "mag": {
        **dict.fromkeys(("ut", "microtesla"), 1.0),
        **dict.fromkeys(("t", "tesla"), 1e6),
        "mt": 1e3,
        "nt": 1e-3,
        **dict.fromkeys(("g", "gs", "gauss"), 100.0),
        **dict.fromkeys(("mg", "mgauss", "milligauss"), 0.1),
    },
}


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """How rows of a stream become values of a sensor.

    Parameters
    ----------
    spec
        The sensor, its channels in our order.
    columns : (n_channels,) int64
        Of the stream.
    scale : (n_channels,) float64
        To SI units.
    n_columns
        Of the whole stream.
    """

    spec: SensorSpec
    columns: NDArray[np.int64]
    scale: NDArray[np.float64]
    n_columns: int

    def to_si(self, rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values and validity, both (n, n_channels), of rows (n, n_columns); NaN and infinity are missing."""
        with np.errstate(over="ignore"):  # what is too large for float32 is no measurement: invalid below
            values = (rows[:, self.columns].astype(np.float64) * self.scale).astype(np.float32)
        valid = np.isfinite(values)
        return np.where(valid, values, np.float32(0)), valid


def map_channels(
    sensor: str,
    labels: Sequence[str | None],
    units: Sequence[str | None],
    *,
    mapping: Mapping[str, str] | None = None,
    unit_of: Mapping[str, str] | None = None,
    where: str,
) -> ChannelMap:
    """Find our channels among those of a stream.

    Parameters
    ----------
    sensor
        Where it is worn.
    labels, units
        Of each column, as the stream says; None or empty where it does not.
    mapping
        Label by our channel, such as ``{"acc_x": "IMU-3"}``: these and no others. Without it, labels such as ``acc_x``,
        ``ACC X``, ``Gyroscope_Z`` or ``AccelY`` are understood.
    unit_of
        Unit by ``acc``, ``gyr`` or ``mag``, in place of what the stream says.
    where
        For messages.

    Raises
    ------
    ConfigError
        No channel is known, two are the same, or a unit is missing or unknown: units are never guessed.
    SignalError
        A name in ``mapping`` is no channel, or ``sensor`` no name for a sensor.
    """
    found = _by_mapping(labels, mapping, where) if mapping is not None else _by_label(labels, where)
    if not found:
        said = ", ".join(repr(label) for label in labels[:12])
        raise ConfigError(
            f"{where}: none of its labels ({said:.200}) is known; say by `mapping` which channel is which"
        )
    spec = SensorSpec(sensor, tuple(found))
    overrides = unit_of or {}
    if unknown := set(overrides) - set(_SCALE):
        raise ConfigError(f"{where}: unit_of knows acc, gyr and mag, not {', '.join(sorted(unknown))}")
    scale = [
        _scale(channel, overrides.get(channel[:3], units[at] if at < len(units) else None), where)
        for channel, at in found.items()
    ]
    return ChannelMap(spec, np.array(list(found.values()), np.int64), np.array(scale), len(labels))


def _by_mapping(labels: Sequence[str | None], mapping: Mapping[str, str], where: str) -> dict[str, int]:
    found = {}
    for channel, label in mapping.items():
        quantity_of(channel)
        places = [i for i, other in enumerate(labels) if other == label]
        if len(places) != 1:
            raise ConfigError(
                f"{where}: {len(places)} channels are called {label!r}, which `mapping` names; one must be"
            )
        found[channel] = places[0]
    return found


def _by_label(labels: Sequence[str | None], where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, label in enumerate(labels):
        match = _LABEL.fullmatch((label or "")[:80].lower())
        if match is None:
            continue
        channel = f"{match[1]}_{match[2]}"
        if channel in found:
            raise ConfigError(
                f"{where}: {labels[found[channel]]!r} and {label!r} both mean {channel}; say by `mapping` which one"
            )
        found[channel] = i
    return {channel: found[channel] for channel in _AXES if channel in found}


def _scale(channel: str, unit: str | None, where: str) -> float:
    known = _SCALE[channel[:3]]
    plain = (unit or "").lower().translate({ord("µ"): "u", ord("μ"): "u", ord("²"): "2"})
    plain = re.sub(r"[\s^*()\[\]]", "", plain)
    if plain not in known:
        said = f"the unit {unit!r:.40} is unknown" if plain else "no unit is given"
        raise ConfigError(
            f"{where}: {said} for {channel}; say by `unit_of` what it is, such as {UNIT_OF[quantity_of(channel)]} "
            f"(known: {', '.join(known)})"
        )
    return known[plain]
