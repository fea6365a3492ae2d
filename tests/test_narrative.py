"""Sentences: true to their numbers, in two languages, and never surer than the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinedge.edge.attribution import smallest_set
from kinedge.edge.narrative import AMOUNTS, abstention, place_name, summarise
from kinedge.edge.reasons import Reason
from kinedge.errors import SignalError


@pytest.mark.parametrize(("movement", "share", "english", "french"), [
    (-3.0, 0.75, "The right wrist turned much less than usual for most of the last 20 s.",
     "Le poignet droit a tourné beaucoup moins que d'habitude pendant la plupart des 20 dernières secondes."),
    (1.3, 1.0, "The right wrist turned more than usual for almost all of the last 20 s.",
     "Le poignet droit a tourné plus que d'habitude pendant presque toutes les 20 dernières secondes."),
    (0.1, 0.3, "The right wrist turned differently from usual for part of the last 20 s.",
     "Le poignet droit a tourné autrement que d'habitude pendant une partie des 20 dernières secondes."),
])  # fmt: skip
def test_the_sentence_says_where_how_much_and_how_long(movement, share, english, french):
    phrase = summarise("wrist_right", "gyr_z", movement=movement, share=share, seconds=20)
    assert phrase.text == {"en": english, "fr": french}
    assert phrase.truth > 0.6


@pytest.mark.parametrize(("beside", "out_of_step", "english", "french"), [
    (-0.8, 0.0, "The left ankle moved less than the other sensors let expect for almost all of the last 9 s.",
     "La cheville gauche a bougé moins que les autres capteurs ne le laissent attendre pendant presque toutes les 9 "
     "dernières secondes."),
    (0.7, 0.1, "The left ankle moved more than the other sensors let expect for almost all of the last 9 s.",
     "La cheville gauche a bougé plus que les autres capteurs ne le laissent attendre pendant presque toutes les 9 "
     "dernières secondes."),
    (-0.2, 0.75, "The left ankle moved out of step with the other sensors for almost all of the last 9 s.",
     "La cheville gauche a bougé en décalage avec les autres capteurs pendant presque toutes les 9 dernières "
     "secondes."),
    (-0.3, 0.3, "The left ankle turned much more than usual for almost all of the last 9 s.",
     "La cheville gauche a tourné beaucoup plus que d'habitude pendant presque toutes les 9 dernières secondes."),
])  # fmt: skip
def test_where_the_other_sensors_give_it_away_that_is_said(beside, out_of_step, english, french):
    phrase = summarise("ankle_left", "gyr_z", movement=3.0, share=1, seconds=9, beside=beside, out_of_step=out_of_step)
    assert phrase.text == {"en": english, "fr": french}
    assert (phrase.beside, phrase.out_of_step) == (beside, out_of_step)


@pytest.mark.parametrize(
    "wrong", [{"beside": -1.1}, {"out_of_step": 1.1}, {"out_of_step": -0.1}, {"beside": float("nan")}]
)
def test_shares_that_are_none_have_no_sentence(wrong):
    with pytest.raises(SignalError, match="come from the other sensors"):
        summarise("ankle_left", "gyr_z", movement=3.0, share=1, seconds=9, **wrong)


def test_acceleration_and_heading_have_their_own_verbs():
    said = [summarise("ankle_left", c, movement=3, share=1, seconds=9).text["en"] for c in ("acc_x", "mag_y")]
    assert said == [
        "The left ankle moved much more than usual for almost all of the last 9 s.",
        "The left ankle changed its heading much more than usual for almost all of the last 9 s.",
    ]


@given(st.floats(-50, 50), st.floats(0, 1))
def test_an_amount_is_said_only_when_it_is_true_enough(movement, share):
    phrase = summarise("wrist_left", "acc_x", movement=movement, share=share, seconds=10)
    assert phrase.amount in AMOUNTS and 0 <= phrase.truth <= 1
    if phrase.amount != "differently":
        assert phrase.truth > 0.6
        assert ("less" in phrase.amount) == (movement < 0)
    if phrase.amount.startswith("much"):
        assert abs(movement) > 2
    assert (phrase.movement, phrase.share) == (movement, share)


def test_more_movement_never_reads_as_less():
    order = ["much_less", "less", "differently", "more", "much_more"]
    said = [summarise("hip_left", "acc_x", movement=m / 10, share=1, seconds=5).amount for m in range(-40, 41)]
    ranks = [order.index(a) for a in said]
    assert ranks == sorted(ranks) and set(said) == set(order)


@pytest.mark.parametrize(("sensor", "english", "french"), [
    ("hand_right", "the right hand", "la main droite"),
    ("shoulder_left", "the left shoulder", "l'épaule gauche"),
    ("lower_back", "the lower back", "le bas du dos"),
    ("upper_arm_right", "the right upper arm", "le bras droit"),
    ("left_racket", "the left racket", "« left racket »"),
])  # fmt: skip
def test_places_have_their_article_and_gender(sensor, english, french):
    assert (place_name(sensor), place_name(sensor, language="fr")) == (english, french)


@pytest.mark.parametrize(("code", "sensor", "english", "french"), [
    ("no_data", "wrist_left", "Unsure: nothing is heard from the left wrist.",
     "Incertain : rien n'est reçu du poignet gauche."),
    ("flat", "hand_right", "Unsure: the right hand shows a flat line.",
     "Incertain : le signal de la main droite est plat."),
    ("warming_up", None, "Unsure: too little has been seen yet.",
     "Incertain : trop peu a été vu pour l'instant."),
])  # fmt: skip
def test_an_abstention_is_explained_in_the_same_way(code, sensor, english, french):
    reason = Reason(code, "as a text", 1.0, sensor)
    assert (abstention(reason), abstention(reason, language="fr")) == (english, french)


def test_a_reason_nobody_translated_is_still_told():
    assert abstention(Reason("novel", "something new", 1.0)) == "Unsure: something new."


@pytest.mark.parametrize("bad", [
    {"movement": float("nan"), "share": 1, "seconds": 1}, {"movement": 0, "share": 1.5, "seconds": 1},
    {"movement": 0, "share": 1, "seconds": float("inf")},
])  # fmt: skip
def test_numbers_that_are_none_make_no_sentence(bad):
    with pytest.raises(SignalError, match="no sentence"):
        summarise("wrist_left", "acc_x", **bad)


def test_the_smallest_set_names_the_channels_that_were_disturbed():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(8, 8))
    covariance = mix @ mix.T + 0.5 * np.eye(8)
    precision = np.linalg.inv(covariance)
    z = rng.multivariate_normal(np.zeros(8), covariance, size=50)
    ok = np.ones(z.shape, bool)
    disturbed = z.copy()
    disturbed[:, [2, 5]] += 25.0 * rng.normal(size=(50, 2))
    assert set(smallest_set(disturbed, ok, precision)) == {2, 5}
    again = {smallest_set(disturbed * (1 + 0.01 * rng.normal(size=z.shape)), ok, precision) for _ in range(20)}
    assert len(again) == 1  # a per cent of noise changes nothing
    ok[:, 2] = False
    assert 2 not in smallest_set(disturbed, ok, precision)
    assert smallest_set(z, np.zeros(z.shape, bool), precision) == ()


def test_the_drop_of_a_set_is_the_fall_when_it_is_replaced_by_its_expectation():
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(5, 5))
    precision = np.linalg.inv(mix @ mix.T + np.eye(5))
    z = rng.normal(size=5) * [1, 9, 1, 9, 1]
    chosen = list(smallest_set(z[None], np.ones((1, 5), bool), precision, share=0.5))
    rest = [c for c in range(5) if c not in chosen]
    expected = z.copy()
    expected[chosen] = -np.linalg.solve(precision[np.ix_(chosen, chosen)], precision[np.ix_(chosen, rest)] @ z[rest])
    whole, left = z @ precision @ z, expected @ precision @ expected
    assert whole - left >= 0.5 * whole
    if len(chosen) > 1:
        y = precision @ z
        first = y[chosen[0]] ** 2 / precision[chosen[0], chosen[0]]
        assert first < 0.5 * whole  # one fewer would not have been enough
