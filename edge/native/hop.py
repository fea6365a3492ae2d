"""Typed functions of ``hop.c``: a hop of some streams, with few calls."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import DOUBLE, INT64, POINTER, structure

__all__ = ["BASES", "HOP", "hop_functions"]

BASES: Final = ("room", "values", "valid", "saturated", "rows", "work", "clock_ms", "raw")
"""Where places of ``HOP`` begin; a place tells the number of its base."""

HOP: Final = structure(
    "_Hop",
    (INT64, "n_streams hop n_channels n_horizons n_sensors n_places n_counts n_pairs n_shared"),
    (DOUBLE, "fine_below silent_from still_from"),
    (POINTER, " ".join(BASES)),
    (POINTER, "places counts pairs memory health step blocks timing forecaster y"),
    (POINTER, "facts given shared found copies z nats ok sums of_sensors"),
)
"""``kinedge_hop`` of ``hop.c``."""

_FUNCTIONS: Final[dict[str, list[Any]]] = {
    "kinedge_hop_look": [POINTER],
    "kinedge_hop_forecast": [POINTER, INT64, INT64],
    "kinedge_hop_sums": [POINTER, INT64, INT64],
    "kinedge_hop_add": [POINTER],
    "kinedge_standardise": [POINTER, INT64, INT64],
    "kinedge_finish": [POINTER, INT64, INT64],
    "kinedge_belief_assess": [POINTER],
    "kinedge_belief_trust": [POINTER],
    "kinedge_belief_gather": [POINTER],
    "kinedge_belief_decide": [POINTER],
    "kinedge_health_learn": [POINTER, POINTER],
}


@cache
def hop_functions() -> tuple[Any, ...] | None:
    """Return look, forecast, sums, add, standardise, finish, assess, trust, gather, decide and learn.

    None where there is no library.
    """
    return typed(_FUNCTIONS)
