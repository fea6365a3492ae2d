"""What devices say, sorted: samples to the pipeline, the rest to what is known of each sensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from kinedge.edge.pipeline import Pipeline
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock
from kinedge.firmware_bridge.device import Battery, ClockExchange, DeviceInfo, Doubt
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.signals import ImuChunk

if TYPE_CHECKING:
    from kinedge.edge.lsl_streams import LslStreams
    from kinedge.edge.measures_keeper import MeasuresKeeper

__all__ = ["Listener", "SensorHealth"]


@dataclass
class SensorHealth:
    """What is known of one sensor, for the screen and the log."""

    subject: str
    sensor: str
    where: str
    connected: bool = True
    serial: str = ""
    battery_percent: int | None = None
    temperature_c: float | None = None
    packets: int = 0
    samples: int = 0
    lost: int = 0
    note: str = ""
    clock: Clock | None = None  # that maps its times

    @property
    def clock_uncertainty_ms(self) -> float | None:
        """How far its mapped times may be off now; None while there is nothing to tell it from."""
        clock = self.clock
        return clock.uncertainty_ns / 1e6 if clock is not None and clock.n_updates else None

    def as_dict(self) -> dict[str, Any]:
        """Return all but the clock itself, for JSON."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "clock"}
        return {**told, "clock_uncertainty_ms": self.clock_uncertainty_ms}


class Listener:
    """Takes the events of all devices of a gateway.

    Parameters
    ----------
    pipeline
        Where samples go.
    new_clock
        Makes the clock map of the device at a place.
    note
        Told what is worth knowing.
    lsl
        Told samples and devices, too.
    measures
        Told samples, too, of any sensor that it measures.

    Attributes
    ----------
    health
        By subject and sensor.
    n_used
        Samples so far that the model wanted.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        new_clock: Callable[[str], Clock],
        note: Callable[[str], None],
        lsl: LslStreams | None = None,
        measures: MeasuresKeeper | None = None,
    ) -> None:
        self._measures = measures
        self.health: dict[tuple[str, str], SensorHealth] = {}
        self.n_used = 0
        self._pipeline = pipeline
        self._new_clock = new_clock
        self._note = note
        self._lsl = lsl
        self._owner: dict[tuple[str, str], str] = {}
        self._channels: dict[tuple[str, str], tuple[str, ...]] = {}

    def hear(self, subject: str, where: str, event: SessionEvent) -> None:
        """Take what the device at a place says about a person."""
        if isinstance(event, ImuChunk):
            self._push(subject, where, event)
        elif isinstance(event, DeviceInfo):
            self._meet(subject, where, event)
        elif isinstance(event, LinkOpened):
            self._set_connected(where, True)
        elif isinstance(event, LinkClosed):
            self._set_connected(where, False)
            self._note(event.reason)
        elif isinstance(event, ClockExchange):
            clock = self._pipeline.clock(subject, event.sensor)
            if clock is not None and self._owner.get((subject, event.sensor)) == where:
                clock.update_two_way(event.t1_ns, event.t2_ns, event.t3_ns, event.t4_ns)
        elif isinstance(event, Battery):
            for health in self.health.values():
                if health.where == where:
                    health.battery_percent, health.temperature_c = event.percent, event.temperature_c
        elif isinstance(event, Doubt):
            self._note(f"{where}: {event.text}")

    def wears(self, subject: str, sensor: str) -> str | None:
        """Return where the device is whose samples are this person's; None for nowhere."""
        return self._owner.get((subject, sensor))

    def hand_over(self, sensor: str, *, giver: str, taker: str) -> None:
        """Let what is known of a sensor be of another person, from its next event on."""
        before, now = (giver, sensor), (taker, sensor)
        if before in self._owner:
            self._owner[now], self._channels[now] = self._owner.pop(before), self._channels.pop(before)
            self.health[now] = self.health.pop(before)
            self.health[now].subject = taker

    def take_off(self, subject: str, sensor: str) -> None:
        """Forget a sensor: nobody wears it any more."""
        key = (subject, sensor)
        self._owner.pop(key, None)
        self._channels.pop(key, None)
        self.health.pop(key, None)

    def _meet(self, subject: str, where: str, info: DeviceInfo) -> None:
        sensor = info.spec.name
        owner = self._owner.setdefault((subject, sensor), where)
        if owner != where:
            self._note(f"{where}: says it is {sensor} of {subject}, but {owner} is; it is not used")
            return
        self._channels[(subject, sensor)] = info.spec.channels
        if self._lsl is not None:
            self._lsl.meet(subject, info)
        known = self.health.get((subject, sensor))
        if known is None:
            self.health[(subject, sensor)] = SensorHealth(subject, sensor, where, serial=info.serial)
            if sensor in self._pipeline.scorer.sensors:
                self._pipeline.use_clock(subject, sensor, self._new_clock(where))
            elif self._measures is None or not self._measures.wants(sensor):
                wanted = ", ".join(self._pipeline.scorer.sensors)
                self._note(f"{where}: {sensor} is not used by the model, which expects {wanted}")
        else:
            known.serial, known.connected = info.serial, True

    def _push(self, subject: str, where: str, chunk: ImuChunk) -> None:
        key = (subject, chunk.sensor)
        if self._owner.get(key) != where:
            return
        health = self.health[key]
        health.packets += 1
        health.samples += len(chunk)
        health.lost += chunk.lost
        try:
            self._pipeline.push(subject, chunk, channels=self._channels[key])
        except SignalError as e:
            if health.note != str(e):
                health.note = str(e)
                self._note(str(e))
            return
        if chunk.sensor in self._pipeline.scorer.sensors:
            self.n_used += len(chunk)
        clock = self._pipeline.clock(subject, chunk.sensor)
        health.clock = clock  # what it knows is worked out when somebody looks, not with every chunk
        if clock is not None and self._lsl is not None:
            self._lsl.tell_samples(subject, chunk, clock.to_host_ns(chunk.device_time_ns))
        if self._measures is not None:
            self._measures.push(subject, chunk, channels=self._channels[key], clock=clock)

    def _set_connected(self, where: str, connected: bool) -> None:
        for health in self.health.values():
            if health.where == where:
                health.connected = connected
