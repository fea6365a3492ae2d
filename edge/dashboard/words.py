"""What the dashboard says in words, in English and French: calibration, enrolment, outbox, reasons and promises."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.caution import Decision
from kinedge.edge.narrative import Language, abstention, place_name, reason_words, summarise, usual_but, usual_without
from kinedge.edge.promise import Watched, placing, promise
from kinedge.edge.reasons import Reason
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict

if TYPE_CHECKING:
    from kinedge.edge.enrolment import Enrolment
    from kinedge.edge.enrolment_audit import Audit

__all__ = [
    "Words",
    "audit_reasons",
    "audit_words",
    "both",
    "calibration_words",
    "collecting_words",
    "duration_words",
    "outbox_words",
    "place_words",
    "promise_words",
    "reasons_words",
    "sentence_words",
]

Words = dict[Language, str]
_LANGUAGES: Final[tuple[Language, ...]] = ("en", "fr")


def both(en: str, fr: str) -> Words:
    """Return one text in both languages."""
    return {"en": en, "fr": fr}


def place_words(sensor: str) -> Words:
    """Return a sensor's place without its article, as a label: ``left wrist``, ``poignet gauche``."""
    english = place_name(sensor).removeprefix("the ")
    french = place_name(sensor, language="fr")
    for article in ("le ", "la ", "l'"):
        french = french.removeprefix(article)
    return both(english, french.strip("« »"))


def reasons_words(reason: Reason) -> Words:
    """Say one reason, by itself."""
    return {language: reason_words(reason, language=language) for language in _LANGUAGES}


def sentence_words(verdict: Verdict, recent: Sequence[Verdict], *, hop_s: float) -> Words | None:
    """Say what a verdict means; None where all is as usual, and nothing needs saying but of an axis that stands still.

    Parameters
    ----------
    verdict
        The newest.
    recent
        The last ones, it among them, the oldest first.
    hop_s
        Between two of them.
    """
    if verdict.without:
        return {language: usual_without(verdict.without, language=language) for language in _LANGUAGES}
    if verdict.decision is Decision.NORMAL:
        held = next((r for r in verdict.reasons if r.code == "held"), None)
        return None if held is None else {language: usual_but(held, language=language) for language in _LANGUAGES}
    if verdict.decision is Decision.UNSURE:
        if not verdict.reasons:
            return None
        return {language: abstention(verdict.reasons[0], language=language) for language in _LANGUAGES}
    odd = [v for v in recent if v.decision is Decision.ANOMALOUS] or [verdict]
    sensor = verdict.top_sensor
    of_sensor = {c: v for c, v in verdict.channel_share.items() if c.startswith(f"{sensor}.")}
    parts = [v.from_others(sensor) for v in odd]
    channel = max(of_sensor or verdict.channel_share, key=lambda c: verdict.channel_share[c]).rpartition(".")[2]
    phrase = summarise(
        sensor,
        channel,
        movement=sum(v.sensor_movement.get(sensor, 0.0) for v in odd) / len(odd),
        share=len(odd) / max(len(recent), 1),
        seconds=max(len(recent), 1) * hop_s,
        beside=sum(p[0] for p in parts) / len(parts),
        out_of_step=sum(p[1] for p in parts) / len(parts),
    )
    return dict(phrase.text)


def calibration_words(watched: Watched | None, *, personal: bool, aligned: str) -> Words:
    """Say whether the calibration holds now, and until when it does not."""
    if not personal:
        return both(
            "compared with the cohort: not enrolled yet",
            "comparaison avec la cohorte : pas encore de référence personnelle",
        )
    if watched is None:
        return both("compared with their own enrolment", "comparaison avec sa propre référence")
    if watched.valid:
        note = (
            both(
                "; how one of the sensors sits today is not known, and it is not heard either",
                " ; on ne sait pas comment l'un des capteurs est posé aujourd'hui, et rien n'en est reçu",
            )
            if aligned in ("pending", "partly", "failed")
            else both("", "")
        )
        return both(f"calibration valid{note['en']}", f"calibrage valable{note['fr']}")
    if watched.unplaced:
        return both(
            f"calibration not valid: {placing(watched.unplaced, watched.ways)}",
            f"calibrage non valable : {placing(watched.unplaced, watched.ways, language='fr')}",
        )
    minutes = max(1, math.ceil(watched.valid_in_s / 60))
    when_en = f"valid after {minutes} more minute{'s' if minutes > 1 else ''} of ordinary movement"
    when_fr = f"valable après encore {minutes} minute{'s' if minutes > 1 else ''} de mouvement ordinaire"
    if watched.learned < 1:
        heard = f"{10 * watched.learned:.0f}"
        return both(
            f"calibration not valid yet: {heard} of the first 10 minutes heard; {when_en}",
            f"calibrage pas encore valable : {heard} des 10 premières minutes entendues ; {when_fr}",
        )
    if watched.valid_in_s == 0:
        return both("calibration not valid: nothing was heard", "calibrage non valable : rien n'a été reçu")
    return both(
        f"calibration not valid: recent movement is unlike that of the enrolment; {when_en}",
        f"calibrage non valable : les mouvements récents diffèrent de la référence ; {when_fr}",
    )


def collecting_words(usable_s: float, needed_s: float) -> Words:
    """Say how far an enrolment is."""
    now, all_ = math.floor(usable_s / 60), round(needed_s / 60)
    return both(
        f"learning your normal: {now} of {all_} minutes",
        f"apprentissage de vos mouvements habituels : {now} minutes sur {all_}",
    )


_FOUND: Final[Mapping[Literal["holds", "doubtful", "does not hold"], Words]] = {
    "holds": both(
        "the cohort's assumption holds for this person", "l'hypothèse de la cohorte est vérifiée pour cette personne"
    ),
    "doubtful": both(
        "the cohort's assumption is doubtful for this person",
        "l'hypothèse de la cohorte est incertaine pour cette personne",
    ),
    "does not hold": both(
        "the cohort's assumption does not hold for this person",
        "l'hypothèse de la cohorte n'est pas vérifiée pour cette personne",
    ),
}


def audit_words(audit: Audit) -> Words:
    """Say what an enrolment's audit found."""
    return dict(_FOUND[audit.verdict])


def audit_reasons(audit: Audit) -> list[Words]:
    """Say what speaks against the cohort's assumption; empty where it holds."""
    said = zip(*(audit.reasons_in(language) for language in _LANGUAGES), strict=True)
    return [dict(zip(_LANGUAGES, reason, strict=True)) for reason in said]


def outbox_words(waiting: int, last_sync_utc_ns: int | None, *, has_uplink: bool) -> Words:
    """Say how many episodes wait, and when the collector was last reached, by the board's local time."""
    plural = "" if waiting == 1 else "s"
    en = f"{waiting} episode{plural} waiting" if waiting else "nothing waiting"
    fr = f"{waiting} épisode{plural} en attente" if waiting else "rien en attente"
    if not has_uplink:
        return both(f"{en}, no collector is set", f"{fr}, aucun collecteur configuré")
    if last_sync_utc_ns is None:
        return both(f"{en}, never synced", f"{fr}, jamais synchronisé")
    then = time.localtime(last_sync_utc_ns / 1e9)
    clock = time.strftime("%H:%M" if then[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M", then)
    return both(f"{en}, last sync {clock}", f"{fr}, dernière synchronisation {clock}")


def duration_words(seconds: float) -> Words:
    """Say a duration in whole minutes."""
    minutes = max(1, round(seconds / 60))
    plural = "s" if minutes > 1 else ""
    return both(f"{minutes} minute{plural}", f"{minutes} minute{plural}")


def promise_words(enrolment: Enrolment | None, alarm: AlarmConfig | None, scorer: Scorer) -> Words | None:
    """Say what is promised a person about false episodes, and on which condition; None where no alarm is set."""
    cohort = scorer.calibration.enrolled
    if alarm is None or cohort is None:
        return None
    audit = None if enrolment is None else enrolment.manifest.audit.verdict
    n = int(cohort.n_subjects[0])
    return {language: promise(alarm, audit=audit, n_subjects=n, language=language) for language in _LANGUAGES}
