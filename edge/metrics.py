"""What a gateway counts, in the words of Prometheus; read from the service at the moment it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from kinedge import __version__
from kinedge.edge.health import Readings
from kinedge.edge.progress import StageSummary

if TYPE_CHECKING:
    from kinedge.edge.service import EdgeService

__all__ = ["CONTENT_TYPE_LATEST", "render_metrics"]


def render_metrics(service: EdgeService, readings: Readings) -> bytes:
    """Return all metrics in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Snapshot([*_of_sensors(service), *_of_scoring(service), *_of_store(service, readings)]))
    return bytes(generate_latest(registry))


class _Snapshot(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_sensors(service: EdgeService) -> Iterator[Metric]:
    labels = ["subject", "sensor"]
    counters = {
        "packets": ("kinedge_packets", "Packets with samples heard"),
        "samples": ("kinedge_samples", "Samples heard"),
        "lost": ("kinedge_samples_lost", "Samples that never arrived"),
    }
    for field, (name, text) in counters.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for h in service.health.values():
            counter.add_metric([h.subject, h.sensor], getattr(h, field))
        yield counter
    connected = GaugeMetricFamily("kinedge_sensor_connected", "1 while the sensor's link is up", labels=labels)
    battery = GaugeMetricFamily("kinedge_sensor_battery_ratio", "Charge of the sensor's battery", labels=labels)
    clock = GaugeMetricFamily("kinedge_clock_uncertainty_seconds", "Bound of the sensor's clock map", labels=labels)
    for h in service.health.values():
        who = [h.subject, h.sensor]
        connected.add_metric(who, float(h.connected))
        if h.battery_percent is not None:
            battery.add_metric(who, h.battery_percent / 100)
        if h.clock_uncertainty_ms is not None:
            clock.add_metric(who, h.clock_uncertainty_ms / 1000)
    yield from (connected, battery, clock)
    late = CounterMetricFamily("kinedge_samples_late", "Samples that came too late to be scored", labels=["subject"])
    for subject in service.pipeline.subjects:
        late.add_metric([subject], service.pipeline.n_late(subject))
    yield late


def _of_scoring(service: EdgeService) -> Iterator[Metric]:
    info = GaugeMetricFamily("kinedge_build_info", "Always 1; the labels say what runs", labels=["version", "model"])
    info.add_metric([__version__, service.scorer.bundle.digest], 1)
    yield info
    verdicts = CounterMetricFamily("kinedge_verdicts", "Verdicts by decision", labels=["decision"])
    for decision, n in service.verdict_counts.items():
        verdicts.add_metric([decision], n)
    yield verdicts
    stages = SummaryMetricFamily(
        "kinedge_stage_seconds", "Duration of each stage; quantiles of the last 1024", labels=["stage"]
    )
    for stage, s in service.times.summary().items():
        _add_summary(stages, stage, s)
    yield stages
    yield GaugeMetricFamily(
        "kinedge_scoring_alive", "0 when scoring stands still", value=float(not service.progress.stuck())
    )
    restarts = CounterMetricFamily("kinedge_task_restarts", "Tasks that began anew", labels=["task"])
    running = GaugeMetricFamily("kinedge_task_running", "1 while the task runs", labels=["task"])
    for t in service.tasks:
        restarts.add_metric([t.name], t.restarts)
        running.add_metric([t.name], float(t.running))
    yield from (restarts, running)
    queues = GaugeMetricFamily("kinedge_queue_depth", "What waits to be written", labels=["queue"])
    queues.add_metric(["drafts"], service.keeper.n_waiting)
    if service.tape is not None:
        queues.add_metric(["tape"], service.tape.n_waiting)
    yield queues


def _add_summary(family: SummaryMetricFamily, stage: str, s: StageSummary) -> None:
    family.add_metric([stage], count_value=s.count, sum_value=s.sum_s)
    for quantile, value_s in (("0.5", s.p50_s), ("0.99", s.p99_s)):
        family.add_sample("kinedge_stage_seconds", {"stage": stage, "quantile": quantile}, value_s)


def _of_store(service: EdgeService, readings: Readings) -> Iterator[Metric]:
    counts = readings.counts
    if counts is not None:
        outbox = GaugeMetricFamily("kinedge_outbox_rows", "Messages by state", labels=["state"])
        for state in ("ready", "locked", "done", "quarantined"):
            outbox.add_metric([state], getattr(counts, state))
        yield outbox
        yield GaugeMetricFamily("kinedge_episodes", "Episodes on this disk", value=counts.episodes)
        yield GaugeMetricFamily("kinedge_episodes_open", "Episodes that last just now", value=counts.drafts)
        yield GaugeMetricFamily("kinedge_raw_blob_bytes", "Raw slices on this disk", value=counts.raw_bytes)
    for name, text, value in (
        ("kinedge_outbox_oldest_seconds", "Age of the oldest unsent episode", readings.oldest_unsent_s),
        ("kinedge_disk_free_bytes", "Free on the store's disk", readings.disk_free_bytes),
        ("kinedge_store_bytes", "Size of the store's files", readings.store_bytes),
        ("kinedge_board_temperature_celsius", "The hottest thermal zone", readings.temperature_c),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, text, value=value)
    if service.uplink is not None:
        for field in ("sent", "duplicates", "retries", "quarantined"):
            yield CounterMetricFamily(
                f"kinedge_uplink_{field}", f"Requests: {field}", value=getattr(service.uplink.counters, field)
            )
