from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.config import load_toml
from kinedge.edge.gaps import Gaps
from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.fit import EpochRecord, FitConfig, FitResult, evaluate_nll, fit
from kinedge.training.linear import fit_linear, fit_student_t
from kinedge.training.model import StudentT
from kinedge.training.simulate import RadioModel, SimulationConfig, simulate
from kinedge.training.windows import Augmentation, Normalisation, Pieces

QUICK: dict[str, Any] = {
    "horizons": (1, 3), "var_order": 4, "width": 8, "dilations": (1, 2, 4), "window": 64, "batch": 8,
    "steps_per_epoch": 6, "max_epochs": 2, "exclude_labels": ("freeze", "anomaly:*"),
}  # fmt: skip
ACC = SensorSpec("wrist_left", ("acc_x", "acc_y"))


def walk(seed: int, duration_s: float = 20.0, *, loss: float = 0.0) -> Recording:
    return simulate(
        SimulationConfig(duration_s=duration_s, subject_seed=seed, radio=RadioModel(loss), activity_mix={"gait": 1.0})
    )


def recording_of(x: np.ndarray, valid: np.ndarray | None = None, labels: tuple[Region, ...] = ()) -> Recording:
    x = x.astype(np.float32)
    return Recording((ACC,), 50.0, x, np.ones(x.shape, bool) if valid is None else valid, labels, source="made")


def weights_of(result: FitResult) -> dict[str, torch.Tensor]:
    return dict(result.model.state_dict())


def assert_same(a: FitResult, b: FitResult) -> None:
    for name, tensor in weights_of(a).items():
        torch.testing.assert_close(weights_of(b)[name], tensor, rtol=0, atol=0)
    np.testing.assert_array_equal(a.nu, b.nu)
    assert [(r.train_nll, r.val_nll) for r in a.history] == [(r.train_nll, r.val_nll) for r in b.history]


def test_the_network_beats_its_linear_baseline_where_the_world_is_not_linear() -> None:
    # A logistic map: next to nothing of it is linear, all of it is a function of the last sample.
    def chaos(seed: int) -> Recording:
        x = np.empty((3000, 2))
        x[0] = np.random.default_rng(seed).uniform(0.1, 0.9, 2)
        for t in range(1, 3000):
            x[t] = 3.9 * x[t - 1] * (1 - x[t - 1])
        return recording_of(x * 20)

    seen: list[EpochRecord] = []
    config = FitConfig(**{**QUICK, "horizons": (1,), "max_epochs": 3, "steps_per_epoch": 60, "sensor_dropout": 0.0,
                          "burst_dropout": 0.0, "learning_rate": 2e-2})  # fmt: skip
    result = fit([chaos(1), chaos(2)], [chaos(3)], config, progress=seen.append)
    assert result.val_nll < result.linear_val_nll - 0.5
    assert tuple(seen) == result.history
    assert [r.epoch for r in result.history] == list(range(len(result.history)))
    assert result.val_nll == min(r.val_nll for r in result.history)
    assert result.history[result.best_epoch].val_nll == result.val_nll
    # What is handed out is the model that was measured.
    pieces = Pieces.of([chaos(3)], exclude_labels=(), min_length=2)
    gaps = Gaps(result.config.hold_s, result.rate_hz)
    again = evaluate_nll(result.model, StudentT(result.nu), pieces, result.normalisation, gaps)
    assert again == pytest.approx(result.val_nll, abs=1e-4)


def test_no_epochs_gives_the_linear_baseline() -> None:
    result = fit([walk(1)], [walk(2)], FitConfig(**{**QUICK, "max_epochs": 0}))
    assert result.val_nll == result.linear_val_nll
    assert (result.model.head.weight == 0).all()
    assert float(result.model.var.weight.detach().abs().sum()) > 1
    assert result.nu.shape == (2, 12)
    assert result.nu.min() > 2


def test_without_the_linear_skip_the_baseline_is_only_measured() -> None:
    result = fit([walk(1)], [walk(2)], FitConfig(**QUICK, linear_skip=False))
    linear = fit([walk(1)], [walk(2)], FitConfig(**{**QUICK, "max_epochs": 0}))
    assert result.model.var is None
    assert result.model.config.var_order == 0
    assert result.linear_val_nll == linear.val_nll
    assert result.best_epoch >= 1  # however much better the linear model is: the network does not have it in itself
    assert result.val_nll == result.history[result.best_epoch].val_nll


def test_equal_seeds_train_equal_models_and_others_do_not() -> None:
    config = FitConfig(**QUICK)
    a, b = fit([walk(1)], [walk(2)], config), fit([walk(1)], [walk(2)], config)
    assert_same(a, b)
    assert (a.train_digest, a.val_digest) == (b.train_digest, b.val_digest)
    other = fit([walk(1)], [walk(2)], FitConfig(**QUICK, seed=1))
    assert not torch.equal(weights_of(other)["inp.weight"], weights_of(a)["inp.weight"])


def test_training_resumed_from_a_checkpoint_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise Killed

    config = FitConfig(**{**QUICK, "max_epochs": 4})
    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        fit([walk(1)], [walk(2)], config, progress=kill, checkpoint=path)
    epochs: list[int] = []
    resumed = fit([walk(1)], [walk(2)], config, checkpoint=path, progress=lambda r: epochs.append(r.epoch))
    assert epochs == [3, 4]
    assert_same(resumed, fit([walk(1)], [walk(2)], config))
    assert list(tmp_path.iterdir()) == [path]


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    config = FitConfig(**{**QUICK, "max_epochs": 1})
    fit([walk(1)], [walk(2)], config, checkpoint=path)
    for train, changed in ((walk(3), config), (walk(1), FitConfig(**{**QUICK, "max_epochs": 1}, seed=5))):
        with pytest.raises(ConfigError, match="other data or another configuration"):
            fit([train], [walk(2)], changed, checkpoint=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ConfigError, match="cannot be read"):
        fit([walk(1)], [walk(2)], config, checkpoint=path)
    torch.save({"identity": Path("x"), "format": 1}, path)  # an object, not plain tensors
    with pytest.raises(ConfigError, match="cannot be read"):
        fit([walk(1)], [walk(2)], config, checkpoint=path)
    with pytest.raises(ConfigError, match="cannot be written"):
        fit([walk(1)], [walk(2)], config, checkpoint=tmp_path / "nowhere" / "run.pt")


def test_what_happens_in_excluded_regions_changes_nothing() -> None:
    calm = walk(1)
    labels = (Region(200, 400, "freeze"), Region(600, 700, "anomaly:spikes@wrist_left"))
    wild = calm.values.copy()
    wild[200:400] = 500.0
    wild[600:700] *= -30.0
    config = FitConfig(**{**QUICK, "max_epochs": 1})
    a = fit([replace(calm, labels=labels)], [walk(2)], config)
    b = fit([replace(calm, labels=labels, values=wild)], [walk(2)], config)
    assert_same(a, b)
    c = fit([replace(calm, values=wild)], [walk(2)], config)
    assert c.scale.max() > 2 * a.scale.max()


def test_values_at_invalid_samples_change_nothing() -> None:
    lossy = walk(1, loss=0.2)
    nan = np.where(lossy.valid, lossy.values, np.float32(np.nan))
    config = FitConfig(**{**QUICK, "max_epochs": 1})
    a = fit([lossy], [walk(2)], config)
    assert_same(a, fit([replace(lossy, values=nan)], [replace(walk(2))], config))
    assert np.isfinite(a.val_nll)


def test_a_silent_channel_gets_a_floor_and_a_dead_one_still_trains() -> None:
    x = np.random.default_rng(0).normal(size=(600, 2))
    x[:, 1] = 9.81
    valid = np.ones(x.shape, bool)
    config = FitConfig(**{**QUICK, "max_epochs": 1})
    silent = fit([recording_of(x, valid)], [recording_of(x, valid)], config)
    assert silent.center[1] == pytest.approx(9.81)
    assert silent.scale[1] == pytest.approx(0.1)
    valid[:, 1] = False
    dead = fit([recording_of(x, valid)], [recording_of(x, valid)], config)
    assert all(torch.isfinite(t).all() for t in weights_of(dead).values())
    valid[:] = False
    with pytest.raises(SignalError, match="nothing but gaps"):
        fit([recording_of(x, valid)], [recording_of(x, valid)], config)


def test_recordings_that_do_not_fit_together_are_refused() -> None:
    config = FitConfig(**QUICK)
    with pytest.raises(SignalError, match="at least one recording each"):
        fit([], [walk(1)], config)
    with pytest.raises(SignalError, match="at least one recording each"):
        fit([walk(1)], [], config)
    with pytest.raises(SignalError, match="one grid"):
        fit([walk(1)], [replace(walk(2), rate_hz=25.0)], config)
    with pytest.raises(SignalError, match="one grid"):
        fit([walk(1)], [walk(2).select([SensorSpec("wrist_left")])], config)
    with pytest.raises(SignalError, match="no piece of 19 samples"):
        fit([walk(1).slice(0, 15)], [walk(2)], config)


def test_a_configuration_is_read_from_toml_and_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("width = 16\nhorizons = [1, 4]\nexclude_labels = ['freeze']\n")
    config = load_toml(path, FitConfig)
    assert (config.width, config.horizons, config.exclude_labels) == (16, (1, 4), ("freeze",))
    for text, says in (("widht = 3", "width"), ("horizons = [4, 1]", "increasing"), ("dilations = []", "dilations")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_toml(path, FitConfig)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such device"):
        fit([walk(1)], [walk(2)], FitConfig(**QUICK, device="cuda"))


def test_the_closed_form_finds_a_known_autoregression_through_gaps() -> None:
    rng = np.random.default_rng(4)
    a1, a2 = np.array([[1.2, 0.1], [0.0, 0.7]]), np.array([[-0.5, 0.0], [0.2, 0.1]])
    x = np.zeros((12_000, 2))
    for t in range(2, len(x)):
        x[t] = 0.5 + a1 @ x[t - 1] + a2 @ x[t - 2] + 0.3 * rng.normal(size=2)
    x = x.astype(np.float32)
    starts, ends = np.array([0, 5000]), np.array([5000, 12_000])
    full = fit_linear(x, np.ones_like(x), starts, ends, horizons=(1,), var_order=2, ridge=0.0)
    np.testing.assert_allclose(full.weight, np.concatenate([a2, a1], axis=1), atol=0.04)
    np.testing.assert_allclose(full.bias, 0.5, atol=0.06)
    np.testing.assert_allclose(full.sigma * np.sqrt(full.nu / (full.nu - 2)), 0.3, rtol=0.05)
    # Missing targets do not count: the same equations as least squares on the rows that are there.
    mask = np.ones_like(x)
    mask[rng.random(len(x)) < 0.3, 1] = 0
    gappy = fit_linear(x, mask, np.array([0]), np.array([len(x)]), horizons=(1,), var_order=2, ridge=0.0)
    features = np.concatenate([x[:-2], x[1:-1], np.ones((len(x) - 2, 1))], axis=1)
    for c in (0, 1):
        there = mask[2:, c] > 0
        expected = np.linalg.lstsq(features[there].astype(np.float64), x[2:, c][there].astype(np.float64))[0]
        np.testing.assert_allclose(np.append(gappy.weight[c], gappy.bias[c]), expected, atol=1e-4)


@pytest.mark.parametrize("nu", [2.6, 5.0, 50.0])
def test_student_t_finds_scale_and_tails(nu: float) -> None:
    rng = np.random.default_rng(2)
    sample = 0.7 * rng.standard_t(nu, size=(15_000, 2))
    present = rng.random(sample.shape) < 0.8
    sigma, found = fit_student_t(np.where(present, sample, 1e6), present)
    np.testing.assert_allclose(sigma, 0.7, rtol=0.06)
    assert (found >= 0.7 * nu).all()
    assert (found <= 1.5 * nu).all()
    sigma, found = fit_student_t(sample, np.zeros_like(present))
    assert (sigma == 1).all()
    assert (found == 10).all()


def test_the_likelihood_is_that_of_student_t() -> None:
    likelihood = StudentT(np.array([[3.0, 8.0]], np.float32))
    target, mu, log_sigma = torch.tensor([1.3, -2.0]), torch.tensor([1.0, 0.5]), torch.tensor([0.2, -0.4])
    reference = torch.distributions.StudentT(likelihood.nu, mu, torch.exp(log_sigma))
    torch.testing.assert_close(likelihood(target, mu, log_sigma), -reference.log_prob(target))
    torch.testing.assert_close(likelihood.nu, torch.tensor([3.0, 8.0]))


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 399), st.integers(1, 80)), max_size=4),
    length=st.integers(1, 120),
    seed=st.integers(0, 1000),
)
def test_crops_stay_inside_their_piece_and_out_of_excluded_regions(
    cuts: list[tuple[int, int]], length: int, seed: int
) -> None:
    labels = tuple(Region(a, min(400, a + n), "anomaly:fall@wrist_left") for a, n in cuts)
    x = np.repeat(np.arange(400.0)[:, None], 2, axis=1) + 1  # a sample tells where it comes from
    recording = recording_of(x, labels=labels)
    excluded = recording.label_mask()
    try:
        pieces = Pieces.of([recording, recording], exclude_labels=("anomaly:*",), min_length=10)
    except SignalError:
        keep = np.diff(np.flatnonzero(np.concatenate([[True], excluded, [True]]))) - 1
        assert keep.max() < 10
        return
    values, valid, inside = pieces.crops(np.random.default_rng(seed), n_crops=20, length=length)
    assert values.shape == (20, length, 2)
    for crop, ok, here in zip(values, valid, inside, strict=True):
        n = int(here.sum())
        assert here[:n].all()
        assert (ok == here[:, None]).all()
        assert (crop[n:] == 0).all()
        at = crop[:n, 0].astype(int) - 1
        assert (np.diff(at) == 1).all()
        assert not excluded[at].any()


def test_rotation_turns_accelerometer_and_gyroscope_as_one() -> None:
    r = walk(3)
    values, valid = r.values[None, :200].copy(), r.valid[None, :200].copy()
    valid[0, 7, 1] = False
    before = values.copy()
    augmentation = Augmentation(0, 0, 1, 0, 0, rotation_deg=20)
    augmentation.rotate(np.random.default_rng(0), values, valid, r.sensors)
    for sensor in (0, 6):
        acc, gyr = slice(sensor, sensor + 3), slice(sensor + 3, sensor + 6)
        for part in (acc, gyr):
            lengths = np.linalg.norm(values[0, :, part], axis=1)
            np.testing.assert_allclose(lengths, np.linalg.norm(before[0, :, part], axis=1), rtol=1e-4)
        angle = np.einsum("tc,tc->t", values[0, :, acc], values[0, :, gyr])
        np.testing.assert_allclose(angle, np.einsum("tc,tc->t", before[0, :, acc], before[0, :, gyr]), atol=1e-3)
        assert np.abs(values[0, :, acc] - before[0, :, acc]).max() > 0.3
    assert not valid[0, 7, :3].any()
    assert valid[0, 7, 3:].all()


def test_dropout_hides_whole_sensors_and_bursts_but_never_everything() -> None:
    sensors = (SensorSpec("wrist_left"), SensorSpec("wrist_right"), SensorSpec("lower_back"))
    mask = np.ones((2000, 100, 18), np.float32)
    Augmentation(0.3, 0.0, 1.0, 0, 0, 0).drop(np.random.default_rng(0), mask, sensors, rate_hz=50)
    gone = ~mask.reshape(2000, 100, 3, 6).any(axis=(1, 3))
    assert (gone.sum(axis=1) <= 2).all()
    assert gone.mean() == pytest.approx(0.2, abs=0.02)  # one sensor in three is spared
    mask[:] = 1
    Augmentation(0.0, 0.5, 1.0, 0, 0, 0).drop(np.random.default_rng(0), mask, sensors, rate_hz=50)
    hidden = mask.reshape(2000, 100, 3, 6)[..., 0] == 0
    assert (hidden.any(axis=1).mean()) == pytest.approx(0.5, abs=0.03)
    assert hidden.sum(axis=1).max() <= 50


def test_a_bad_radio_loses_whole_packets_of_some_sensors_up_to_its_share() -> None:
    sensors = (SensorSpec("wrist_left"), SensorSpec("wrist_right"))
    mask = np.ones((800, 500, 12), np.float32)
    Augmentation(0.0, 0.0, 1.0, 0.5, 0, 0).drop(np.random.default_rng(0), mask, sensors, rate_hz=50)
    hidden = mask.reshape(800, 500, 2, 6) == 0
    assert (hidden == hidden[..., :1]).all()  # a packet holds all channels of its sensor, and of no other
    lost = hidden[..., 0].mean(axis=1)
    assert (lost == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert lost[lost > 0].mean() == pytest.approx(0.2, abs=0.02)
    edges = [np.flatnonzero(np.diff(h.astype(np.int8))) for h in hidden[:, :, 0, 0]]
    assert min(np.diff(e).min() for e in edges if len(e) > 1) >= 5  # 0.1 s


def test_a_sensor_misses_one_of_its_channels_for_a_whole_crop_now_and_then_and_a_lone_channel_never_goes() -> None:
    sensors = (SensorSpec("wrist_left"), SensorSpec("elbow", ("acc_x",)), SensorSpec("ankle", ("acc_x", "acc_y")))
    mask = np.ones((3000, 20, 9), np.float32)
    Augmentation(0.0, 0.0, 1.0, 0, 0.3, 0).drop(np.random.default_rng(0), mask, sensors, rate_hz=50)
    assert (mask == mask[:, :1]).all()
    gone = mask[:, 0] == 0
    for sensor, width in ((slice(0, 6), 6), (slice(7, 9), 2)):
        n_gone = gone[:, sensor].sum(axis=1)
        assert set(n_gone) == {0, 1} and n_gone.mean() == pytest.approx(0.3, abs=0.03)
        np.testing.assert_allclose(gone[:, sensor].mean(axis=0), 0.3 / width, atol=0.02)
    assert not gone[:, 6].any()
    assert FitConfig(channel_dropout=0.25).augmentation.channel_dropout == 0.25


def test_normalisation_clips_and_zeroes_as_the_edge_does() -> None:
    normalisation = Normalisation(np.float32([1, 2]), np.float32([0.5, 4]), 3.0)
    values = np.float32([[2, 2], [100, -100], [np.nan, 6]])
    x, mask = normalisation.apply(values, np.array([[True, True], [True, True], [False, True]]))
    np.testing.assert_array_equal(x, [[2, 0], [3, -3], [0, 1]])
    np.testing.assert_array_equal(mask, [[1, 1], [1, 1], [0, 1]])


def test_auto_takes_the_device_that_is_there() -> None:
    config = FitConfig(**QUICK, device="auto")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert config.on_this_machine().device == here
    result = fit([walk(1)], [walk(2)], config)
    assert result.config.device == here
    assert_same(result, fit([walk(1)], [walk(2)], FitConfig(**QUICK, device=here)))


def test_bfloat16_changes_the_last_digits_of_training_and_nothing_else() -> None:
    full, half = (fit([walk(1)], [walk(2)], FitConfig(**QUICK, bf16=bf16)) for bf16 in (False, True))
    assert half.history[0].val_nll == full.history[0].val_nll  # the baseline is solved and measured in full
    assert half.history[1].train_nll != full.history[1].train_nll
    assert half.val_nll == pytest.approx(full.val_nll, abs=0.05)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_a_compiled_network_trains_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def eager(model: torch.nn.Module) -> Any:
        compiled.append(model)
        return compile_(model, backend="aot_eager")  # traced as always, but without a C++ compiler at work

    compile_ = torch.compile
    plain = fit([walk(1)], [walk(2)], FitConfig(**QUICK))
    monkeypatch.setattr(torch, "compile", eager)
    traced = fit([walk(1)], [walk(2)], FitConfig(**QUICK, compile=True))
    assert len(compiled) == 1
    assert traced.val_nll == pytest.approx(plain.val_nll, abs=1e-3)


def test_options_of_augmentation_change_crops_and_mistakes_in_them_are_told() -> None:
    plain = fit([walk(1)], [walk(2)], FitConfig(**QUICK))
    assert_same(plain, fit([walk(1)], [walk(2)], FitConfig(**QUICK, augment={})))
    louder = fit([walk(1)], [walk(2)], FitConfig(**QUICK, augment={"gain": 0.2, "time_warp": 0.1}))
    assert louder.history[0].val_nll == plain.history[0].val_nll
    assert louder.history[1].train_nll != plain.history[1].train_nll
    for options, says in (
        ({"gian": 0.2}, "did you mean 'gain'"),
        ({"rotation_deg": 5.0}, "belongs to the table around"),
        ({"gain": 7.0}, "gain must lie between"),
    ):
        with pytest.raises(ValueError, match=says):
            FitConfig(**QUICK, augment=options)


def test_trainings_in_threads_do_not_disturb_each_other() -> None:
    tasks = [FitConfig(**QUICK, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda config: fit([walk(1)], [walk(2)], config), tasks))
    for config, result in zip(tasks, together, strict=True):
        assert_same(result, fit([walk(1)], [walk(2)], config))
