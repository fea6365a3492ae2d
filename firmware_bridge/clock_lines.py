"""Straight lines that keep above some points and below others: what a clock's offset can have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinesBetween", "Point", "edge_below", "edges_below", "lines_between", "lower_hull"]

_GUESSES: Final = 8  # three or four are the rule

Point: TypeAlias = tuple[int, float]
F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class LinesBetween:
    """What lines between two sets of points have at x = 0.

    Parameters
    ----------
    slope
        Of the line that is farthest from both sets.
    low, high
        Least and greatest value of all such lines.
    """

    slope: float
    low: float
    high: float


def lower_hull(points: Sequence[Point]) -> list[Point]:
    """Return the corners of the lower convex hull of points in order of x."""
    hull: list[Point] = []
    for c in points:
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2], hull[-1]
            if (by - ay) * (c[0] - ax) < (c[1] - ay) * (bx - ax):
                break
            hull.pop()
        hull.append(c)
    return hull


def edge_below(x: I64, y: I64, at: int) -> tuple[int, int]:
    """Return the ends of the edge of the lower convex hull that passes just before ``at``, as indices.

    Of all straight pieces from a point before ``at`` to one that is not, the edge is the lowest there. Points are in
    order of x, and there are some on both sides.
    """
    n = int(x.searchsorted(at))
    # where a line through a point on either side has no point below it, it is the edge; a few guesses find it
    since, height = (x - at).astype(np.float64), y.astype(np.float64)
    slope, before = 0.0, (-1, -1)
    for _ in range(_GUESSES):
        above = height - slope * since
        ends = int(above[:n].argmin()), n + int(above[n:].argmin())
        if ends == before:
            return ends
        (i, k), before = ends, ends
        slope = (height[k] - height[i]) / (since[k] - since[i])
    # all pieces; just before ``at``, as a point at it would be the lowest end of many
    left, right = (since[:n] + 0.5)[:, None], since[n:] + 0.5
    lowest = (height[:n, None] * right - height[n:] * left) / (right - left)
    i, k = divmod(int(lowest.argmin()), len(right))
    return i, n + k


def edges_below(x: I64, y: I64, at: I64, used: NDArray[np.bool_]) -> tuple[I64, I64, NDArray[np.bool_]]:
    """Find what ``edge_below`` finds, of many rows at once.

    Parameters
    ----------
    x, y : (n, n_points) int64
        Of each row; what is not used is at its end.
    at : (n,) int64
        Of each row.
    used : (n, n_points) bool
        Which points there are.

    Returns
    -------
    left, right : (n,) int64
        Ends of the edges, as indices.
    known : (n,) bool
        False where a few guesses did not find it: ask ``edge_below``.
    """
    since, height = (x - at[:, None]).astype(np.float64), y.astype(np.float64)
    before = x < at[:, None]
    behind = ~before & used
    before &= used
    each, slope = np.arange(len(x)), np.zeros(len(x))
    left, right = np.full(len(x), -1), np.full(len(x), -1)
    known = np.zeros(len(x), bool)
    for _ in range(_GUESSES):
        above = height - slope[:, None] * since
        i = np.where(before, above, np.inf).argmin(axis=1)
        k = np.where(behind, above, np.inf).argmin(axis=1)
        known = (i == left) & (k == right)
        if known.all():
            break
        left, right = i, k
        slope = (height[each, k] - height[each, i]) / (since[each, k] - since[each, i])
    return left, right, known


def lines_between(below: Sequence[Point], above: Sequence[Point], *, max_slope: float) -> LinesBetween:
    """Find all lines that pass above the points ``below`` and below the points ``above``.

    The room that lines of one slope have is concave and piecewise linear in the slope, with corners at the slopes of
    the edges of both hulls; so are both ends of what they reach at x = 0. The extremes are therefore at such corners,
    or where the room closes.

    Parameters
    ----------
    below, above
        In order of x. The values of ``below`` are *negative*, so that both sets are bounded by lower hulls.
    max_slope
        Lines are not steeper.

    Returns
    -------
    LinesBetween
        Where the sets contradict each other, the line that does so least, and by how much.
    """
    lower, upper = lower_hull(below), lower_hull(above)
    edges = [-_slope(a, b) for a, b in pairwise(lower)] + [_slope(a, b) for a, b in pairwise(upper)]
    slopes = np.unique(np.clip([-max_slope, *edges, max_slope], -max_slope, max_slope))
    low, high = _reach(lower, upper, slopes)
    room = high - low
    best = int(room.argmax())
    if room[best] <= 0:
        return LinesBetween(float(slopes[best]), float(high[best]), float(low[best]))
    possible = np.flatnonzero(room >= 0)
    ends = [
        _where_room_closes(slopes, room, int(possible[0]), -1),
        _where_room_closes(slopes, room, int(possible[-1]), 1),
    ]
    low, high = _reach(lower, upper, np.concatenate([slopes[possible], ends]))
    return LinesBetween(float(slopes[best]), float(low.min()), float(high.max()))


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _reach(lower: list[Point], upper: list[Point], slopes: F64) -> tuple[F64, F64]:
    """Return the least and the greatest value at x = 0 of lines with these slopes (k,) that keep to both hulls."""
    (xb, yb), (xa, ya) = np.array(lower, np.float64).T, np.array(upper, np.float64).T
    low: F64 = (-yb - slopes[:, None] * xb).max(axis=1)
    high: F64 = (ya - slopes[:, None] * xa).min(axis=1)
    return low, high


def _where_room_closes(slopes: F64, room: F64, inside: int, step: int) -> float:
    """Return the slope between the outermost possible one and its neighbour at which no room is left."""
    outside = inside + step
    if not 0 <= outside < len(slopes):
        return float(slopes[inside])
    share = room[inside] / (room[inside] - room[outside])
    return float(slopes[inside] + share * (slopes[outside] - slopes[inside]))
