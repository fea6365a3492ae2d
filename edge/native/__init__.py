"""Native arithmetic for the hot path of the edge: C that does what numpy does beside it, bit by bit, in less time.

It is optional. :func:`library` is None where it was not built, is of other sources, or is switched off by
``KINEDGE_NATIVE=0``; then numpy does the work, and every verdict is the same.
"""

from kinedge.edge.native.arrive import NativeArrivals
from kinedge.edge.native.belief import NativeBelief
from kinedge.edge.native.blocks import NativeBlocks
from kinedge.edge.native.clocks import clock_bounds
from kinedge.edge.native.health import NativeHealth
from kinedge.edge.native.hops import Slots, drop_before, interpolate, look_at, ready
from kinedge.edge.native.loader import ENVIRONMENT, implementation, library
from kinedge.edge.native.surprise import NativeStep
from kinedge.edge.native.take import NativeGrid
from kinedge.edge.native.timing import NativeTiming

__all__ = [
    "ENVIRONMENT",
    "NativeArrivals",
    "NativeBelief",
    "NativeBlocks",
    "NativeGrid",
    "NativeHealth",
    "NativeStep",
    "NativeTiming",
    "Slots",
    "clock_bounds",
    "drop_before",
    "implementation",
    "interpolate",
    "library",
    "look_at",
    "ready",
]
