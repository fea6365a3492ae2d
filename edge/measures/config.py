"""What is measured: which sensors, at which rates, and when a change may be told."""

from __future__ import annotations

from typing import Final, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config

__all__ = ["MeasuresConfig", "Side", "side_of"]

Side = Literal["left", "right"]

MEASURES_SCHEMA: Final = "kinedge.measures/1"


class MeasuresConfig(Config):
    """What is measured over hours and days; sensors are named by place and side."""

    arms: tuple[str, str] | None = Field(
        default=("wrist_left", "wrist_right"), description="both wrists; none: no arms"
    )
    legs: tuple[str, ...] = Field(default=(), max_length=2, description="ankle, shank or foot sensors, one a side")
    trunk: str | None = Field(default=None, description="a sensor on the trunk, for load and regularity")
    arm_rate_hz: int = Field(default=50, ge=25, le=400, description="of the arms' grid")
    leg_rate_hz: int = Field(default=100, ge=25, le=800, description="of the legs' grid; impacts need 200 or more")
    timezone: str = Field(default="", max_length=64, description="such as Europe/Paris; empty: this machine's")
    active_counts: float = Field(default=2.0, gt=0, le=1e4, description="counts of an active second")
    off_body_min: float = Field(default=30.0, ge=5, le=60, description="a sensor that lay still so long was not worn")
    forearm_axis: Literal["+x", "-x", "+y", "-y", "+z", "-z"] = Field(
        default="+x", description="axis of a wrist sensor that points to the hand"
    )
    learning_days: int = Field(default=10, ge=3, le=60, description="days before a change may be told")
    min_worn_h: float = Field(default=6.0, ge=0.5, le=24, description="a day with less wear says nothing about arms")

    @field_validator("arms", "legs")
    @classmethod
    def _sided(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        sides = [side_of(name) for name in names or ()]
        if len(set(sides)) != len(sides):
            raise ValueError("name one sensor of each side, such as wrist_left and wrist_right")
        return names

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return name if not name else ZoneInfo(name).key
        except (KeyError, ValueError, OSError) as e:
            raise ValueError(f"{name!r} is no time zone of this machine") from e

    def digest(self, kind: str) -> str:
        """Name what decides about a kind of change: its definition in this version, and these settings."""
        return sha256_hex(canonical_json({"schema": MEASURES_SCHEMA, "kind": kind, **self.model_dump(mode="json")}))

    def sensors(self) -> tuple[str, ...]:
        """Return the names of all sensors that are measured."""
        return (*(self.arms or ()), *self.legs, *((self.trunk,) if self.trunk and self.legs else ()))


def side_of(sensor: str) -> Side:
    """Return the side in a sensor's name.

    Raises
    ------
    ValueError
        It has none.
    """
    last = sensor.rpartition("_")[2]
    if last == "left":
        return "left"
    if last == "right":
        return "right"
    raise ValueError(f"{sensor!r} names no side; end it with _left or _right")
