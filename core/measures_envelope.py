"""A day of measures as it leaves the board: what one part of a person's body did, with wear time and their own trend.

The id is the SHA-256 over everything else in the row, so the same row has it after a crash or a re-send. A day under
way is sent again as it grows; of the rows of one day the one with the latest ``as_of_utc_ns`` counts. Both sides of the
wire share this module.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config, explain_validation_error
from kinedge.errors import OutboxError

__all__ = [
    "MAX_MEASURES_BYTES",
    "MEASURES_SCHEMA",
    "DayTrend",
    "Measure",
    "MeasuresEnvelope",
    "WatchedNumbers",
    "measures_envelope",
    "parse_measures",
]

MEASURES_SCHEMA: Final = "kinedge.measures/1"
MAX_MEASURES_BYTES: Final = 64 << 10

_HEX64 = r"^[0-9a-f]{64}$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"
_Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Seconds = Annotated[float, Field(ge=0, le=90_000)]  # a day has up to 25 hours


class Measure(Config):
    """A number of a day with its 95 % interval; None where the day does not carry it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = Field(default="", max_length=16)


class DayTrend(Config):
    """A watched number against the person's own trend."""

    state: Literal["learning", "unsure", "as_usual", "lower"]
    expected: float | None = Field(default=None, description="of the day, from the days before; None while learning")
    spread: float | None = Field(default=None, ge=0, description="by which this person's days usually differ")
    short: float = Field(ge=0, description="sum of the shortfalls after the day, in spreads")


class WatchedNumbers(Config):
    """What a day that is over says."""

    state: _Key
    trends: dict[_Key, DayTrend] = Field(max_length=8)


class _Unnamed(Config):
    """All of a row but its id."""

    schema_: Literal["kinedge.measures/1"] = Field(default=MEASURES_SCHEMA, alias="schema")
    site: str = Field(pattern=_NAME)
    gateway: str = Field(pattern=_NAME)
    subject: str = Field(pattern=_NAME, description="a pseudonym; never a name")
    part: Literal["arm", "gait"]
    day: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="local")
    as_of_utc_ns: int = Field(ge=0, lt=2**63, description="a later row of the same day takes its place")
    complete: bool = Field(description="the day is over")
    worn_s: _Seconds
    unworn_s: _Seconds
    missing_s: _Seconds = Field(description="not heard")
    walking_s: _Seconds = Field(description="of the time worn")
    measures: dict[_Key, Measure] = Field(max_length=64)
    watched: WatchedNumbers | None = Field(default=None, description="None while the day is under way")
    config_digest: str = Field(pattern=_HEX64)
    kinedge_version: str = Field(max_length=64)

    model_config = Config.model_config | {"populate_by_name": True}

    @field_validator("day")
    @classmethod
    def _exists(cls, day: str) -> str:
        date.fromisoformat(day)
        return day


class MeasuresEnvelope(_Unnamed):
    """One local day of one part of one person's body."""

    id: str = Field(pattern=_HEX64)

    @model_validator(mode="after")
    def _consistent(self) -> MeasuresEnvelope:
        if self.id != _id_of(self.model_dump(mode="json", by_alias=True)):
            raise ValueError("id does not follow from the content")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is stored, sent and digested."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def measures_envelope(**fields: Any) -> MeasuresEnvelope:
    """Make a row of its fields, and give it its id.

    Raises
    ------
    OutboxError
        The fields make no row.
    """
    try:
        content = _Unnamed.model_validate(fields).model_dump(mode="json", by_alias=True)
        return MeasuresEnvelope.model_validate(content | {"id": _id_of(content)})
    except ValidationError as e:
        raise OutboxError(explain_validation_error(e, MeasuresEnvelope, "measures")) from e


def parse_measures(data: bytes) -> MeasuresEnvelope:
    """Read a row from JSON bytes.

    Raises
    ------
    OutboxError
        The bytes are too many, no JSON, of another schema version, or inconsistent.
    """
    if len(data) > MAX_MEASURES_BYTES:
        raise OutboxError(f"measures of {len(data)} bytes; the limit is {MAX_MEASURES_BYTES}")
    try:
        return MeasuresEnvelope.model_validate_json(data)
    except ValidationError as e:
        raise OutboxError(explain_validation_error(e, MeasuresEnvelope, "measures")) from e


def _id_of(content: dict[str, Any]) -> str:
    return sha256_hex(canonical_json({k: v for k, v in content.items() if k != "id"}))
