"""The guided poses in words, in English and French: what to do, and why a sensor was not taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kinedge.edge.dashboard.words import Words, both
from kinedge.edge.pose import HOLD_S, Why

__all__ = ["POSE_NAMES", "POSE_WORDS", "WHY_WORDS"]

POSE_NAMES: Final[Mapping[str, Words]] = {
    "down": both("arms down", "bras le long du corps"),
    "table": both("forearms on the table", "avant-bras sur la table"),
}

POSE_WORDS: Final[Mapping[str, Words]] = {
    "down": both(
        "Sit upright. Let both arms hang straight down beside the chair, feet flat on the floor.",
        "Assis, le dos droit. Laissez pendre les deux bras le long de la chaise, les pieds à plat au sol.",
    ),
    "table": both(
        "Stay seated. Lay both forearms flat on the table, palms down, and stretch both legs forward on their heels.",
        "Restez assis. Posez les avant-bras sur la table, paumes vers le bas, jambes tendues sur les talons.",
    ),
}

WHY_WORDS: Final[Mapping[Why, Words]] = {
    "": both("still", "immobile"),
    "no_data": both("no data arrives", "aucune donnée reçue"),
    "moving": both("it moves", "il bouge"),
    "drifting": both("it turns slowly", "il tourne lentement"),
    "not_gravity": both(
        "it does not measure gravity: is it calibrated?", "il ne mesure pas la gravité : est-il étalonné ?"
    ),
    "same_direction": both(
        "it pointed the same way in both poses", "il était orienté de la même façon dans les deux postures"
    ),
    "other_pose": both("the poses are not those of the enrolment", "les postures ne sont pas celles de la référence"),
    "not_enrolled": both(
        f"the enrolment has no two poses of it, {HOLD_S:.0f} s still each",
        f"la référence ne contient pas deux postures de ce capteur, immobile {HOLD_S:.0f} s chacune",
    ),
    "uncertain": both("the poses were not alike enough", "les postures n'étaient pas assez semblables"),
}
