"""One preset per kind of data, chosen from what is known of it beforehand, or on series that are never scored.

Choices
-------
* Spacecraft telemetry (MSL, SMAP): column 0 is the telemetry value, the others are commands, coded as 0 and 1 (Hundman
  et al. 2018). The memory looks at the value alone; the linear model uses all. Lengths and weights were chosen on
  004_MSL, 011_MSL and 164_SMAP, which are not in the evaluation list.
* Machines (SMD): every column is a metric of equal standing, so the memory compares instants of all of them. Its length
  and clips were chosen by synthetic anomalies put into the last 40 % of the training prefixes; no label was used.
* Freezing of gait (Daphnet): freezing comes back in the same form, so no memory may learn it. The freeze index of the
  literature takes its place, with its published bands and window; nothing was chosen on data.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from kinedge.training.detectors.bands import BandConfig, BandRatioDetector
from kinedge.training.detectors.fusion import Branch, FusedDetector
from kinedge.training.detectors.patches import PatchConfig, PatchDetector
from kinedge.training.detectors.var import VarConfig, VarDetector

__all__ = ["FIXED_LAG", "Domain", "linear_preset", "preset"]

FIXED_LAG: Final = 25


class Domain(Enum):
    """Kinds of data with a preset."""

    TELEMETRY = "telemetry"
    MACHINES = "machines"
    GAIT = "gait"


def linear_preset(*, lag: int) -> FusedDetector:
    """Return the linear model alone, the same for all domains: a trailing mean of 50 samples, nothing adapts."""
    return FusedDetector([Branch(VarDetector(VarConfig(forget=0)))], smoothing=50, lag=lag)


def preset(domain: Domain, *, lag: int) -> FusedDetector:
    """Return the fused detector of a domain, not yet fitted.

    Parameters
    ----------
    lag
        0, or up to 25 samples: with a lag the mean may be longer.
    """
    if domain is Domain.TELEMETRY:
        memory = PatchDetector(PatchConfig(length=32, columns=(0,)))
        branches = [Branch(VarDetector(), floor=1e-3), Branch(memory, weight=2.0, floor=0.05)]
        return FusedDetector(branches, smoothing=75 if lag else 50, lag=lag)
    if domain is Domain.MACHINES:
        memory = PatchDetector(PatchConfig(length=1, clip=10.0))
        branches = [Branch(VarDetector(VarConfig(clip=10.0)), floor=1e-3), Branch(memory, weight=2.0, floor=0.05)]
        return FusedDetector(branches, smoothing=50, lag=lag)
    index = BandRatioDetector(BandConfig(rate_hz=64.0, floor=100.0))  # mg: a tenth of gravity
    branches = [Branch(VarDetector(), floor=1e-3), Branch(index, weight=2.0, floor=0.05)]
    return FusedDetector(branches, smoothing=64 if lag else 32, lag=lag)
