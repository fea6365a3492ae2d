"""A verdict as others read it: a line of ``kinedge run --json``, a sample of an LSL stream."""

from __future__ import annotations

from typing import Any

from kinedge.edge.caution import Decision
from kinedge.edge.narrative import abstention, usual_without
from kinedge.edge.verdict import Basis, Verdict

__all__ = [
    "basis_fields",
    "of_others_fields",
    "verdict_as_json",
    "watched_fields",
    "why_unsure",
    "without_fields",
]


def basis_fields(basis: Basis) -> dict[str, Any]:
    """Return what an envelope says of a basis; nothing of what goes without saying."""
    fields: dict[str, Any] = {}
    if basis.enrolment_digest is not None:
        fields["enrolment_digest"] = basis.enrolment_digest
    if basis.unsigned:
        fields["unsigned"] = list(basis.unsigned)
    return fields


def why_unsure(verdict: Verdict) -> dict[str, Any]:
    """Return why no answer is given, in each language; nothing where one is."""
    if verdict.decision is not Decision.UNSURE or not verdict.reasons:
        return {}
    first = verdict.reasons[0]
    return {"why_unsure": {"en": abstention(first), "fr": abstention(first, language="fr")}}


def without_fields(verdict: Verdict) -> dict[str, Any]:
    """Return which sensors "normal" leaves out, also in words; nothing where it leaves out none."""
    if not verdict.without:
        return {}
    return {
        "without": list(verdict.without),
        "belief_others": round(verdict.belief_others, 4),
        "usual_without": {
            "en": usual_without(verdict.without),
            "fr": usual_without(verdict.without, language="fr"),
        },
    }


def of_others_fields(verdict: Verdict) -> dict[str, Any]:
    """Return which part of each sensor's score, or surprise, comes from the others; nothing where none does."""
    parts = {"sensor_beside": verdict.sensor_beside, "sensor_out_of_step": verdict.sensor_out_of_step}
    found: dict[str, Any] = {
        name: {k: round(v, 4) for k, v in part.items()} for name, part in parts.items() if any(part.values())
    }
    if verdict.sensor_passed_on:
        found["sensor_passed_on"] = {
            sensor: {other: round(v, 4) for other, v in to.items()} for sensor, to in verdict.sensor_passed_on.items()
        }
    return found


def watched_fields(verdict: Verdict) -> dict[str, Any]:
    """Return how the person's alarm stands; nothing where nobody watches."""
    w = verdict.watched
    if w is None:
        return {}
    return {
        "alarm": w.alarm,
        "calibration_valid": w.valid,
        "why_invalid": w.why_invalid,
        "valid_in_s": round(w.valid_in_s),
        "unplaced": list(w.unplaced),
        "evidence": round(w.evidence, 4),
        "learned": round(w.learned, 4),
        "unlike": round(w.unlike, 4),
        "shift": round(w.shift, 4),
        "promise": w.promise,
    }


def verdict_as_json(subject: str, verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain numbers and texts, rounded for reading."""
    return {
        "subject": subject,
        "host_time_ns": verdict.host_time_ns,
        "decision": verdict.decision.word,
        "score": round(verdict.score, 4),
        "p_value": round(verdict.p_value, 6),
        "belief_normal": round(verdict.belief_normal, 4),
        "belief_anomalous": round(verdict.belief_anomalous, 4),
        "plausible_normal": round(verdict.plausible_normal, 4),
        "plausible_anomalous": round(verdict.plausible_anomalous, 4),
        "reasons": [
            {
                "code": r.code,
                "text": r.text,
                "sensor": r.sensor,
                "weight": round(r.weight, 4),
                "truth": round(r.truth, 4),
                **({"channel": r.channel} if r.channel else {}),
            }
            for r in verdict.reasons
        ],
        **why_unsure(verdict),
        **without_fields(verdict),
        "sensor_share": {k: round(v, 4) for k, v in verdict.sensor_share.items()},
        **of_others_fields(verdict),
        "top_channel": verdict.top_channel,
        "calibration": verdict.basis.calibration,
        "alignment": verdict.basis.alignment,
        **basis_fields(verdict.basis),
        **watched_fields(verdict),
    }
