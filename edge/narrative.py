"""A sentence for a person, from a small fuzzy vocabulary, with the degree to which it is true; English and French.

What is said is "the left wrist turned much less than usual for most of the last 20 s": a sensor, a verb for what its
leading channel measures, an amount, and a share of time. Where most of what stands out is how a sensor moves beside the
others, that is said instead: "less than the other sensors let expect", or "out of step with the other sensors". Each
word has a membership function, the truth of the sentence is the smallest of its words', and of all sentences the truest
is said if it is true enough; otherwise only "differently from usual" is. It is where the surprise starts, never a
cause.

Source of the form: Yager, "A new approach to the summarization of data", Information Sciences 28 (1982).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from kinedge.edge.reasons import Reason
from kinedge.envelope import Amount
from kinedge.errors import SignalError

__all__ = [
    "AMOUNTS",
    "Language",
    "Phrase",
    "abstention",
    "place_name",
    "reason_words",
    "slow_change",
    "summarise",
    "usual_but",
    "usual_without",
    "why_not",
]

Language = Literal["en", "fr"]

AMOUNTS: Final[tuple[str, ...]] = get_args(Amount)
_OF_OTHERS: Final = ("less_than_others", "more_than_others", "out_of_step")  # of a sensor as a whole: it moves
_TRUE_ENOUGH: Final = 0.6
_SLACK: Final = 1e-6  # by which means of shares may be beyond
_SHARES: Final = ("almost_all", "most", "part")

_SIDES: Final = {"left": ("left", "gauche"), "right": ("right", "droit")}
# English, French, article, feminine
_PLACES: Final = {
    "wrist": ("wrist", "poignet", "le", False),
    "hand": ("hand", "main", "la", True),
    "forearm": ("forearm", "avant-bras", "l'", False),
    "upper_arm": ("upper arm", "bras", "le", False),
    "ankle": ("ankle", "cheville", "la", True),
    "foot": ("foot", "pied", "le", False),
    "shank": ("shank", "jambe", "la", True),
    "thigh": ("thigh", "cuisse", "la", True),
    "hip": ("hip", "hanche", "la", True),
    "knee": ("knee", "genou", "le", False),
    "shoulder": ("shoulder", "épaule", "l'", True),
    "lower_back": ("lower back", "bas du dos", "le", False),
    "trunk": ("trunk", "tronc", "le", False),
    "chest": ("chest", "poitrine", "la", True),
    "sternum": ("sternum", "sternum", "le", False),
    "pelvis": ("pelvis", "bassin", "le", False),
    "head": ("head", "tête", "la", True),
}
_VERBS: Final = {
    "acc": ("moved", "a bougé"),
    "gyr": ("turned", "a tourné"),
    "mag": ("changed its heading", "a changé de direction"),
}
_AXES: Final = {
    "acc": ("the acceleration along {axis}", "l'accélération selon {axis}"),
    "gyr": ("the turning about {axis}", "la rotation autour de {axis}"),
}
_AMOUNT_WORDS: Final = {
    "much_less": ("much less than usual", "beaucoup moins que d'habitude"),
    "less": ("less than usual", "moins que d'habitude"),
    "more": ("more than usual", "plus que d'habitude"),
    "much_more": ("much more than usual", "beaucoup plus que d'habitude"),
    "less_than_others": (
        "less than the other sensors let expect",
        "moins que les autres capteurs ne le laissent attendre",
    ),
    "more_than_others": (
        "more than the other sensors let expect",
        "plus que les autres capteurs ne le laissent attendre",
    ),
    "out_of_step": ("out of step with the other sensors", "en décalage avec les autres capteurs"),
    "differently": ("differently from usual", "autrement que d'habitude"),
}
_SHARE_WORDS: Final = {
    "almost_all": ("for almost all of the last {s} s", "pendant presque toutes les {s} dernières secondes"),
    "most": ("for most of the last {s} s", "pendant la plupart des {s} dernières secondes"),
    "part": ("for part of the last {s} s", "pendant une partie des {s} dernières secondes"),
}
_UNSURE: Final = {
    "warming_up": ("too little has been seen yet", "trop peu a été vu pour l'instant"),
    "not_valid": (
        "the calibration is not valid for how this person moves now",
        "le calibrage n'est pas valable pour la façon actuelle de bouger",
    ),
    "not_placed": (
        "it is not known how the sensors sit today: walk for a minute, or take the guided poses if the enrolment has "
        "them",
        "on ne sait pas comment les capteurs sont posés aujourd'hui : marcher une minute, ou prendre les postures "
        "guidées si la référence en a",
    ),
    "no_data": ("nothing is heard from {place}", "rien n'est reçu {from_place}"),
    "missing": ("part of the data from {place} is missing", "une partie des données {from_place} manque"),
    "saturated": ("{place} was at the end of its range", "le capteur {from_place} était en butée"),
    "flat": ("{place} shows a flat line", "le signal {from_place} est plat"),
    "stuck": ("{place} repeats what it has said before", "le capteur {from_place} répète ce qu'il a déjà dit"),
    "held": (
        "{axis} of {place} stands still while the rest moves: is the sensor damaged?",
        "{axis} du capteur {from_place} ne change plus alors que le reste bouge : le capteur est-il abîmé ?",
    ),
    "units": (
        "{place} reads what no body shows: is its unit or range another than was said?",
        "le capteur {from_place} indique ce qu'aucun corps ne montre : son unité ou sa plage est-elle une autre ?",
    ),
    "off_body": (
        "{place} lies still: is the sensor worn?",
        "le capteur {from_place} ne bouge pas du tout : est-il porté ?",
    ),
    "duplicate": (
        "{place} gives the same signal as another sensor",
        "le capteur {from_place} donne le même signal qu'un autre",
    ),
    "swapped": (
        "{place} reads like its other side: are left and right exchanged?",
        "le capteur {from_place} ressemble à celui de l'autre côté : gauche et droite sont-elles échangées ?",
    ),
    "shifted": (
        "{place} has been unlike before for minutes: did the sensor slip, or was it put on anew?",
        "le capteur {from_place} diffère depuis des minutes : a-t-il glissé, ou a-t-il été remis ?",
    ),
    "clock": (
        "the times of {place} may be too far from another sensor's",
        "les instants du capteur {from_place} sont peut-être trop décalés de ceux d'un autre",
    ),
    "newcomer": (
        "it is unusual, but no more than this person has been all along: enrol them to tell whether that is their way",
        "c'est inhabituel, mais pas plus que cette personne ne l'a été jusqu'ici : une référence personnelle dirait si "
        "c'est sa façon de bouger",
    ),
    "not_rare": (
        "it is unusual, but not rarer than ordinary movement now and then is",
        "c'est inhabituel, mais pas plus rare que des mouvements ordinaires",
    ),
    "quiet": (
        "it is calmer than anything the model was calibrated on, so whether it is as usual cannot be told",
        "c'est plus calme que tout ce sur quoi le modèle a été calibré : on ne peut dire si c'est habituel",
    ),
    "unlike": (
        "it is not unusual, but unlike this person's last minutes",
        "ce n'est pas inhabituel, mais différent des dernières minutes de cette personne",
    ),
    "between": ("it lies between usual and unusual", "c'est entre l'habituel et l'inhabituel"),
}
_CHANGES: Final = {
    "one_arm_lower": (
        "since {day}, {place} has done less beside the other arm than this person's own trend: use ratio {value}, "
        "expected {expected}",
        "depuis le {day}, {place} participe moins que l'autre bras, par rapport à la tendance de la personne : rapport "
        "d'utilisation {value}, attendu {expected}",
    ),
    "arms_less_even": (
        "since {day}, one arm has done less beside the other than in this person's own trend: {value} of it, expected "
        "{expected}",
        "depuis le {day}, un bras participe moins que l'autre, par rapport à la tendance de la personne : {value} de "
        "l'autre, attendu {expected}",
    ),
    "both_arms_lower": (
        "since {day}, both arms have done less than this person's own trend, as rest and illness bring too: active "
        "{value} of the time worn, expected {expected}",
        "depuis le {day}, les deux bras bougent moins que la tendance de la personne, ce que le repos et la maladie "
        "font aussi : actifs {value} du temps porté, attendu {expected}",
    ),
    "contact_less_even": (
        "since {day}, the ground contact times of left and right have been less alike than this person's own trend: "
        "{value} % apart, expected {expected} %",
        "depuis le {day}, les temps de contact au sol à gauche et à droite se ressemblent moins que la tendance de la "
        "personne : {value} % d'écart, attendu {expected} %",
    ),
    "impacts_less_even": (
        "since {day}, the impacts of left and right have been less alike than this person's own trend: {value} % "
        "apart, expected {expected} %",
        "depuis le {day}, les impacts à gauche et à droite se ressemblent moins que la tendance de la personne : "
        "{value} % d'écart, attendu {expected} %",
    ),
}


@dataclass(frozen=True)
class Phrase:
    """What is said, and the numbers behind it.

    Parameters
    ----------
    text
        The sentence, by language.
    truth
        From 0 to 1.
    sensor, quantity
        Where, and ``acc``, ``gyr`` or ``mag``.
    amount, share_word
        The words chosen, of ``AMOUNTS``, and ``almost_all``, ``most`` or ``part``.
    movement
        How much more (above 0) or less the sensor moved than is usual for the person, in steps of their usual range.
    share, seconds
        Of the blocks that were unusual, and how long was looked at.
    beside, out_of_step
        Which share of the sensor's score comes from how much it moved beside the others, below 0 where that was less
        than they let expect; and which from when.
    """

    text: Mapping[Language, str]
    truth: float
    sensor: str
    quantity: str
    amount: str
    share_word: str
    movement: float
    share: float
    seconds: float
    beside: float = 0.0
    out_of_step: float = 0.0


def _ramp(x: float, low: float, high: float) -> float:
    """Return 0 at and below ``low``, 1 at and above ``high``, a line between."""
    return min(1.0, max(0.0, (x - low) / (high - low)))


def _amounts(movement: float) -> dict[str, float]:
    return {
        "much_less": _ramp(-movement, 1.5, 2.5),
        "less": min(_ramp(-movement, 0.5, 1.0), 1 - _ramp(-movement, 2.0, 3.0)),
        "more": min(_ramp(movement, 0.5, 1.0), 1 - _ramp(movement, 2.0, 3.0)),
        "much_more": _ramp(movement, 1.5, 2.5),
    }


def _of_others(beside: float, out_of_step: float) -> dict[str, float]:
    return {
        "less_than_others": _ramp(-beside, 0.35, 0.6),
        "more_than_others": _ramp(beside, 0.35, 0.6),
        "out_of_step": _ramp(out_of_step, 0.35, 0.6),
    }


def _shares(share: float) -> dict[str, float]:
    return {
        "almost_all": _ramp(share, 0.8, 0.95),
        "most": min(_ramp(share, 0.4, 0.6), 1 - _ramp(share, 0.9, 1.0)),
        "part": min(_ramp(share, 0.0, 0.1), 1 - _ramp(share, 0.5, 0.7)),
    }


def summarise(
    sensor: str,
    channel: str,
    *,
    movement: float,
    share: float,
    seconds: float,
    beside: float = 0.0,
    out_of_step: float = 0.0,
) -> Phrase:
    """Say what was unusual, as precisely as is true enough.

    Parameters
    ----------
    sensor, channel
        Where the surprise starts, such as ``wrist_left`` and ``gyr_z``.
    movement
        How the sensor's movement compares with the person's usual one: 0 the median, 1 one step of their range more.
    share
        Of the blocks in the last ``seconds`` that were unusual, 0 to 1.
    seconds
        Looked at.
    beside, out_of_step
        Which share of the sensor's score comes from how much it moved beside the others, -1 to 1, and which from when.

    Raises
    ------
    SignalError
        A number is not finite, or the share is none.
    """
    if not (0 <= share <= 1 and abs(movement) < float("inf") and 0 <= seconds < float("inf")):
        raise SignalError(f"no sentence for movement {movement}, share {share} and {seconds} s")
    if not (abs(beside) < 1 + _SLACK and -_SLACK < out_of_step < 1 + _SLACK):
        raise SignalError(f"no sentence where {beside} and {out_of_step} of a score come from the other sensors")
    beside, out_of_step = max(-1.0, min(1.0, beside)), max(0.0, min(1.0, out_of_step))
    share_word, share_truth = max(_shares(share).items(), key=lambda kv: kv[1])
    amount, amount_truth = max(_of_others(beside, out_of_step).items(), key=lambda kv: kv[1])
    if amount_truth <= _TRUE_ENOUGH:
        amount, amount_truth = max(_amounts(movement).items(), key=lambda kv: kv[1])
    truth = min(share_truth, amount_truth)
    if truth <= _TRUE_ENOUGH:
        amount, truth = "differently", share_truth
    quantity = channel[:3]
    text: dict[Language, str] = {}
    for i, language in enumerate(_LANGUAGES):
        parts = (
            place_name(sensor, language=language),
            _VERBS.get("acc" if amount in _OF_OTHERS else quantity, _VERBS["acc"])[i],
            _AMOUNT_WORDS[amount][i],
            _SHARE_WORDS[share_word][i].format(s=f"{seconds:.0f}"),
        )
        text[language] = _sentence(" ".join(parts))
    return Phrase(text, truth, sensor, quantity, amount, share_word, movement, share, seconds, beside, out_of_step)


def abstention(reason: Reason, *, language: Language = "en") -> str:
    """Say why no answer is given: the reason with the most weight, in one sentence."""
    i = _LANGUAGES.index(language)
    return _sentence(("unsure: ", "incertain : ")[i] + _said(reason, language))


def reason_words(reason: Reason, *, language: Language = "en") -> str:
    """Say one reason by itself, whatever the answer was."""
    return _sentence(_said(reason, language))


def _said(reason: Reason, language: Language) -> str:
    if reason.code not in _UNSURE:
        return reason.text
    return why_not(reason.code, reason.sensor, channel=reason.channel, language=language)


def why_not(code: str, sensor: str | None, *, channel: str | None = None, language: Language = "en") -> str:
    """Say a reason against an answer, as part of a sentence; a code without words keeps its own name."""
    words = _UNSURE.get(code)
    if words is None:
        return code.replace("_", " ")
    place = place_name(sensor, language=language) if sensor else ""
    i = _LANGUAGES.index(language)
    quantity, _, along = (channel or "").partition("_")
    axis = _AXES.get(quantity, ("one axis", "un axe"))[i].format(axis=along)
    return words[i].format(place=place, from_place=_from(place), axis=axis)


def usual_without(sensors: Sequence[str], *, language: Language = "en") -> str:
    """Say that all is as usual, but for sensors that could not be asked."""
    usual, joined = (("as usual, without ", " and "), ("comme d'habitude, sans ", " et "))[_LANGUAGES.index(language)]
    return _sentence(usual + joined.join(place_name(sensor, language=language) for sensor in sensors))


def usual_but(reason: Reason, *, language: Language = "en") -> str:
    """Say that all is as usual, as far as what is left tells, and what stands against a sensor."""
    usual = ("as usual, but ", "comme d'habitude, mais ")[_LANGUAGES.index(language)]
    return _sentence(usual + _said(reason, language))


def slow_change(kind: str, *, sensor: str, day: str, value: float, expected: float) -> dict[Language, str]:
    """Say what changed over days, in each language.

    Parameters
    ----------
    kind
        Of ``kinedge.envelope.SlowChange``.
    sensor
        Of the arm that does less; empty where no side is meant.
    day
        Since when, as a date.
    value, expected
        In the unit of the kind: shares as such, symmetry in percent.

    Raises
    ------
    SignalError
        There are no words for this kind.
    """
    words = _CHANGES.get(kind)
    if words is None:
        raise SignalError(f"no sentence for a change of kind {kind!r}; known are {', '.join(_CHANGES)}")
    digits = 0 if kind.endswith("less_even") and not kind.startswith("arms") else 2
    text: dict[Language, str] = {}
    for i, language in enumerate(_LANGUAGES):
        numbers = [f"{x:.{digits}f}" for x in (value, expected)]
        if language == "fr":
            numbers = [x.replace(".", ",") for x in numbers]
        place = place_name(sensor, language=language) if sensor else ""
        text[language] = _sentence(words[i].format(day=day, place=place, value=numbers[0], expected=numbers[1]))
    return text


def place_name(sensor: str, *, language: Language = "en") -> str:
    """Return a sensor's place with its article: ``the left wrist``, ``le poignet gauche``.

    A place that is not in the vocabulary keeps its own name.
    """
    stem, _, last = sensor.rpartition("_")
    side = last if last in _SIDES else ""
    stem = stem if side else sensor
    known = _PLACES.get(stem)
    if language == "en":
        words = [w for w in (_SIDES[side][0] if side else "", known[0] if known else stem.replace("_", " ")) if w]
        return f"the {' '.join(words)}"
    if known is None:
        return f"« {sensor.replace('_', ' ')} »"
    _, french, article, feminine = known
    tail = "" if not side else f" {_SIDES[side][1]}{'e' if feminine and side == 'right' else ''}"
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{french}{tail}"


def _from(place: str) -> str:
    """Return French ``de`` with a place: ``du poignet gauche``, ``de la main droite``."""
    return f"du {place[3:]}" if place.startswith("le ") else f"de {place}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


_LANGUAGES: Final[tuple[Language, ...]] = ("en", "fr")
