"""What a gateway tells the lab: samples on the host's clock and verdicts, as streams of LSL."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.config import LslConfig
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.firmware_bridge.device import DeviceInfo
from kinedge.firmware_bridge.lsl import SampleOutlet, VerdictOutlet
from kinedge.signals import ImuChunk

__all__ = ["LslStreams"]


class LslStreams:
    """A stream for every sensor, named ``SUBJECT SENSOR``, and one for each person's verdicts, ``SUBJECT verdicts``.

    Parameters
    ----------
    config
        What is told.
    gateway
        Part of each stream's source id.
    subjects
        Pseudonyms.

    Raises
    ------
    ConfigError
        pylsl or liblsl is missing.
    """

    def __init__(self, config: LslConfig, *, gateway: str, subjects: Iterable[str]) -> None:
        self._config = config
        self._gateway = gateway
        self._samples: dict[tuple[str, str], tuple[DeviceInfo, SampleOutlet]] = {}
        self._verdicts = {
            s: VerdictOutlet(f"{s} verdicts", source_id=self._source_id(s, "verdicts"))
            for s in (subjects if config.verdicts else ())
        }

    def _source_id(self, subject: str, what: str) -> str:
        return f"kinedge/{self._gateway}/{subject}/{what}"

    def meet(self, subject: str, info: DeviceInfo) -> None:
        """Open the stream of a sensor, anew where its channels or its rate changed."""
        if not self._config.samples:
            return
        sensor = info.spec.name
        known = self._samples.get((subject, sensor))
        if known is None or (known[0].spec, known[0].rate_hz) != (info.spec, info.rate_hz):
            outlet = SampleOutlet(
                info.spec, rate_hz=info.rate_hz, source_id=self._source_id(subject, sensor), name=f"{subject} {sensor}"
            )
            self._samples[subject, sensor] = info, outlet

    def tell_samples(self, subject: str, chunk: ImuChunk, host_time_ns: NDArray[np.int64]) -> None:
        """Send a chunk of a sensor that was met; ``host_time_ns`` is (n,)."""
        if (known := self._samples.get((subject, chunk.sensor))) is not None:
            known[1].push(chunk, host_time_ns)

    def tell_verdict(self, subject: str, verdict: Verdict) -> None:
        """Send a verdict, stamped with the end of the block it is about."""
        if (outlet := self._verdicts.get(subject)) is not None:
            outlet.push(verdict_as_json(subject, verdict), verdict.host_time_ns)
