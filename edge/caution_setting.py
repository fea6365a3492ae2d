"""The setting of caution: what a miss costs, and what is said while a sensor cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from kinedge.config import Config

__all__ = ["CautionConfig"]

_ALPHA: Final = 0.07
_UNSURE: Final = 0.57  # cost of an unsure answer, where a false call and a miss cost 1
# Evidence about people who are not enrolled is held against what they show anyway before it counts: then an unsure
# answer in place of "anomalous" costs so many times as much, and so many times as many blocks are rare.
_NEWCOMER: Final = 1.4
_NEWCOMER_ALPHA: Final = 2.14
# Rare is what few of the cohort show; who is calmer than they may change and still not be. What is believed so many
# times as surely as it needs to be counts all the same.
_SURE: Final = 1.5
_LEAST, _MOST = 0.05, 0.95
_OTHERS: Final = 0.2  # odds of a change, as a share of what "normal" takes, with which others may stand for a sensor


class CautionConfig(Config):
    """When an answer is given, and when not.

    One knob, ``miss_cost``, sets the other three; each may still be given by itself. With the cost ``k`` of a miss
    (in false calls) shared out evenly, a miss costs ``sqrt(k)`` and a false call ``1 / sqrt(k)``. An answer is given
    when, even at its least plausible, it is expected to cost less than saying "unsure" would.
    """

    miss_cost: float = Field(
        default=1.0, ge=0.1, le=10, description="what calling a change normal costs, in false calls of a change"
    )
    alpha: float = Field(
        default=_ALPHA, gt=0, lt=1, description="a block is rare when at most this share of the cohort's is as unusual"
    )
    min_belief_anomalous: float = Field(
        default=1 - _UNSURE, ge=0, le=1, description="below it nothing is called different; left out: of miss_cost"
    )
    min_belief_normal: float = Field(
        default=1 - _UNSURE, ge=0, le=1, description="below it nothing is called normal; left out: of miss_cost"
    )
    without_sensor: Literal["unsure", "others"] = Field(
        default="unsure",
        description="what is said while a sensor cannot be trusted: nothing is normal, or the others may be, by name",
    )
    min_belief_others: float = Field(
        default=1 - _UNSURE * _OTHERS,
        ge=0,
        le=1,
        description="below it the others are not called normal without a sensor; left out: of min_belief_normal",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_the_knob(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        cost = given.get("miss_cost", 1.0)
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0.1 <= cost <= 10:
            return given  # the defaults, or an error that names the field
        root = math.sqrt(cost)
        derived = {
            "alpha": min(_ALPHA * cost, _MOST),
            "min_belief_anomalous": min(max(1 - _UNSURE * root, _LEAST), _MOST),
            "min_belief_normal": min(max(1 - _UNSURE / root, _LEAST), _MOST),
        }
        usual = given.get("min_belief_normal", derived["min_belief_normal"])
        if not isinstance(usual, bool) and isinstance(usual, int | float) and 0 <= usual <= 1:
            derived["min_belief_others"] = 1 - _OTHERS * (1 - usual)
        return {**derived, **given}

    @model_validator(mode="after")
    def _others_need_more(self) -> CautionConfig:
        if self.min_belief_others < self.min_belief_normal:
            raise ValueError(
                f"min_belief_others ({self.min_belief_others:g}) is below min_belief_normal "
                f"({self.min_belief_normal:g}): fewer sensors need a surer belief, not a lesser one"
            )
        return self

    @property
    def min_belief_newcomer(self) -> float:
        """``min_belief_anomalous`` of people who are not enrolled, beyond what they show anyway."""
        given = self.min_belief_anomalous
        return min(given, max(1 - _NEWCOMER * (1 - given), _LEAST))

    @property
    def alpha_newcomer(self) -> float:
        """``alpha`` of people who are not enrolled."""
        return max(self.alpha, min(_NEWCOMER_ALPHA * self.alpha, _MOST))

    @property
    def sure_newcomer(self) -> float:
        """Belief beyond which a block of people who are not enrolled need not be rare."""
        return _SURE * self.min_belief_newcomer

    @property
    def meaning(self) -> str:
        """What the setting means, in words; shown wherever the setting is."""
        k = self.miss_cost
        weighs = (
            "a missed change weighs as much as a false call"
            if k == 1
            else f"a missed change weighs as much as {k:g} false calls"
            if k > 1
            else f"a false call weighs as much as {1 / k:g} missed changes"
        )
        return (
            f"{weighs}: normal is said from a belief of {self.min_belief_normal:.2f} on{self._of_others}, anomalous "
            f"from {self.min_belief_anomalous:.2f} on and if at most {self.alpha:.1%} of ordinary blocks are as "
            f"unusual (of people who are not enrolled {self.min_belief_newcomer:.2f} and {self.alpha_newcomer:.1%}, or "
            f"{min(self.sure_newcomer, 1):.2f}, beyond what they show anyway); everything else is unsure"
        )

    @property
    def _of_others(self) -> str:
        if self.without_sensor == "unsure":
            return " and while every sensor can be trusted"
        return f", without a sensor that cannot be trusted from {self.min_belief_others:.2f} on and by name"
