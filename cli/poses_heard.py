"""Guided poses on the command line: at marked times of a recording, or led through live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from kinedge.edge.dashboard.pose_words import POSE_WORDS, WHY_WORDS
from kinedge.edge.pipeline import Scored
from kinedge.edge.pose import PoseFrames
from kinedge.edge.pose_guide import PoseGuide
from kinedge.edge.pose_marks import MarkedPoses, PoseMark
from kinedge.edge.service import EdgeService
from kinedge.errors import ConfigError
from kinedge.units import NS_PER_S

__all__ = ["PosesHeard"]

_TRIES = 3


@dataclass
class PosesHeard:
    """Listens to the hops of one person; ``frames`` says in the end what the poses showed."""

    service: EdgeService
    start_ns: int | None = None
    marked: MarkedPoses | None = None
    guide: PoseGuide | None = None
    _said: tuple[str, int] = ("", -1)
    _tries: int = 0
    _console: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def of(cls, service: EdgeService, marks: Sequence[PoseMark]) -> PosesHeard:
        """Listen for marks; ``guide`` may be set before anything is heard."""
        manifest = service.scorer.manifest
        marked = MarkedPoses(marks, manifest.sensor_specs, rate_hz=manifest.rate_hz) if marks else None
        return cls(service, marked=marked)

    def hear(self, scored: Scored) -> None:
        """Take one hop."""
        if self.marked is not None:
            manifest, end_ns = self.service.scorer.manifest, scored.batch.host_time_ns
            hop_s = manifest.hop / manifest.rate_hz
            if self.start_ns is None:  # a recording begins with its first hop
                self.start_ns = end_ns - round(hop_s * NS_PER_S)
            start_s = (end_ns - self.start_ns) / NS_PER_S - hop_s
            self.marked.add(scored.values, scored.valid, start_s=start_s)
        if self.guide is not None and not self.guide.done:
            self.guide.add(scored.values, scored.valid)
            self._lead(self.guide)

    def frames(self) -> PoseFrames | None:
        """Return what was held; None where no poses were asked for.

        Raises
        ------
        ConfigError
            A pose was not held where it was marked, or the guide was not followed to its end.
        """
        if self.marked is not None:
            return self.marked.frames()
        if self.guide is None:
            return None
        if not self.guide.done:
            step = self.guide.step
            raise ConfigError(f"the guided poses ended at {step.number + 1} of {step.of}; enrol again")
        return self.guide.frames()

    def _lead(self, guide: PoseGuide) -> None:
        step = guide.step
        if step.phase == "stuck":
            self._tries += 1
            names = self.service.scorer.sensors
            what = "; ".join(f"{n}: {WHY_WORDS[w]['en']}" for n, w in zip(names, step.why, strict=True) if w)
            self._console.print(f"[yellow]Not everything was still ({what or 'not for long enough'}).[/yellow]")
            if self._tries < _TRIES:
                guide.repeat()
            else:
                self._tries = 0
                guide.go_on()
            step = guide.step
        if (step.phase, step.number) == self._said:
            return
        self._said = (step.phase, step.number)
        if step.phase == "ready":
            text = f"Pose {step.number + 1} of {step.of}, in {step.left_s:.0f} s: {POSE_WORDS[step.pose]['en']}"
            self._console.print(text)
        elif step.phase == "hold":
            self._console.print("Hold still …")
        elif step.phase == "done":
            self._console.print("[green]The poses are done; now what they ordinarily do.[/green]")
