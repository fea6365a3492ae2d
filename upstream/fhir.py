"""An episode in the words of HL7 FHIR R4: Observations with SampledData, the Device, and a DetectedIssue.

Each resource is created only if its identifier is not there yet (``ifNoneExist``), so the same Bundle can be sent again
and again. What is said is "different from this person's own baseline": no diagnosis, no severity, no reference range.
An episode that was only ever unsure is an indeterminate Observation and no DetectedIssue. The patient is a logical
reference to the pseudonym; who that is stays with whoever runs the receiving system.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import numpy as np

from kinedge.arrays import arrays_from_npz
from kinedge.envelope import Envelope
from kinedge.errors import BundleError
from kinedge.upstream.summary import decision_of

__all__ = ["FHIR_MEDIA_TYPE", "to_bundle"]

FHIR_MEDIA_TYPE: Final = "application/fhir+json"
_RAW_MEDIA_TYPE: Final = "application/vnd.kinedge.raw+npz"
_MISSING: Final = -32768  # as the raw slice marks a sample that is not there
_SYSTEM: Final = "urn:kinedge"
_UNITS: Final = {"acc": "m/s2", "gyr": "rad/s", "mag": "uT"}  # UCUM
_QUANTITIES: Final = {"acc": "acceleration", "gyr": "angular rate", "mag": "magnetic flux density"}
_ISSUE_STATUS: Final = {"new": "preliminary", "confirmed": "final", "dismissed": "cancelled"}
_MAX_GRID: Final = 100_000


def to_bundle(envelope: Envelope, raw: bytes | None, *, status: str = "new") -> dict[str, Any]:
    """Make the transaction Bundle of an episode.

    Parameters
    ----------
    envelope
        The episode.
    raw
        Its raw slice, if it is here. One of another media type is left out.
    status
        What people said: ``new`` makes the issue preliminary, ``confirmed`` final, ``dismissed`` cancelled.
    """
    device = _entry(_device(envelope), "Device")
    about = {"subject": _patient(envelope), "device": {"reference": device["fullUrl"]}}
    observations = [_entry(_scores(envelope, about), "Observation")]
    observations += [_entry(o, "Observation") for o in _motion(envelope, raw, about)]
    entries = [device, *observations]
    if decision_of(envelope) == "anomalous":
        issue = _issue(envelope, device["fullUrl"], [o["fullUrl"] for o in observations], status)
        entries.append(_entry(issue, "DetectedIssue"))
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _entry(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """Wrap a resource: a name that follows from its content, and create it only if it is not there."""
    identifier = resource["identifier"][0]
    token = f"{identifier['system']}|{identifier['value']}"
    return {
        "fullUrl": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind}?{token}')}",
        "resource": resource,
        "request": {"method": "POST", "url": kind, "ifNoneExist": f"identifier={token}"},
    }


def _device(envelope: Envelope) -> dict[str, Any]:
    value = f"{envelope.site}/{envelope.gateway}"
    return {
        "resourceType": "Device",
        "identifier": [_identifier("gateway", value)],
        "status": "active",
        "deviceName": [{"name": f"kinedge gateway {envelope.gateway}", "type": "user-friendly-name"}],
        "type": {"text": "gateway for wearable motion sensors"},
        "version": [{"type": {"text": "software"}, "value": _text(envelope.kinedge_version, "unknown")}],
    }


def _scores(envelope: Envelope, about: dict[str, Any]) -> dict[str, Any]:
    """Make the Observation of the score over time; 0 is usual for the person, 1 as rare as one verdict in a hundred."""
    resource = _observation(envelope, "score", "difference from the person's own usual movement", about)
    unsure = decision_of(envelope) == "unsure"
    resource["interpretation"] = [
        {"coding": [_interpretation("IND", "Indeterminate")], "text": "unsure"}
        if unsure
        else {"text": "different from the person's own baseline"}
    ]
    resource["note"] = [{"text": _text(envelope.sentence, "no sentence")}]
    sampled = _sampled_scores(envelope)
    if sampled is None:
        resource["valueQuantity"] = _quantity(envelope.peak_score, "1")
    else:
        resource["valueSampledData"] = sampled
    resource["component"] = [
        {"code": _code("peak-score", "highest score"), "valueQuantity": _quantity(envelope.peak_score, "1")},
        {"code": _code("min-p-value", "lowest p-value"), "valueQuantity": _quantity(envelope.min_p_value, "1")},
        {"code": _code("unsure-share", "share of unsure verdicts"), "valueQuantity": _quantity(
            envelope.unsure_share, "1")},
        {"code": _code("model", "model"), "valueString": envelope.model_digest},
    ]  # fmt: skip
    return resource


def _sampled_scores(envelope: Envelope) -> dict[str, Any] | None:
    """Put the trail on a grid of its shortest step, E where it has no point; None when it has no such grid."""
    times = np.array([p.wall_time_utc_ns for p in envelope.trail], np.int64)
    if len(times) < 2 or (steps := np.diff(times)).min() <= 0:
        return None
    step = int(steps.min())
    at = np.rint((times - times[0]) / step).astype(np.int64)
    if at[-1] >= _MAX_GRID or np.abs(times - times[0] - at * step).max() > step / 4:
        return None
    words = ["E"] * (int(at[-1]) + 1)
    for i, point in zip(at, envelope.trail, strict=True):
        words[int(i)] = _decimal(point.score)
    return _sampled(words, unit="1", period_ms=step / 1e6, dimensions=1)


def _motion(envelope: Envelope, raw: bytes | None, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Make one Observation of each sensor's accelerations and rates: counts as sent, with the scale as factor."""
    if raw is None or envelope.raw is None or envelope.raw.media_type != _RAW_MEDIA_TYPE:
        return []
    try:
        arrays = arrays_from_npz(raw, where=f"raw slice of {envelope.id[:12]}")
        counts, scale = arrays["counts"], arrays["scale_si"]
        channels, rate_hz = [str(c) for c in arrays["channels"]], float(arrays["rate_hz"])
        if counts.ndim != 2 or counts.shape[1] != len(channels) or scale.shape != (len(channels),) or rate_hz <= 0:
            return []
    except (BundleError, KeyError, TypeError, ValueError):
        return []  # the envelope stands without it
    groups: dict[tuple[str, str], list[int]] = {}
    for column, channel in enumerate(channels):
        sensor, _, axis = channel.partition(".")
        groups.setdefault((sensor, axis.partition("_")[0]), []).append(column)
    start = envelope.raw.start_utc_ns
    end = start + round((len(counts) - 1) / rate_hz * 1e9)
    found = []
    for (sensor, quantity), columns in groups.items():
        if quantity not in _UNITS or len({float(s) for s in scale[columns]}) != 1:
            continue
        text = f"{_QUANTITIES[quantity]} at {sensor}: {', '.join(channels[c] for c in columns)}"
        resource = _observation(envelope, f"{sensor}.{quantity}", text, about, start=start, end=end)
        block = np.ascontiguousarray(counts[:, columns]).ravel()
        words = ["E" if c == _MISSING else str(c) for c in block.tolist()]
        resource["valueSampledData"] = _sampled(
            words,
            unit=_UNITS[quantity],
            period_ms=1000 / rate_hz,
            dimensions=len(columns),
            factor=float(scale[columns[0]]),
        )
        found.append(resource)
    return found


def _issue(envelope: Envelope, device: str, evidence: list[str], status: str) -> dict[str, Any]:
    return {
        "resourceType": "DetectedIssue",
        "identifier": [_identifier("issue", envelope.id)],
        "status": _ISSUE_STATUS[status],
        "code": _code("different-from-own-baseline", "movement different from the person's own baseline"),
        "patient": _patient(envelope),
        "identifiedPeriod": _period(envelope.start_utc_ns, envelope.end_utc_ns),
        "author": {"reference": device},
        "evidence": [{"detail": [{"reference": reference} for reference in evidence]}],
        "detail": _text(envelope.sentence, "no sentence"),
    }


def _observation(
    envelope: Envelope, part: str, text: str, about: dict[str, Any], *, start: int | None = None, end: int | None = None
) -> dict[str, Any]:
    start = envelope.start_utc_ns if start is None else start
    return {
        "resourceType": "Observation",
        "identifier": [_identifier("observation", f"{envelope.id}.{part}")],
        "status": "final",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "activity"}]}
        ],
        "code": _code(part.rpartition(".")[2], text),
        "effectivePeriod": _period(start, envelope.end_utc_ns if end is None else end),
        **about,
    }


def _sampled(
    words: list[str], *, unit: str, period_ms: float, dimensions: int, factor: float | None = None
) -> dict[str, Any]:
    sampled: dict[str, Any] = {
        "origin": _quantity(0, unit),
        "period": _number(period_ms),
        "dimensions": dimensions,
        "data": " ".join(words),
    }
    return sampled if factor is None else sampled | {"factor": _number(factor)}


def _patient(envelope: Envelope) -> dict[str, Any]:
    return {"type": "Patient", "identifier": _identifier("subject", f"{envelope.site}/{envelope.subject}")}


def _identifier(kind: str, value: str) -> dict[str, str]:
    return {"system": f"{_SYSTEM}:{kind}", "value": value}


def _code(code: str, text: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{_SYSTEM}:code", "code": code}], "text": text}


def _interpretation(code: str, display: str) -> dict[str, str]:
    system = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
    return {"system": system, "code": code, "display": display}


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": _number(value), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def _text(text: str, otherwise: str) -> str:
    """Return a string of FHIR: not empty, and no control characters but line ends and tabs."""
    cleaned = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text).strip()
    return cleaned or otherwise


def _number(value: float) -> float | int:
    """Return a number whose JSON is a decimal of FHIR."""
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.12g}")


def _decimal(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _period(start_utc_ns: int, end_utc_ns: int) -> dict[str, str]:
    return {"start": _instant(start_utc_ns), "end": _instant(end_utc_ns)}


def _instant(utc_ns: int) -> str:
    whole, rest = divmod(utc_ns // 1_000_000, 1000)
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=whole)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"
