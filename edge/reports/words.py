"""The words of the reports in English and French, and how numbers, times and dates are written in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Final, Literal, get_args

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.narrative import Language, place_name, why_not
from kinedge.edge.promise import promise, setting
from kinedge.errors import ConfigError

__all__ = ["Words"]

_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    # the page
    "colon": (": ", "\u202f: "),
    "title": ("Week report", "Rapport de la semaine"),
    "week_of": ("Week {number} of {year}: {first} to {last}", "Semaine {number} de {year} : du {first} au {last}"),
    "person": ("Person (pseudonym)", "Personne (pseudonyme)"),
    "where": ("Site and gateway", "Site et passerelle"),
    "data_until": ("Data until", "Données jusqu'au"),
    "by_hand": ("Name, by hand", "Nom, à la main"),
    "seen_by": ("Seen by, on", "Vu par, le"),
    "time_zone": ("Times are local ({zone}).", "Heures locales ({zone})."),
    "this_machine": ("of the machine that made this", "de la machine qui a produit ce rapport"),
    "page": ("page", "page"),
    "of": ("of", "sur"),
    # at a glance
    "glance": ("At a glance", "En bref"),
    "glance_part": ("{part}: {said}.", "{part} : {said}."),
    "no_days": ("no day of this week can be compared", "aucun jour de cette semaine n'est comparable"),
    "n_days": ("{said} on {n} of 7 days", "{said} {n} jour(s) sur 7"),
    "not_enough_days": ("too little worn, or nothing kept, on {n} of 7", "trop peu porté, ou rien d'enregistré, {n} jour(s) sur 7"),
    "glance_none": ("Episodes: none was kept in this week.", "Épisodes : aucun n'a été enregistré cette semaine."),
    "glance_episodes": ("Episodes: {n} in this week, {different} different from their own baseline, {unsure} unsure.",
                        "Épisodes : {n} cette semaine, {different} différent(s) de l'habitude de la personne, {unsure} incertain(s)."),
    "glance_unsure": ("Unsure for {share} of the {time} that were answered{why}.",
                      "Incertain pendant {share} des {time} pour lesquelles une réponse a été donnée{why}."),
    "glance_cohort": ("No enrolment of their own: their movement was compared with that of the people the model was calibrated on.",
                      "Sans référence personnelle : le mouvement a été comparé à celui des personnes sur lesquelles le modèle a été calibré."),
    "glance_why": (", most often because {why}", ", le plus souvent parce que {why}"),
    "glance_unknown": ("How often the answer was unsure is not known for this week.",
                       "On ne sait pas combien de fois la réponse était incertaine cette semaine."),
    # measures
    "part_arm": ("Arm use", "Usage des bras"),
    "part_gait": ("Gait", "Marche"),
    "use_ratio": ("Use ratio", "Rapport d'utilisation"),
    "active_share": ("Active share of the time worn", "Part active du temps porté"),
    "contact_symmetry_index": ("Ground contact, right against left", "Contact au sol, droite par rapport à gauche"),
    "steps": ("Steps", "Pas"),
    "about_use_ratio": ("Hours in which {first} was active, divided by those of {second}: 1 when both do the same.",
                        "Heures d'activité {first} divisées par celles {second} : 1 quand les deux font autant."),
    "arm_left": ("the left arm", "du bras gauche"),
    "arm_right": ("the right arm", "du bras droit"),
    "arm_left_affected": ("the left, weaker arm", "du bras gauche, le plus faible,"),
    "arm_right_affected": ("the right, weaker arm", "du bras droit, le plus faible,"),
    "arm_one": ("one arm", "d'un bras"),
    "arm_other": ("the other", "de l'autre"),
    "about_active_share": ("Share of the time worn, without walking, in which the arms were active: how much is done at all.",
                           "Part du temps porté, hors marche, pendant laquelle les bras étaient actifs : combien est fait en tout."),
    "about_contact_symmetry_index": ("By how many percent the right foot's contact time is longer than the left foot's: 0 when both are alike.",
                                     "De combien de pour cent le contact du pied droit dure plus que celui du gauche : 0 quand ils se ressemblent."),
    "about_steps": ("Steps of both legs while the sensors were worn.", "Pas des deux jambes pendant que les capteurs étaient portés."),
    "day": ("Day", "Jour"),
    "worn": ("Worn", "Porté"),
    "not_heard": ("Not heard", "Non reçu"),
    "walking": ("Walking", "Marche"),
    "active_left": ("Left arm active", "Bras gauche actif"),
    "active_right": ("Right arm active", "Bras droit actif"),
    "interval": ("95 % interval", "intervalle à 95 %"),
    "own_range": ("usual for them", "habituel"),
    "compared": ("Against their own baseline", "Par rapport à leur habitude"),
    "nothing_kept": ("nothing was kept", "rien n'a été enregistré"),
    "learning": ("learning what is usual", "apprentissage de l'habitude"),
    "unsure": ("unsure", "incertain"),
    "too_little": ("unsure: too little worn", "incertain : trop peu porté"),
    "no_number": ("unsure: too little for a number", "incertain : trop peu pour un chiffre"),
    "as_usual": ("as usual", "comme d'habitude"),
    "so_far": ("as usual so far; short by {short} of {threshold}", "comme d'habitude jusqu'ici ; manque {short} sur {threshold}"),
    "one_arm_lower": ("one arm does less than its trend", "un bras fait moins que sa tendance"),
    "arms_less_even": ("arms less even than their trend", "bras moins égaux que leur tendance"),
    "both_arms_lower": ("both arms do less than their trend", "les deux bras font moins que leur tendance"),
    "contact_less_even": ("contact less even than its trend", "contact moins égal que sa tendance"),
    "impacts_less_even": ("impacts less even than their trend", "impacts moins égaux que leur tendance"),
    "under_way": ("the day is not over", "jour non terminé"),
    "measures_none": ("Nothing was measured in this week.", "Rien n'a été mesuré cette semaine."),
    "measures_elsewhere": ("Daily numbers of this week are not at this collector; make the report from the gateway's store to have them.",
                           "Les chiffres quotidiens de cette semaine ne sont pas chez ce collecteur ; faites le rapport depuis la base de la passerelle."),
    "legend_usual": ("as usual", "comme d'habitude"),
    "legend_lower": ("less than their own trend", "moins que sa tendance"),
    "legend_learning": ("learning, or not over", "apprentissage, ou jour non terminé"),
    "legend_plain": ("counted; no trend is kept of it", "compté ; sans suivi de tendance"),
    "legend_band": ("range usual for this person", "plage habituelle de la personne"),
    "legend_blank": ("No mark: too little worn, or nothing kept. That is not zero.", "Pas de marque : trop peu porté, ou rien d'enregistré. Ce n'est pas zéro."),
    "this_week": ("this week", "cette semaine"),
    "trend_note": ("The line through a mark is its 95 % interval. The range follows this person's own days before; recovery moves it along. One day below it is no change: shortfalls add up over days, and a change is told above {threshold} of the spreads by which this person's days usually differ.",
                   "Le trait d'une marque est son intervalle à 95 %. La plage suit les jours précédents de la personne ; une récupération la déplace. Un seul jour en dessous n'est pas un changement : les manques s'ajoutent de jour en jour, et un changement est dit au-delà de {threshold} écarts habituels entre les jours de la personne."),
    "alt_trend": ("{name}, by day over five weeks; the numbers of this week are in the table below.",
                  "{name}, par jour sur cinq semaines ; les chiffres de cette semaine sont dans le tableau ci-dessous."),
    # episodes
    "episodes": ("Episodes", "Épisodes"),
    "episodes_intro": ("Stretches in which movement was different from this person's own baseline, or in which that could not be told.",
                       "Moments où le mouvement différait de l'habitude de la personne, ou pour lesquels on ne peut le dire."),
    "episodes_none": ("None was kept in this week. That says nothing about time that was not worn, not heard or unsure.",
                      "Aucun n'a été enregistré cette semaine. Cela ne dit rien du temps non porté, non reçu ou incertain."),
    "when": ("When", "Quand"),
    "what": ("What was said", "Ce qui a été dit"),
    "starts_at": ("Surprise starts at", "La surprise commence à"),
    "looked_at": ("Looked at", "Examiné"),
    "different": ("different", "différent"),
    "since": ("since {day}", "depuis le {day}"),
    "no_sentence": ("Different from their own baseline.", "Différent de leur habitude."),
    "status_new": ("not yet", "pas encore"),
    "status_confirmed": ("confirmed", "confirmé"),
    "status_dismissed": ("dismissed: ordinary", "écarté : ordinaire"),
    "status_unknown": ("not known here", "non connu ici"),
    "more_episodes": ("{n} more episodes of this week are not listed; all of them are counted above.",
                      "{n} autres épisodes de la semaine ne sont pas listés ; tous sont comptés plus haut."),
    "starts_note": ("Where the surprise starts is where the signals first left what is usual, with its share; it is never a cause.",
                    "Là où la surprise commence est là où les signaux ont d'abord quitté l'habitude, avec sa part ; ce n'est jamais une cause."),
    # unsure
    "answers": ("How often the answer was “unsure”, and why", "Quand la réponse était « incertain », et pourquoi"),
    "answers_none": ("No answers were counted in this week: nothing was scored, or the store is of an earlier version.",
                     "Aucune réponse n'a été comptée cette semaine : rien n'a été évalué, ou la base est d'une version antérieure."),
    "answers_elsewhere": ("Answers are counted on the gateway and are not here; make the report from its store to have them.",
                          "Les réponses sont comptées sur la passerelle et ne sont pas ici ; faites le rapport depuis sa base pour les avoir."),
    "answers_recording": ("A recording was measured, not scored: there are no answers in it.",
                          "Un enregistrement a été mesuré, non évalué : il ne contient pas de réponses."),
    "answered": ("Answered", "Répondu"),
    "whole_week": ("Week", "Semaine"),
    "reason": ("Heaviest reason", "Raison principale"),
    "time": ("Time", "Durée"),
    "share": ("Share of what was answered", "Part du temps répondu"),
    "reasons_none": ("No answer of this week was unsure.", "Aucune réponse de la semaine n'était incertaine."),
    "alt_answers": ("Hour by hour of each day, the shares of as usual, unsure and different; the sums are in the table below.",
                    "Heure par heure, les parts de comme d'habitude, incertain et différent ; les sommes sont dans le tableau ci-dessous."),
    "answers_note": ("Each column is an hour, filled by the shares of its answers. Blank: no answer, because nothing was running or worn. “Unsure” is never counted as usual.",
                     "Chaque colonne est une heure, remplie selon ses réponses. Vide : pas de réponse, rien ne tournait ou n'était porté. « Incertain » n'est jamais compté comme habituel."),
    # fine print
    "rests_on": ("What this rests on", "Sur quoi repose ce rapport"),
    "promise": ("Promise about false episodes", "Promesse quant aux faux épisodes"),
    "promise_none": ("Nothing was promised about false episodes: this person is not enrolled here, or no alarm was set.",
                     "Rien n'a été promis quant aux faux épisodes : la personne n'a pas ici de référence personnelle, ou aucune alarme n'est réglée."),
    "promise_unknown": ("Not known: no answers and no episodes of this week are here.",
                        "Non connue : il n'y a ici ni réponses ni épisodes de cette semaine."),
    "compared_with": ("Compared with", "Comparé à"),
    "own_enrolment": ("their own enrolment", "leur propre référence"),
    "cohort": ("the people the model was calibrated on, not their own enrolment", "les personnes sur lesquelles le modèle a été calibré, non leur propre référence"),
    "model": ("Model", "Modèle"),
    "config": ("Settings", "Réglages"),
    "enrolment": ("Enrolment", "Référence personnelle"),
    "version": ("kinedge", "kinedge"),
    "definition": ("Definition of a slow change", "Définition d'un changement lent"),
    "unsigned": ("Not signed by anybody trusted: {what}.", "Signé par personne de confiance : {what}."),
    "unsigned_model": ("the model", "le modèle"),
    "unsigned_enrolment": ("the enrolment", "la référence personnelle"),
    "audit_broken": ("The audit trail of this store is broken: answers of people about episodes cannot be relied on and are left out.",
                     "Le journal de cette base est rompu : les avis des personnes sur les épisodes ne sont pas fiables et sont omis."),
    "is_not": ("What this is not", "Ce que ce rapport n'est pas"),
    "is_not_1": ("It says that movement differed from this person's own baseline, where that starts and how sure it is. It never says why, and it names no illness.",
                 "Il dit que le mouvement différait de l'habitude de la personne, où cela commence et avec quelle certitude. Il ne dit jamais pourquoi et ne nomme aucune maladie."),
    "is_not_2": ("A quiet week is no proof that nothing happened: time that was not worn, not heard or unsure is not time as usual.",
                 "Une semaine calme ne prouve pas qu'il ne s'est rien passé : le temps non porté, non reçu ou incertain n'est pas du temps habituel."),
    "is_not_3": ("Numbers are comparable with this person's own days, with sensors worn in the same places; not with those of other people or devices.",
                 "Les chiffres se comparent aux jours de la même personne, capteurs aux mêmes endroits ; pas à ceux d'autres personnes ou appareils."),
    "is_not_4": ("It is not a medical device and replaces no judgement of the people who know this person.",
                 "Ce n'est pas un dispositif médical et ne remplace pas le jugement de ceux qui connaissent la personne."),
}  # fmt: skip

_MONTHS: Final = {
    "en": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    "fr": [
        "janvier",
        "février",
        "mars",
        "avril",
        "mai",
        "juin",
        "juillet",
        "août",
        "septembre",
        "octobre",
        "novembre",
        "décembre",
    ],
}
_DAYS: Final = {
    "en": ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
    "fr": ["lun.", "mar.", "mer.", "jeu.", "ven.", "sam.", "dim."],
}
_NARROW: Final = "\u202f"
_FIXED: Final = "\u00a0"  # no line ends there

_PROMISE: Final = re.compile(
    r"while calibration is valid, at most one false episode per (?P<n>[\d.e+]+) (?P<unit>days|hours) is expected, "
    r"if ordinary movement behaves like that of the (?P<people>\d+) people the model was calibrated on; (?P<found>.+)"
)
_COMPARISON: Final = re.compile(r"(?P<kind>debounce|cusum) promises nothing about false episodes")
_AUDITS: Final[tuple[Literal["holds", "doubtful", "does not hold"], ...]] = ("holds", "doubtful", "does not hold")


class Words:
    """The words of one language.

    Parameters
    ----------
    language
        ``en`` or ``fr``.

    Raises
    ------
    ConfigError
        There are no words in it.
    """

    def __init__(self, language: str) -> None:
        if language not in get_args(Language):
            raise ConfigError(f"no words in {language!r}; there are {' and '.join(get_args(Language))}")
        self.language: Language = "fr" if language == "fr" else "en"
        self._i = get_args(Language).index(language)

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its values filled in."""
        text = _TEXTS[key][self._i].format(**values)
        return text if self.language == "en" else text.replace("« ", f"«{_NARROW}").replace(" »", f"{_NARROW}»")

    def number(self, value: float | None, *, digits: int = 2) -> str:
        """Write a number; a dash where there is none."""
        if value is None:
            return "–"
        text = f"{value:,.{digits}f}".replace(",", _NARROW)
        if not text.strip("-0."):
            text = text.lstrip("-")
        text = text.replace("-", "−")
        return text.replace(".", ",") if self.language == "fr" else text

    def percent(self, share: float | None, *, digits: int = 0) -> str:
        """Write a share as a percentage; a small one never rounds to nothing."""
        if share is None:
            return "–"
        least = 0.5 * 10**-digits
        if 0 < 100 * share <= least:
            return f"< {self.number(10**-digits, digits=digits)}{_FIXED}%"
        return f"{self.number(100 * share, digits=digits)}{_FIXED}%"

    def hours(self, seconds: float | None) -> str:
        """Write a time as hours and minutes; below a minute as seconds."""
        if seconds is None:
            return "–"
        if 0 < seconds < 59.5:
            return f"{seconds:.0f} s"
        minutes = round(seconds / 60)
        return f"{minutes // 60}:{minutes % 60:02d} h"

    def lasting(self, seconds: float) -> str:
        """Write how long something lasted."""
        if seconds < 90:
            return f"{seconds:.0f} s"
        if seconds < 3600:
            return f"{seconds / 60:.0f} min"
        return (
            self.hours(seconds)
            if seconds < 2 * 86_400
            else f"{seconds / 86_400:.0f} d".replace("d", ("d", "j")[self._i])
        )

    def weekday(self, day: date) -> str:
        """Write the day of the week, short."""
        return _DAYS[self.language][day.weekday()]

    def short_day(self, day: date) -> str:
        """Write a day without its year."""
        return f"{self.weekday(day)} {day.day} {_short(_MONTHS[self.language][day.month - 1], self.language)}"

    def tick(self, day: date) -> str:
        """Write a day below an axis."""
        return f"{day.day} {_short(_MONTHS[self.language][day.month - 1], self.language)}"

    def full_day(self, day: date) -> str:
        """Write a day with its year."""
        return f"{day.day} {_MONTHS[self.language][day.month - 1]} {day.year}"

    def moment(self, when: datetime) -> str:
        """Write a local moment."""
        return f"{self.short_day(when.date())}, {when:%H:%M}"

    def place(self, sensor: str) -> str:
        """Name a sensor's place."""
        return place_name(sensor, language=self.language)

    def why(self, code: str, sensor: str) -> str:
        """Say a reason for being unsure."""
        return why_not(code, sensor or None, language=self.language)

    def promised(self, text: str) -> str:
        """Say a promise that was kept in English; words that are not known stay as they were given."""
        said = text if self.language == "en" else _translated(text, self.language)
        if said is None:
            return f"« {text} »"
        return f"{said[:1].upper()}{said[1:]}."


def _translated(text: str, language: Language) -> str | None:
    """Say a promise anew in another language, from the numbers that it names; None where it is another version's."""
    if (found := _COMPARISON.match(text)) is not None:
        return setting(AlarmConfig.model_validate({"kind": found["kind"]}), language=language)
    candidates: list[tuple[AlarmConfig, Literal["holds", "doubtful", "does not hold"] | None, int]]
    if (found := _PROMISE.fullmatch(text)) is not None:
        try:
            hours = float(found["n"]) * (24 if found["unit"] == "days" else 1)
            alarm = AlarmConfig.model_validate({"hours_per_false_episode": hours})
        except ValueError:
            return None
        candidates = [(alarm, audit, int(found["people"])) for audit in _AUDITS]
    else:
        candidates = [(AlarmConfig(), None, 0)]
    for alarm, audit, n in candidates:
        if promise(alarm, audit=audit, n_subjects=n) == text:
            return promise(alarm, audit=audit, n_subjects=n, language=language)
    return None


def _short(month: str, language: str) -> str:
    if len(month) <= 4:
        return month
    if language == "en":
        return month[:3]
    return f"{month[:4] if month[:4] in ('juil', 'sept', 'janv', 'févr') else month[:3]}."
