"""How an alarm stands, and what its setting promises, in words: shown wherever the setting is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kinedge.edge.alarm import LEARNING_S, MAX_UNLIKE, AlarmConfig
from kinedge.edge.narrative import place_name
from kinedge.envelope import Promised

__all__ = ["Promise", "Watched", "Way", "audited", "placing", "promise", "promises_of", "setting"]

Language = Literal["en", "fr"]
Way = Literal["walking", "poses"]
_AT_ENROLMENT: Final[Mapping[str, str]] = {
    "holds": "at enrolment it did",
    "doubtful": "at enrolment that was doubtful",
    "does not hold": "at enrolment it did not, so the person's own counts stand in: do not rely on this",
}
_USUAL: Final = 0.05  # of blocks lie above the 95 % quantile


@dataclass(frozen=True)
class Watched:
    """How one person's alarm stands.

    Parameters
    ----------
    alarm
        A change is called with this verdict.
    valid
        The promise holds now.
    evidence
        1 alarms.
    learned
        Share of the first ten minutes that has been heard.
    unlike
        Largest share of recent blocks above the enrolment's 95 % quantile; above 0.3 nothing is valid.
    leading
        The detector with the most evidence.
    promise
        What the setting promises, in words.
    shift
        By how much today lies above the enrolment, as far as it is followed: 1 is the way from the median to the 99 %
        quantile.
    unplaced
        Sensors that are heard and of which it is not known how they sit today, against the enrolment: put on since, and
        not aligned yet. Nothing is valid while there is one.
    ways
        By which that can be found out of this person.
    """

    alarm: bool
    valid: bool
    evidence: float
    learned: float
    unlike: float
    leading: str
    promise: str
    shift: float = 0.0
    unplaced: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()

    @property
    def valid_in_s(self) -> float:
        """How much ordinary movement it takes until the calibration is valid; 0 while it is."""
        if self.valid:
            return 0.0
        recover_s = 0.0
        if self.unlike > MAX_UNLIKE:
            recover_s = LEARNING_S * math.log2((self.unlike - _USUAL) / (MAX_UNLIKE - _USUAL))
        return max(LEARNING_S * (1 - self.learned), recover_s)

    @property
    def why_invalid(self) -> str:
        """Why nothing is promised now, and until when; empty while it is."""
        if self.valid:
            return ""
        if self.unplaced:
            return f"calibration not valid: {placing(self.unplaced, self.ways)}"
        minutes = max(1, math.ceil(self.valid_in_s / 60))
        when = f"valid after {minutes} more minute{'s' if minutes > 1 else ''} of ordinary movement"
        if self.learned < 1:
            return f"calibration not valid yet: {10 * self.learned:.0f} of the first 10 minutes heard; {when}"
        if self.valid_in_s == 0:
            return "calibration not valid: nothing was heard"
        return f"calibration not valid: recent movement is unlike that of the enrolment; {when}"


def placing(sensors: Sequence[str], ways: Sequence[Way], *, language: Language = "en") -> str:
    """Say of which sensors it is not known how they sit today, and what finds that out.

    Parameters
    ----------
    sensors
        Their places.
    ways
        What an enrolment has to go by.
    language
        Of the words.
    """
    i = 1 if language == "fr" else 0
    joined = (" and ", " et ")[i].join(place_name(s, language=language) for s in sensors)
    if not ways:
        return (
            f"it is not known how the sensors sit today ({joined}), and the enrolment has neither walking nor guided "
            "poses to go by: enrol again, with either",
            f"on ne sait pas comment les capteurs sont posés aujourd'hui ({joined}), et la référence n'a ni marche ni "
            "postures guidées pour le dire : refaire l'apprentissage, avec l'une ou l'autre",
        )[i]
    todo = {
        "walking": ("walk for a minute", "marcher une minute"),
        "poses": ("take the guided poses", "prendre les postures guidées"),
    }
    what = (" or ", " ou ")[i].join(todo[way][i] for way in ways)
    return (
        f"it is not known how the sensors sit today ({joined}): {what}; valid after 10 minutes of ordinary movement "
        "from then on",
        f"on ne sait pas comment les capteurs sont posés aujourd'hui ({joined}) : {what} ; valable après 10 minutes de "
        "mouvement ordinaire à partir de là",
    )[i]


def setting(config: AlarmConfig | None, *, language: Language = "en") -> str:
    """Say what a person set, without its condition: for whoever has no enrolment at hand."""
    if language == "fr":
        return _setting_fr(config)
    if config is None:
        return "no alarm is set: episodes open when anomalous verdicts repeat, and nothing is promised about false ones"
    if config.kind != "e_detector":
        return f"{config.kind} promises nothing about false episodes; it stands here for comparison"
    return (
        f"at most one false episode per {_often(config)} is expected of people who are enrolled, while calibration is "
        "valid and if ordinary movement behaves like that of the people the model was calibrated on"
    )


def audited(audit: Literal["holds", "doubtful", "does not hold"]) -> str:
    """Say what an enrolment found about the setting's condition: beside the setting, where the model is not at hand."""
    return f"whether ordinary movement behaves like that of those people: {_AT_ENROLMENT[audit]}"


def promise(
    config: AlarmConfig,
    *,
    audit: Literal["holds", "doubtful", "does not hold"] | None,
    n_subjects: int,
    language: Language = "en",
) -> str:
    """Say what the setting promises, and under which condition; shown wherever the setting is.

    Parameters
    ----------
    config
        The setting.
    audit
        What the enrolment found about the condition; None without an enrolment.
    n_subjects
        How many people the condition was counted on.
    language
        Of the sentence.
    """
    if config.kind != "e_detector":
        return setting(config, language=language)
    if language == "fr":
        return _promise_fr(config, audit=audit, n_subjects=n_subjects)
    if audit is None:
        return "nothing is promised about false episodes before an enrolment"
    condition = _AT_ENROLMENT[audit]
    return (
        f"while calibration is valid, at most one false episode per {_often(config)} is expected, if ordinary movement "
        f"behaves like that of the {n_subjects} people the model was calibrated on; {condition}"
    )


def _setting_fr(config: AlarmConfig | None) -> str:
    if config is None:
        return (
            "aucune alarme n'est réglée : un épisode s'ouvre quand des réponses « différent » se répètent, et rien "
            "n'est promis quant aux faux épisodes"
        )
    if config.kind != "e_detector":
        return f"{config.kind} ne promet rien quant aux faux épisodes ; ce réglage sert de comparaison"
    return (
        "pour les personnes qui ont leur propre référence, au plus un faux épisode est attendu par "
        f"{_often_fr(config)}, tant que le calibrage est valable et si les mouvements ordinaires se comportent comme "
        "ceux des personnes sur lesquelles le modèle a été calibré"
    )


def _promise_fr(
    config: AlarmConfig, *, audit: Literal["holds", "doubtful", "does not hold"] | None, n_subjects: int
) -> str:
    if audit is None:
        return "rien n'est promis quant aux faux épisodes avant l'apprentissage d'une référence personnelle"
    condition = {
        "holds": "lors de l'apprentissage, c'était le cas",
        "doubtful": "lors de l'apprentissage, c'était incertain",
        "does not hold": "lors de l'apprentissage, ce n'était pas le cas ; les comptes de la personne en tiennent "
        "lieu : ne pas s'y fier",
    }[audit]
    return (
        f"tant que le calibrage est valable, au plus un faux épisode est attendu par {_often_fr(config)}, si les "
        f"mouvements ordinaires se comportent comme ceux des {n_subjects} personnes sur lesquelles le modèle a été "
        f"calibré ; {condition}"
    )


def _often_fr(config: AlarmConfig) -> str:
    hours = config.hours_per_false_episode
    return f"{hours / 24:g} jours" if hours >= 48 else f"{hours:g} heures"


def _often(config: AlarmConfig) -> str:
    hours = config.hours_per_false_episode
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"


@dataclass(frozen=True)
class Promise:
    """What is promised one person about false episodes.

    Parameters
    ----------
    text
        In English.
    numbers
        What it says, for whoever says it in another language.
    """

    text: str
    numbers: Promised

    @property
    def fields(self) -> dict[str, Any]:
        """What an envelope says of it."""
        return {"promise": self.text, "promised": self.numbers.model_dump(mode="json")}


def promises_of(
    config: AlarmConfig | None, *, audits: Mapping[str, Literal["holds", "doubtful", "does not hold"]], n_subjects: int
) -> dict[str, Promise]:
    """Return what is promised each enrolled person, by subject; nothing where no alarm is set.

    Parameters
    ----------
    audits
        By subject: what their enrolment found about the condition.
    n_subjects
        How many people the condition was counted on.
    """
    if config is None:
        return {}
    kind, hours = config.kind, config.hours_per_false_episode
    return {
        subject: Promise(
            promise(config, audit=audit, n_subjects=n_subjects),
            Promised(kind=kind, hours_per_false_episode=hours, n_subjects=n_subjects, audit=audit),
        )
        for subject, audit in audits.items()
    }
