"""What packet loss does to a model's scores is measured at its calibration, and a block says less by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weighed_blocks import CONFIG, HOP_S, calibration, scores, unusual

from kinedge.edge.calibration import Calibration, stack_calibrations
from kinedge.edge.caution import Belief, BeliefState, believe, lost_shares
from kinedge.edge.scoring import Scorer
from kinedge.errors import BundleError
from kinedge.recording import Recording
from kinedge.training import cohort
from kinedge.training.cohort import calibrate_cohort
from kinedge.training.likelihood import loss_rows, loss_terms

Person = Callable[..., Recording]
KNOWS_LOSS = np.tile([-3.0, 3.0, -2.0, -1.0, 4.0, 2.0], (2, 1))


def weighed(missing: list[float], u: float, likelihood: np.ndarray) -> Belief:
    known = replace(calibration(), likelihood=likelihood)
    block, seen = scores(missing=np.array([missing])), unusual(u, u, 0.5)
    return believe(block, seen, known, CONFIG, BeliefState.initial(1, 2, 12), hop_s=HOP_S, block_s=2 * HOP_S)[0]


def rows_of(mean: tuple[float, float], scatter: tuple[float, float], n: int = 20_000) -> np.ndarray:
    """Rows of one sensor that loss moves so; by the person's own yardstick twice as far, and by u alone three times."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(0, 0.6, (n, 2)) * rng.integers(0, 2, (n, 2))
    added = np.sqrt(shares) @ mean + rng.normal(size=n) * np.sqrt(shares @ np.square(scatter))
    return np.stack([*shares.T, added, 2 * added, 3 * added, 6 * added], axis=1)[:, None]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_what_loss_adds_and_what_it_scatters_is_found_by_either_yardstick(own: bool, alone: bool) -> None:
    rows = rows_of((1.5, 0.4), (0.9, 0.3))
    rows[::7, 0, 2:] = np.nan  # not scored
    b2, b3, b4, b5 = loss_terms(rows, np.array([2.0]), np.array([0.5]), own=own, alone=alone)[0]
    times = (2 if own else 1) * (3 if alone else 1)
    assert (b2, b3) == pytest.approx((-2 * 1.5 * times, -2 * 0.4 * times), rel=0.1)
    assert (b4, b5) == pytest.approx(((0.9 * times / 0.5) ** 2, (0.3 * times / 0.5) ** 2), rel=0.2)


def test_loss_that_makes_blocks_look_more_usual_takes_nothing_off() -> None:
    rows = rows_of((-1.0, 0.5), (0.2, 0.2))
    b2, b3, b4, b5 = loss_terms(rows, np.array([2.0]), np.array([0.5]), own=False)[0]
    assert b2 == 0
    assert b3 < 0
    assert min(b4, b5) >= 0


def test_where_nothing_was_scored_loss_is_taken_to_do_nothing() -> None:
    assert (loss_terms(np.full((3, 2, 6), np.nan), np.ones(2), np.ones(2), own=True) == 0).all()


@given(st.lists(st.floats(0, 5), min_size=1, max_size=9))
def test_shares_lie_between_0_and_1_and_others_are_the_mean_of_the_rest(missing: list[float]) -> None:
    own, others = lost_shares(np.array([missing]))
    kept = np.minimum(missing, 1)
    for i in range(len(missing)):
        rest = np.delete(kept, i)
        assert own[0, i] == kept[i]
        assert others[0, i] == pytest.approx(rest.mean() if len(rest) else 0.0, abs=1e-12)
    assert min(own.min(), others.min()) >= 0


def test_in_a_lossy_block_the_same_surprise_speaks_less_for_a_change() -> None:
    for missing in ([0.3, 0.0], [0.0, 0.3], [0.3, 0.3]):
        without = weighed(missing, 2.0, np.tile([-3.0, 3.0], (2, 1)))
        knowing = weighed(missing, 2.0, KNOWS_LOSS)
        assert 0 < knowing.lean[0] < without.lean[0]


def test_a_block_that_says_much_against_a_change_says_less_so_where_packets_are_lost() -> None:
    says_less = np.tile([-3.0, 3.0, 0.0, 0.0, 4.0, 2.0], (2, 1))
    without, knowing = (weighed([0.3, 0.3], -1.0, x) for x in (says_less[:, :2], says_less))
    assert without.normal[0] > knowing.normal[0] > 0


def test_without_loss_nothing_changes_and_a_sensor_that_is_out_counts_as_lost() -> None:
    for likelihood in (KNOWS_LOSS, KNOWS_LOSS[:, :2]):
        assert weighed([0.0, 0.0], 1.4, likelihood).lean == weighed([0.0, 0.0], 1.4, KNOWS_LOSS).lean
    known = replace(calibration(), likelihood=KNOWS_LOSS)
    gone = unusual(2.0, -1e6, 0.5)
    beliefs = [
        believe(scores(), gone, c, CONFIG, BeliefState.initial(1, 2, 12), hop_s=HOP_S, block_s=2 * HOP_S)[0]
        for c in (calibration(), known)
    ]
    assert beliefs[1].lean[0] < beliefs[0].lean[0]


def test_an_ordinary_piece_is_scored_with_each_kind_of_loss(scorer: Scorer, person: Person) -> None:
    piece = person(24.0)
    rows = loss_rows(scorer, None, piece, rng=np.random.default_rng(0))
    # each was silent in turn: nothing is learned of it then, and of the other it is, by u alone, as it is judged so
    silent = [np.isnan(rows[:, i, 4]) & (rows[:, 1 - i, 1] == 1) for i in range(2)]
    for i in range(2):
        told = silent[i] & np.isfinite(rows[:, 1 - i, 4])
        assert told.sum() >= 15
        assert np.isnan(rows[told, 1 - i, 2]).all()
        assert (rows[told, 1 - i, 0] == 0).all()  # what is not told beside the others was not lost for that
    for column in (2, 4):
        learned = rows[np.isfinite(rows[..., column])]
        assert ((learned[:, :2] >= 0) & (learned[:, :2] <= 1)).all()
        assert (learned[:, 0] > 0.02).mean() > 0.3
    assert np.isnan(rows[..., [3, 5]]).all()  # nobody is enrolled
    own = loss_rows(scorer, scorer.calibration, piece, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(own[..., [3, 5]], own[..., [2, 4]])
    known = scorer.calibration.coordination
    assert known is not None
    for nothing in (None, known.muted(scorer.calibration.reference, scorer.calibration.likelihood)):
        by_u_alone = replace(scorer.calibration, coordination=nothing)
        without = loss_rows(scorer, by_u_alone, piece, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(without[..., 3], rows[..., 4])  # whose statistic it is: in every block


def test_loss_is_measured_on_the_model_that_will_run_with_all_that_calibrates_it(
    scorer: Scorer, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [replace(person(85.0, seed=s), subject=str(s)) for s in (800_000, 800_001)]
    folds = [([r], Scorer(scorer.bundle)) for r in people]  # models of others, say
    alike = calibrate_cohort(folds, exclude_labels=())
    asked: list[tuple[object, str]] = []

    def noted(judge: Scorer, own: Calibration | None, piece: Recording, *, rng: np.random.Generator) -> np.ndarray:
        asked.append((judge.engine.backend, piece.subject))
        return loss_rows(judge, own, piece, rng=rng)

    monkeypatch.setattr(cohort, "loss_rows", noted)
    found = calibrate_cohort(folds, exclude_labels=(), running=scorer)
    assert {backend for backend, _ in asked} == {scorer.engine.backend}
    assert {subject for _, subject in asked} == {"800000", "800001"}
    np.testing.assert_array_equal(found.likelihood[:, :2], alike.likelihood[:, :2])
    assert (found.likelihood[:, 2:4] <= 0).all()
    assert (found.likelihood[:, 4:] >= 0).all()


def test_bundles_of_before_are_read_as_if_loss_did_nothing(scorer: Scorer) -> None:
    arrays = scorer.calibration.to_arrays()
    before = {**arrays, "likelihood": arrays["likelihood"][:, :2]}
    read = Calibration.from_arrays(before, scorer.manifest)
    assert read.likelihood.shape == (2, 6)
    assert (read.likelihood[:, 2:] == 0).all()
    known = {**arrays, "likelihood": KNOWS_LOSS}
    assert (Calibration.from_arrays(known, scorer.manifest).likelihood == KNOWS_LOSS).all()
    assert stack_calibrations([read, read]).likelihood.shape == (2, 2, 6)
    with pytest.raises(BundleError, match="say less by is negative"):
        Calibration.from_arrays({**arrays, "likelihood": -KNOWS_LOSS}, scorer.manifest)
    with pytest.raises(BundleError, match="expected"):
        Calibration.from_arrays({**arrays, "likelihood": KNOWS_LOSS[:, :3]}, scorer.manifest)
