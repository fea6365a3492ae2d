"""Configuration base: typed, strict, read from TOML, with one clear error of ours."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from kinedge.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "explain_validation_error", "load_toml", "nested_models", "unit_of"]

_MAX_CONFIG_BYTES = 1 << 20

# Units that stand last in a key's name, by what they measure, in terms of the first of each line.
_UNITS: Final[dict[str, dict[str, float]]] = {
    "time": {"s": 1, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "min": 60, "minutes": 60, "hours": 3600, "h": 3600}
    | {"days": 86_400, "d": 86_400, "seconds": 1, "sec": 1},
    "size": {"bytes": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "acceleration": {"m_s2": 1, "g": 9.80665, "mg": 9.80665e-3},
    "angular rate": {"rad_s": 1, "deg_s": 0.017453292519943295, "dps": 0.017453292519943295},
    "rate": {"hz": 1, "khz": 1e3},
    "level": {"db": 1, "percent": 0.01},
}
_UNIT_WORDS: Final = {
    "m_s2": "m/s²", "deg_s": "deg/s", "rad_s": "rad/s", "hz": "Hz", "khz": "kHz", "mb": "MB", "gb": "GB", "kb": "kB",
    "mib": "MiB", "gib": "GiB", "kib": "KiB", "percent": "%", "min": "min", "db": "dB",
}  # fmt: skip


class Config(BaseModel):
    """Base of every configuration and manifest: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def unit_of(key: str) -> str:
    """Return the unit that a key's name ends with, as people write it; empty when it has none."""
    _, suffix = _split_unit(key)
    return _UNIT_WORDS.get(suffix, suffix)


def explain_validation_error(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn pydantic's report into lines that say what, where, and the nearest known key or the right unit."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "(top)"
        line = f"{path}: {item['msg']}"
        if item["type"] == "extra_forbidden":
            line = f"{path}: unknown key" + _suggestion(model, item["loc"], item["input"])
        elif item["type"] in ("float_parsing", "int_parsing", "float_type", "int_type"):
            unit = unit_of(str(item["loc"][-1]) if item["loc"] else "")
            line = f"{path}: must be a number" + (f" of {unit}" if unit else "") + f", got {item['input']!r}"
        lines.append(line)
    return f"{where}: " + "; ".join(lines)


def _suggestion(model: type[BaseModel], loc: tuple[int | str, ...], value: Any) -> str:
    known = _known_keys(model, loc[:-1])
    key = str(loc[-1])
    stem, unit = _split_unit(key)
    for other in known:
        other_stem, other_unit = _split_unit(other)
        if unit and other_unit and other_stem == stem and (factor := _factor(unit, other_unit)) is not None:
            right = f"{other} = {value * factor:g}" if isinstance(value, int | float) else other
            return f"; did you mean {other!r}? Its unit is {unit_of(other)}: write {right}"
        if other_unit and other_stem == key:
            return f"; did you mean {other!r}? Its unit is {unit_of(other)}"
    if near := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {near[0]!r}?"
    return f"; known here: {', '.join(known)}"


def _split_unit(key: str) -> tuple[str, str]:
    units = sorted((u for family in _UNITS.values() for u in family), key=len, reverse=True)
    for unit in units:
        if key.endswith(f"_{unit}"):
            return key[: -len(unit) - 1], unit
    return key, ""


def _factor(unit: str, wanted: str) -> float | None:
    """Return what a value in ``unit`` is multiplied with; None when the two measure different things."""
    for family in _UNITS.values():
        if unit in family and wanted in family:
            return family[unit] / family[wanted]
    return None


def nested_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation holds, such as those of ``tuple[Person, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in nested_models(part)]


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    current = model
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        nested = [] if field is None else nested_models(field.annotation)
        if not nested:
            return []
        current = nested[0]
    return sorted(current.model_fields)


def load_toml(path: Path, model: type[ConfigT]) -> ConfigT:
    """Read and validate a TOML file.

    Raises
    ------
    ConfigError
        The file is missing, too large, no TOML, or does not fit ``model``.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes; this is no configuration file")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: no valid TOML ({e})") from e
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, model, str(path))) from e
