"""One preset per kind of data, chosen from what is known of it beforehand, or on series that are never scored.

Choices
-------
* Spacecraft telemetry (MSL, SMAP): column 0 is the telemetry value, the others are commands, coded as 0 and 1 (Hundman
  et al. 2018). The memory looks at the value alone; the linear model uses all. Lengths and weights were chosen on
  004_MSL, 011_MSL and 164_SMAP, which are not in the evaluation list.
* Machines (SMD): every column is a metric of equal standing, so the memory compares instants of all of them. Lengths,
  clips and learning were chosen by synthetic anomalies put into the later part of the training prefixes, behind a short
  first part to fit on; no label was used.
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

__all__ = ["FIXED_LAG", "Domain", "linear_preset", "memory_preset", "network_preset", "preset"]

FIXED_LAG: Final = 25


class Domain(Enum):
    """Kinds of data with a preset."""

    TELEMETRY = "telemetry"
    MACHINES = "machines"
    GAIT = "gait"


_CLIP: Final = {Domain.TELEMETRY: 50.0, Domain.MACHINES: 10.0, Domain.GAIT: 50.0}
# Gait: no slowly following unit, since rest and walking take turns within seconds.
_FORGET: Final = {Domain.TELEMETRY: 1000.0, Domain.MACHINES: 3000.0, Domain.GAIT: 0.0}


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
    linear = VarDetector(VarConfig(clip=_CLIP[domain], forget=_FORGET[domain]))
    return _fused([Branch(linear), _memory(domain)], domain, lag)


def network_preset(domain: Domain, *, lag: int) -> FusedDetector:
    """Return the same with the network in place of the linear model; fitting it needs torch."""
    from kinedge.training.detectors.tcn import TcnConfig, TcnDetector

    network = TcnDetector(TcnConfig(clip=_CLIP[domain], forget=_FORGET[domain]))
    return _fused([Branch(network), _memory(domain)], domain, lag)


def memory_preset(domain: Domain, *, lag: int) -> FusedDetector:
    """Return the second branch alone: the memory, or for gait the freeze index."""
    return _fused([_memory(domain)], domain, lag)


def _memory(domain: Domain) -> Branch:
    if domain is Domain.GAIT:
        index = BandRatioDetector(BandConfig(rate_hz=64.0, floor=100.0))  # mg: a tenth of gravity
        return Branch(index, weight=2.0, floor=0.05)
    one_channel = PatchConfig(length=32, columns=(0,))
    config = one_channel if domain is Domain.TELEMETRY else PatchConfig(length=1, clip=10.0, delay=128)
    return Branch(PatchDetector(config), weight=2.0, floor=0.05)


def _fused(branches: list[Branch], domain: Domain, lag: int) -> FusedDetector:
    """Add the smoothing: about a second for gait, whose index has seen 2.5 s already."""
    lengths = {Domain.TELEMETRY: (50, 75), Domain.MACHINES: (50, 50), Domain.GAIT: (32, 64)}[domain]
    return FusedDetector(branches, smoothing=lengths[lag > 0], lag=lag)
