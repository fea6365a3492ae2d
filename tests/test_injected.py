"""What is learned from changes that are injected into ordinary movement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from weighed_blocks import scores

from kinedge.edge.calibration import Calibration
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording, Region
from kinedge.training import cohort
from kinedge.training.cohort import _fit_likelihood
from kinedge.training.injected import Injected, inject_all, pieces_of

Person = Callable[..., Recording]


def test_changes_are_injected_into_every_recording_and_told_by_its_number(scorer: Scorer, person: Person) -> None:
    people = [person(45.0, seed=s) for s in (810_000, 810_001, 810_002)]
    found = inject_all([(people[:1], scorer), (people[1:], scorer)], scorer.calibration, exclude=(), seed=0)
    assert {block.recording for block in found} == {0, 1, 2}
    assert {block.sensor for block in found} == {0, 1}
    of_each = [[b.changed for b in found if b.recording == i] for i in range(3)]
    assert all(any(changed) and not all(changed) for changed in of_each)


def test_pieces_are_of_ordinary_movement_alone(scorer: Scorer, person: Person) -> None:
    day = person(90.0, seed=810_000)
    labelled = replace(day, labels=(Region(1500, 1600, "freeze"),))
    assert [i for _, i in pieces_of([day, labelled], scorer, ("freeze",))].count(0) == 4
    for piece, number in pieces_of([day, labelled], scorer, ("freeze",)):
        assert len(piece) == 1000
        assert number == 0 or not any(r.label == "freeze" for r in piece.labels)


def test_what_loss_adds_is_measured_with_the_yardstick_of_the_pieces_own_person(
    scorer: Scorer, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [replace(person(45.0, seed=s), subject=str(s)) for s in (810_000, 810_001, 810_002)]
    own = [replace(scorer.calibration) for _ in people]
    seen: list[tuple[str, int]] = []

    def rows(judge: Scorer, personal: Calibration, piece: Recording, **_: object) -> np.ndarray:
        seen.append((piece.subject, [c is personal for c in own].index(True)))
        return np.zeros((1, 2, 6))

    monkeypatch.setattr(cohort, "loss_rows", rows)
    cohort._with_loss([(people[:1], scorer), (people[1:], scorer)], scorer.calibration, own, exclude=(), seed=0)
    assert set(seen) == {("810000", 0), ("810001", 1), ("810002", 2)}


def test_how_it_is_named_is_chosen_where_a_channel_was_noticed(scorer: Scorer) -> None:
    calibration = replace(scorer.calibration, coordination=None)
    intensity = np.array([[-3.0, -3.0]])
    center, spread = calibration.usual(intensity, scorer.groups)

    def block(u: float, of_other: float, drop: float, of_other_drop: float, sensor: int) -> BlockScores:
        columns, other = scorer.groups[sensor], scorer.groups[1 - sensor]
        channel, drops = center.copy(), np.zeros((1, 12))
        channel[:, columns] += u * spread[:, columns]
        channel[:, other] += of_other * spread[:, other]
        drops[:, columns], drops[:, other] = drop, of_other_drop
        return scores(channel=channel, intensity=intensity, drop=drops)

    found = []
    for sensor in range(2):
        found += [Injected(0, sensor, False, block(0.1, 0.1, 0.1, 0.1, sensor)) for _ in range(6)]
        # noticed: the excess names the sensor and the drop the other one; not noticed: the reverse, and more of them
        found += [Injected(0, sensor, True, block(3.0, 0.0, 0.01, 1.0, sensor)) for _ in range(6)]
        found += [Injected(0, sensor, True, block(0.1, 0.9, 1.0, 0.1, sensor)) for _ in range(30)]
    no_loss = np.zeros((0, 2, 6))
    assert _fit_likelihood(calibration, [None], found, no_loss, scorer.groups, None).additive
    noticed = [b for b in found if not b.changed or b.scores.drop[0, scorer.groups[b.sensor]].max() > 0.5]
    assert not _fit_likelihood(calibration, [None], noticed, no_loss, scorer.groups, None).additive


def test_what_loss_scatters_is_held_against_the_spread_of_what_it_scatters(scorer: Scorer) -> None:
    rng = np.random.default_rng(0)
    calibration = scorer.calibration
    assert calibration.coordination is not None

    def block(u: float, moved: float) -> BlockScores:
        intensity = np.array([[-3.0 + moved, -3.0 - moved]])  # of both sensors: one is quiet where the other is not
        center, spread = calibration.usual(intensity, scorer.groups)
        return scores(channel=center + u * spread, intensity=intensity)

    found = [
        Injected(0, sensor, changed, block(0.02 * rng.normal() + 3.0 * changed, rng.normal()))
        for sensor in (0, 1)
        for changed in (False, True)
        for _ in range(40)
    ]
    lossy = np.zeros((200, 2, 6))
    lossy[..., 0] = rng.uniform(0.1, 0.5, (200, 2))
    lossy[..., 2:] = np.sqrt(lossy[..., :1]) * rng.normal(size=(200, 2, 1))  # of both, and by either yardstick, as far
    ratios = _fit_likelihood(calibration, [None], found, lossy, scorer.groups, None)
    assert ratios.alone is not None and ratios.own is None and ratios.own_alone is None
    # ordinary blocks differ in how the sensors move beside each other, and hardly in u
    assert (ratios.alone[:, 4] > 4 * ratios.cohort[:, 4]).all()
