from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kinedge.errors import ConfigError
from kinedge.training.model import LOG_SIGMA_MAX, LOG_SIGMA_MIN, Forecaster, ForecasterConfig, taps

SMALL = ForecasterConfig(n_channels=4, horizons=(1, 5), var_order=6, width=8, dilations=(1, 2, 4), kernel=3)


def random_model(config: ForecasterConfig = SMALL, *, seed: int = 0) -> Forecaster:
    generator = torch.Generator().manual_seed(seed)
    model = Forecaster(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def random_input(config: ForecasterConfig, n_streams: int, n: int, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n_streams, n, config.n_channels)
    return torch.randn(shape, generator=generator), (torch.rand(shape, generator=generator) < 0.8).float()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    n_streams=st.integers(1, 3),
    linear_skip=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_chunking_of_a_stream_gives_the_whole_sequence(
    lengths: list[int], n_streams: int, linear_skip: bool, seed: int
) -> None:
    model = random_model(SMALL if linear_skip else replace(SMALL, var_order=0), seed=seed)
    x, mask = random_input(SMALL, n_streams, sum(lengths), seed=seed)
    with torch.no_grad():
        whole = model(x, mask, model.initial_state(n_streams))
        state, mus, sigmas, at = model.initial_state(n_streams), [], [], 0
        for n in lengths:
            mu, log_sigma, state = model(x[:, at : at + n], mask[:, at : at + n], state)
            mus.append(mu)
            sigmas.append(log_sigma)
            at += n
    for got, expected in zip((torch.cat(mus, 1), torch.cat(sigmas, 1), state), whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_streams_of_a_batch_do_not_see_each_other() -> None:
    model = random_model()
    x, mask = random_input(SMALL, 3, 30)
    with torch.no_grad():
        together = model(x, mask, model.initial_state(3))[0]
        alone = model(x[1:2], mask[1:2], model.initial_state(1))[0]
    torch.testing.assert_close(together[1:2], alone, rtol=1e-6, atol=1e-6)


def test_an_output_depends_on_its_receptive_field_and_on_nothing_later() -> None:
    model = random_model(ForecasterConfig(n_channels=2, var_order=4, width=6, dilations=(1, 2, 4)))
    field = model.receptive_field
    assert field == 15
    x, _ = random_input(model.config, 1, 40)
    x.requires_grad_(True)
    mu, log_sigma, _ = model(x, torch.ones_like(x), model.initial_state(1))
    at = 25
    (gradient,) = torch.autograd.grad(mu[0, at].sum() + log_sigma[0, at].sum(), x)
    touched = gradient[0].abs().sum(dim=1).nonzero().flatten()
    assert int(touched.max()) == at
    # relu may hide the farthest tap from one output, never let a farther one in
    assert at - field + 1 <= int(touched.min()) <= at - field + 3


def test_what_is_shown_in_a_gap_is_known_to_be_no_sample() -> None:
    model = random_model()
    x, mask = random_input(SMALL, 2, 50)
    with torch.no_grad():
        gap = model(x, mask, model.initial_state(2))
        samples = model(x, torch.ones_like(mask), model.initial_state(2))
    assert not torch.allclose(gap[0], samples[0])


def test_an_untrained_network_is_the_linear_model() -> None:
    model = Forecaster(SMALL)
    with torch.no_grad():
        torch.nn.init.normal_(model.var.weight)
    x, mask = random_input(SMALL, 1, 30)
    with torch.no_grad():
        mu, log_sigma, _ = model(x, mask, model.initial_state(1))
        seen = torch.cat([torch.zeros(1, SMALL.var_order - 1, 4), x], dim=1)
        windows = seen.unfold(1, SMALL.var_order, 1).permute(0, 1, 3, 2).reshape(1, 30, -1)
        torch.testing.assert_close(mu, windows @ model.var.weight.T, rtol=1e-5, atol=1e-5)
    assert (log_sigma == 0).all()


def test_taps_come_oldest_first() -> None:
    line = torch.arange(7.0).reshape(1, 7, 1)
    gathered = taps(line, n=3, kernel=3, dilation=2)
    assert gathered.tolist() == [[[0, 2, 4], [1, 3, 5], [2, 4, 6]]]


def test_log_scale_stays_within_its_limits() -> None:
    model = random_model()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
        x, mask = random_input(SMALL, 1, 40)
        log_sigma = model(x, mask, model.initial_state(1))[1]
    assert float(log_sigma.min()) == LOG_SIGMA_MIN
    assert float(log_sigma.max()) == LOG_SIGMA_MAX


def test_sizes_are_those_of_the_configuration() -> None:
    config = ForecasterConfig(12)
    model = Forecaster(config)
    assert model.receptive_field == 127
    assert model.state_size == 15 * 12 + 126 * 24 == sum(config.state_sizes)
    assert model.initial_state(5).shape == (5, 3204)
    assert model.n_parameters == 16_944
    assert ForecasterConfig(**config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_channels": 0}, "n_channels"),
        ({"var_order": 1}, "var_order"),
        ({"kernel": 1}, "kernel"),
        ({"horizons": ()}, "horizons"),
        ({"horizons": (3, 1)}, "horizons"),
        ({"horizons": (0, 1)}, "horizons"),
        ({"dilations": ()}, "dilations"),
        ({"dilations": (0,)}, "dilations"),
    ],
)
def test_a_shape_that_cannot_be_a_network_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ForecasterConfig(**{"n_channels": 3, **change})
