"""How far the times of two sensors may be apart, and clocks that were set alike.

``Clock.error_bounds_ns`` says by how much the mapped times of one sensor may be early and late. For two sensors the
worst is that one is as late as it can be and the other as early as it can be::

    |e_a - e_b| <= max(late_a + early_b, late_b + early_a)

* Both one-way: with ``s`` the part that is known of each (fit, slewing, drift) and ``F`` the longest delay of the
  fastest packets, this is ``max(F_a, F_b) + s_a + s_b``, not ``F_a + F_b``: no packet arrives before it was sent, so
  that both are late and what they have in common cancels. Of two sensors on one radio it is not assumed how much that
  is: the host's stack delays both alike, but each has connection events of its own.
* Both two-way, half of what is open being ``h``: ``h_a + h_b`` and what is pending.
* Both stamped by clocks that were set alike and mapped by one map: whatever the map is off by cancels, and what is left
  is how well the devices agree.

The figure is a bound, not a standard deviation, and holds as far as its parts do: no delay floor exceeded, clocks
within 200 ppm. It is about clocks alone: what a device's own filters delay is in none of its time stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock, ClockMap
from kinedge.units import NS_PER_S

__all__ = ["ClockGroup", "GroupClock", "PairUncertainty", "alignment_of", "pair_uncertainty_ns"]

_SAME_CLOCK_NS: Final = NS_PER_S
_MAX_SLEW: Final = 500e-6


@dataclass(frozen=True)
class PairUncertainty:
    """How far the times of two sensors may be apart at most."""

    first: str
    second: str
    ms: float


def pair_uncertainty_ns(a: Clock, b: Clock) -> int:
    """Return how far the mapped times of two sensors may be apart at most; see the derivation above.

    Raises
    ------
    SignalError
        One of them has seen no arrival yet.
    """
    if isinstance(a, GroupClock) and isinstance(b, GroupClock) and a.shares_with(b):
        return a.agreement_ns
    (early_a, late_a), (early_b, late_b) = a.error_bounds_ns, b.error_bounds_ns
    return max(late_a + early_b, late_b + early_a)


def alignment_of(clocks: Mapping[str, Clock]) -> tuple[PairUncertainty, ...]:
    """Return the figure of every pair of sensors, the worst first; those that were never heard have none."""
    heard = {name: clock for name, clock in clocks.items() if clock.n_updates}
    pairs = [
        PairUncertainty(first, second, pair_uncertainty_ns(heard[first], heard[second]) / 1e6)
        for first, second in combinations(sorted(heard), 2)
    ]
    return tuple(sorted(pairs, key=lambda p: (-p.ms, p.first, p.second)))


class ClockGroup:
    """Devices whose clocks were set alike, as Movella DOTs are by their sync: one map serves them all.

    What the map does not know of the radio's delay shifts all of them alike, and the fastest packet of any bounds the
    delay of all.

    Parameters
    ----------
    agreement_ns
        How far apart the clocks of two members may be. The default is what Movella expects an hour after a sync
        ("Synchronization Explained": 1.8 ms after 30 minutes, 10 ms after 60).
    lifetime_ns
        For how long that holds; then each member slews to a map of its own.
    make_clock
        For the common map, and for the members' own.
    """

    def __init__(
        self,
        *,
        agreement_ns: int = 10_000_000,
        lifetime_ns: int = 3600 * NS_PER_S,
        make_clock: Callable[[], ClockMap] = ClockMap,
    ) -> None:
        if agreement_ns < 0 or lifetime_ns < 0:
            raise SignalError(f"agreement and lifetime must not be negative, got {agreement_ns} and {lifetime_ns} ns")
        self.agreement_ns = agreement_ns
        self.lifetime_ns = lifetime_ns
        self.common = make_clock()
        self._make_clock = make_clock

    def member(self) -> GroupClock:
        """Return the clock of another member."""
        return GroupClock(self, self._make_clock())


class GroupClock:
    """One member's view of a ``ClockGroup``.

    A member whose first packet is more than a second off the common map was not set with the others, and one that
    starts anew has lost the setting: both go by a map of their own.
    """

    def __init__(self, group: ClockGroup, own: ClockMap) -> None:
        self._group = group
        self._own = own
        self._start_ns = 0
        self._left_ns = 0
        self._lead_ns = 0  # of the common map over its own when it left
        self.belongs = group.lifetime_ns > 0

    @property
    def agreement_ns(self) -> int:
        """How far apart two members may be."""
        return self._group.agreement_ns

    @property
    def n_updates(self) -> int:
        """Arrivals taken in since the last reset."""
        return self._own.n_updates

    def shares_with(self, other: GroupClock) -> bool:
        """Whether both go by the same map."""
        return self._group is other._group and self.belongs and other.belongs

    @property
    def error_bounds_ns(self) -> tuple[int, int]:
        """By how much mapped times near the last update may be early, and late."""
        early, late = (self._group.common if self.belongs else self._own).error_bounds_ns
        more = self.agreement_ns if self.belongs else abs(self._lead_ns)
        return early + more, late + more

    @property
    def uncertainty_ns(self) -> int:
        """How far mapped times near the last update may be off."""
        return max(self.error_bounds_ns)

    @property
    def skew_ppm(self) -> float:
        """How much faster than the host clock the device clock runs."""
        return (self._group.common if self.belongs else self._own).skew_ppm

    def update(self, device_time_ns: int, host_time_ns: int) -> None:
        """Take in when what was measured at a device time arrived."""
        common, first = self._group.common, not self.n_updates
        self._own.update(device_time_ns, host_time_ns)
        if not self.belongs:
            return
        at = np.array([device_time_ns], np.int64)
        if first:
            self._start_ns = device_time_ns
            if common.n_updates and abs(host_time_ns - int(common.to_host_ns(at)[0])) > _SAME_CLOCK_NS:
                self.belongs = False
                return
        elif device_time_ns - self._start_ns > self._group.lifetime_ns:
            self.belongs = False
            self._left_ns = device_time_ns
            self._lead_ns = int((common.to_host_ns(at) - self._own.to_host_ns(at))[0])
            return
        common.update(device_time_ns, host_time_ns)

    def update_two_way(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> None:
        """Take in a two-way exchange."""
        self._own.update_two_way(t1_ns, t2_ns, t3_ns, t4_ns)
        if self.belongs:
            self._group.common.update_two_way(t1_ns, t2_ns, t3_ns, t4_ns)

    def to_host_ns(self, device_time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map device times (n,) to host times (n,)."""
        if self.belongs:
            return self._group.common.to_host_ns(device_time_ns)
        since = np.maximum(device_time_ns - self._left_ns, 0)
        left = np.maximum(abs(self._lead_ns) - np.rint(_MAX_SLEW * since), 0).astype(np.int64)
        host_time_ns: NDArray[np.int64] = self._own.to_host_ns(device_time_ns) + np.sign(self._lead_ns) * left
        return host_time_ns

    def reset(self) -> None:
        """Leave the group: the device started anew, and its clock with it."""
        self.belongs = False
        self._lead_ns = 0
        self._own.reset()
