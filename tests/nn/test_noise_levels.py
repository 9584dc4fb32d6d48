"""The noise grid, EDM's scalings and the time input against the numbers of their papers."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import ConfigError
from surefoot.nn.noise_levels import c_in, c_out, c_skip, loss_weight, nearest_level, noise_grid, sinusoidal, time_input
from surefoot.nn.schedules import scale_rates_, warm_cosine


def test_the_grid_falls_from_80_to_0_002():
    """Oracle 3."""
    grid = noise_grid(21)
    np.testing.assert_allclose(grid[[0, 5, 10, 15, 20]], [80.0, 17.527832, 2.515219, 0.169753, 0.002], rtol=1e-6, atol=5e-7)
    assert noise_grid(81)[40].item() == pytest.approx(2.515219, abs=5e-7)


def test_levels_of_certification_are_where_the_card_has_them():
    grid = noise_grid(81)
    for noise, index, t in ((0.5, 53, 0.492707), (1.0, 48, 0.965417), (2.0, 42, 2.003647)):
        assert nearest_level(grid, noise) == index and grid[index].item() == pytest.approx(t, abs=5e-7)


@given(st.integers(2, 200), st.floats(1e-3, 1.0), st.floats(1.5, 100.0), st.floats(1.0, 10.0))
def test_grids_fall_strictly_between_their_ends(n, low, times, rho):
    grid = noise_grid(n, low, low * times, rho)
    assert len(grid) == n and bool((grid[1:] < grid[:-1]).all())
    assert grid[0].item() == pytest.approx(low * times, rel=1e-6) and grid[-1].item() == pytest.approx(low, rel=1e-6)


@pytest.mark.parametrize("settings", [{"n": 1}, {"n": 5, "t_min": 0.0}, {"n": 5, "t_min": 90.0}, {"n": 5, "rho": 0.0}])
def test_grids_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="a noise grid of"):
        noise_grid(**settings)


def test_scalings_and_time_input_at_half():
    """Oracle 7; EDM's Table 1 by hand at t = std = 1/2."""
    t = torch.tensor(0.5)
    assert c_in(t).item() == pytest.approx(1.414214, abs=5e-7)
    assert time_input(t).item() == pytest.approx(-173.286795, abs=2e-5)
    assert c_skip(t).item() == pytest.approx(0.5) and c_out(t).item() == pytest.approx(0.5 / 2**0.5)
    assert loss_weight(t).item() == pytest.approx(8.0)
    assert torch.isfinite(time_input(torch.zeros(())))


@given(st.floats(0.002, 80.0))
def test_scalings_keep_unit_variances(t):
    """EDM, B.6: inputs and training targets of unit variance, for data of standard deviation 1/2."""
    level = torch.tensor(t, dtype=torch.float64)
    skip, out, std = c_skip(level), c_out(level), 0.5
    assert float(c_in(level) ** 2 * (std**2 + t**2)) == pytest.approx(1.0)
    assert float((std**2 * (1.0 - skip) ** 2 + t**2 * skip**2) / out**2) == pytest.approx(1.0)
    assert float(loss_weight(level) * out**2) == pytest.approx(1.0)


def test_time_embedding_is_cosines_then_sines():
    found = sinusoidal(torch.tensor([0.0, 2.0]), 4)
    slow = 2.0 * np.exp(-log(10_000.0) / 2)
    np.testing.assert_allclose(found, [[1, 1, 0, 0], [np.cos(2.0), np.cos(slow), np.sin(2.0), np.sin(slow)]], atol=1e-6)
    assert sinusoidal(torch.tensor(2.0), 4).tolist() == pytest.approx(found[1].tolist())


def test_rates_rise_then_fall_and_scale_what_they_were():
    assert [warm_cosine(s, 10, 4) for s in (0, 3, 4, 7, 10, 99)] == pytest.approx([0.25, 1.0, 1.0, 0.5, 0.0, 0.0])
    optimiser = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.5}, {"params": [torch.zeros(1)], "lr": 0.1}])
    for factor in (0.5, 0.2):  # of the full rates, not of what the last call left
        scale_rates_(optimiser, factor)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.5 * factor, 0.1 * factor])
