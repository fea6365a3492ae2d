"""Configuration base: typed, strict, read from TOML, with one clear error of ours."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kinedge.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "explain_validation_error", "load_toml"]

_MAX_CONFIG_BYTES = 1 << 20


class Config(BaseModel):
    """Base of every configuration and manifest: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def explain_validation_error(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn pydantic's report into lines that say what, where, and the nearest known key."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "(top)"
        line = f"{path}: {item['msg']}"
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            line = f"{path}: unknown key" + (
                f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
            )
        lines.append(line)
    return f"{where}: " + "; ".join(lines)


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
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
