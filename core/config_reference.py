"""Every key of a configuration, told from its pydantic models: type, unit, default, bounds, meaning."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kinedge.config import nested_models, unit_of

__all__ = ["KeyFact", "describe_keys"]

_WORDS = {"str": "text", "int": "integer", "float": "number", "bool": "true/false", "Path": "path"}
_BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"))


@dataclass(frozen=True)
class KeyFact:
    """One key.

    Parameters
    ----------
    key
        With its tables: ``uplink.url``; ``people[].subject`` in a table that may stand several times.
    type
        In words.
    unit
        From the key's name; empty without one.
    default
        As TOML writes it; None when the key must be given.
    bounds
        Of a number.
    meaning
        One line.
    is_table
        It holds the keys that follow.
    example
        As TOML writes it; None without one.
    """

    key: str
    type: str
    unit: str
    default: str | None
    bounds: str
    meaning: str
    is_table: bool
    example: str | None


def describe_keys(model: type[BaseModel], *, prefix: str = "") -> Iterator[KeyFact]:
    """Tell every key of a model, those of nested tables right after their table.

    Parameters
    ----------
    model
        Of the configuration.
    prefix
        Stands before each key.
    """
    for name, field in model.model_fields.items():
        nested = nested_models(field.annotation)
        many = bool(nested) and _is_many(field.annotation)
        key = f"{prefix}{name}" + ("[]" if many else "")
        first_line = (nested[0].__doc__ or "").strip().partition("\n")[0] if nested else ""
        yield KeyFact(
            key=key,
            type=("tables" if many else "table") if nested else _type_words(field.annotation),
            unit=unit_of(name),
            default=_default_words(field, is_table=bool(nested)),
            bounds=" ".join(_bounds(field)),
            meaning=". ".join(t.rstrip(".") for t in (first_line, field.description or "") if t),
            is_table=bool(nested),
            example=_as_toml(field.examples[0]) if field.examples else None,
        )
        if nested:
            yield from describe_keys(nested[0], prefix=f"{key}.")


def _is_many(annotation: Any) -> bool:
    if get_origin(annotation) in (tuple, list):
        return True
    return any(_is_many(part) for part in get_args(annotation))


def _type_words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), [a for a in get_args(annotation) if a is not type(None)]
    if origin is Annotated:
        return _type_words(parts[0])
    if origin is Literal:
        return " | ".join(repr(p) for p in parts)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_words(p) for p in parts)
    if origin in (tuple, list):
        return f"list of {_type_words(parts[0])}"
    if origin is dict:
        return f"table of {_type_words(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(repr(m.value) for m in annotation)
    name = getattr(annotation, "__name__", str(annotation))
    return _WORDS.get(name, name)


def _default_words(field: FieldInfo, *, is_table: bool) -> str | None:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return None
    if default is None or (is_table and not default):
        return "left out"
    return "as told below" if is_table else _as_toml(default)


def _as_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(_as_toml(v) for v in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, PurePath):
        value = value.name if value.is_absolute() else str(value)
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(field: FieldInfo) -> Iterator[str]:
    for fact in field.metadata:
        for name, words in _BOUNDS:
            if (bound := getattr(fact, name, None)) is not None:
                yield words.format(f"{bound:g}" if isinstance(bound, float) else bound)
