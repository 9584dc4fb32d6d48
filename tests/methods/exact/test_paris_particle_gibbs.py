"""PaRIS particle Gibbs: the oracles of its card, exact answers for chains and Gaussians, backward draws, and bad input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from surefoot.envs.state_space import LinearGaussian
from surefoot.envs.state_space_models import DiscreteHMM
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.exact.backward_sampling import backward_draws, backward_table, by_rejection
from surefoot.methods.exact.forward_backward import forward_backward
from surefoot.methods.exact.kalman import draw_paths, kalman_smoother
from surefoot.methods.exact.paris_particle_gibbs import PPGConfig, exact_update, paris, ppg, sweep
from surefoot.methods.exact.particle_filter import Series, Step

torch.set_num_threads(1)
F = torch.float64
PEER = np.load(Path(__file__).parents[2] / "fixtures" / "particles.npz", allow_pickle=False)
Y = np.array([1.0, 0.5, -0.2, -1.0, 0.3, 0.8, 1.2, 0.1, -0.4, -0.9])
TRUTH = 2.198700  # E[sum x_t x_{t+1} | Y]


def tensor(x):
    return torch.as_tensor(x, dtype=F)


def scalar(a=0.9):
    return LinearGaussian(a, 0.5, 1.0, 1.0, 0.5 / 0.19)


def hmm():
    return DiscreteHMM(tensor([[0.9, 0.1], [0.2, 0.8]]), tensor([[0.7, 0.3], [0.2, 0.8]]), tensor([0.5, 0.5]))


def product(t, x, x_next):
    return x * x_next


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def one_sweep(n, m=2, chains=1, seed=0, reference=None, model=None, y=Y, h=product, h0=None, backward="table"):
    model = model or scalar()
    config = PPGConfig(particles=n, draws=m, backward=backward)
    return sweep(model, Series(model, y, chains, torch.device("cpu")), h, config, seeded(seed), reference, h0)


def off(values, truth):
    """How many standard errors the mean over axis 0 is off, at most."""
    return float(((values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))).abs().max())


def step_of(x, w, t=0):
    x, w = tensor(x).reshape(1, -1, 1), tensor(w).reshape(1, -1)
    return Step(t, x, w, w.log(), 1 / w.square().sum(-1), None, torch.zeros(1, dtype=F))


# --- the card's oracles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "pilot", "error"), [(2, 2, 2.2132, 0.0087), (2, 1, 2.1844, 0.0095), (10, 2, 2.2074, 0.0046)])
def test_oracle_2_a_sweep_from_an_exact_path_is_unbiased(n, m, pilot, error):
    """For every N and M; and the next path is a draw from the smoothing law again. The pilot's means are met within its errors."""
    exact = kalman_smoother(scalar(), Y)
    assert float(exact.lag_moment.sum()) == pytest.approx(TRUTH, abs=5e-7)
    done = one_sweep(n, m, 40_000, seed=11, reference=draw_paths(scalar(), Y, 40_000, seed=12))
    assert off(done.estimate[:, 0], TRUTH) < 4.0
    mean, ours = float(done.estimate.mean()), float(done.estimate.std()) / 200
    assert ours == pytest.approx(error, rel=0.05)
    assert abs(mean - pilot) < 4 * math.hypot(error, ours)
    paths = done.draw_path(seeded(13))
    assert off(paths, exact.mean) < 4.5
    assert off(paths[:, 1:, 0] * paths[:, :-1, 0], exact.lag_moment[:, 0, 0]) < 4.5


@pytest.mark.parametrize(("n", "pilot", "within"), [(2, 6.47, 0.2), (3, 4.04, 0.1), (10, 2.446, 0.03)])
def test_oracle_2_paris_is_far_off(n, pilot, within):
    estimate = float(paris(scalar(), Y, product, particles=n, chains=20_000, seed=1).estimate.mean())
    assert estimate == pytest.approx(pilot, abs=within) and estimate > TRUTH + 0.2


def test_oracle_3_switches_of_a_chain():
    """The exact update with many particles, and PPG with few, both against forward-backward."""

    def counts(t, x, x_next):
        return torch.cat([x != x_next, (x == 1) & (x_next == 1)], -1).double()

    y, truth = [0, 1, 1, 0, 1], tensor([0.712810, 1.722051])
    assert off(paris(hmm(), y, counts, particles=500, draws=None, chains=40).estimate, truth) < 4.5
    found = ppg(hmm(), y, counts, PPGConfig(particles=5, sweeps=12, burn_in=6), chains=3000)
    assert found.estimate.shape == (3000, 2) and found.sweeps.shape == (12, 3000, 2)
    assert off(found.estimate, truth) < 4.5
    assert off(found.path[..., 0], forward_backward(hmm(), y).states[:, 1]) < 4.5


def test_oracle_4_backward_weights():
    before = step_of([0.0, 1.0, -0.5], [0.2, 0.5, 0.3])
    b = backward_table(scalar(), before, tensor([[[0.8]]]))
    np.testing.assert_allclose((b / b.sum())[0, 0], [0.158975, 0.746231, 0.094794], atol=5e-7)
    beta = exact_update(product, scalar(), before, tensor([[[0.8]]]), tensor([0.1, -0.2, 0.4]).reshape(1, 3, 1))
    assert float(beta) == pytest.approx(0.463636, abs=5e-7)


def test_oracle_5_many_particles_are_kalman():
    assert off(paris(scalar(), Y, product, particles=800, chains=60, backward="rejection").estimate[:, 0], TRUTH) < 4.0
    online = paris(scalar(), Y, product, particles=500, draws=None, chains=30).estimates[..., 0]
    for t in (1, 4, 9):  # on the way, too
        assert off(online[t], kalman_smoother(scalar(), Y[: t + 1]).lag_moment.sum()) < 4.5


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 7), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_oracle_5_constants_are_exact(n, m, conditional, seed):
    """h = 1 gives T-1, h = 0 gives 0, h_0 = 3 adds 3: for every N, M and sweep."""
    z = tensor(Y).reshape(1, -1, 1) if conditional else None
    assert float(one_sweep(n, m, seed=seed, reference=z, h=lambda t, x, v: torch.ones_like(v)).estimate) == pytest.approx(9.0, rel=1e-12)
    assert float(one_sweep(n, m, seed=seed, reference=z, h=lambda t, x, v: 0.0 * v).estimate) == 0.0
    done = one_sweep(n, m, seed=seed, reference=z, h=lambda t, x, v: 0.0 * v, h0=lambda x: x * 0 + 3)
    assert float(done.estimate) == pytest.approx(3.0, rel=1e-12)


def test_oracle_5_many_draws_are_the_exact_update():
    """The same particles, since both take their random numbers alike: 20,000 backward draws of each."""
    exact = paris(scalar(), Y[:2], product, particles=5, draws=None, seed=4).estimate
    many = paris(scalar(), Y[:2], product, particles=5, draws=20_000, seed=4).estimate
    torch.testing.assert_close(many, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize(("name", "draws"), [("paris", 2), ("on2", None)])
def test_oracle_7_agreement_with_particles(name, draws):
    """Means of 200 runs of its collectors Paris and Online_smooth_ON2 at every step, and their spread."""
    found = paris(scalar(), PEER["scalar.y"], product, particles=50, draws=draws, chains=2000).estimates[..., 0].T.numpy()
    theirs = PEER[name]
    error = np.hypot(theirs.std(0) / math.sqrt(len(theirs)), found.std(0) / math.sqrt(len(found)))[1:]
    assert (np.abs(theirs.mean(0) - found.mean(0))[1:] < 4 * error).all()
    assert abs(theirs.mean(0)[-1] - found.mean(0)[-1]) < 3 * error[-1]
    np.testing.assert_allclose(theirs.std(0)[1:], found.std(0)[1:], rtol=0.25)


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_trials", [None, 1, 3])
def test_rejection_draws_what_the_table_draws(max_trials):
    """Whenever it gives up, the law is the same: counts against the exact backward weights, also of a particle in the tails."""
    before = step_of([0.0, 1.0, -0.5, 2.0], [0.2, 0.4, 0.3, 0.1])
    x_next = tensor([0.8, -1.0, 4.0]).reshape(1, 3, 1)
    b = backward_table(scalar(), before, x_next)[0]
    b = b / b.sum(-1, keepdim=True)
    drawn = by_rejection(scalar(), before, x_next, 20_000, seeded(1), max_trials)[0]
    for i in range(3):
        assert stats.chisquare(torch.bincount(drawn[i], minlength=4), 20_000 * b[i]).pvalue > 1e-4
    table = backward_draws(scalar(), before, x_next, 20_000, seeded(2))[0]
    for i in range(3):
        assert stats.chisquare(torch.bincount(table[i], minlength=4), 20_000 * b[i]).pvalue > 1e-4


def test_rejection_serves_many_chains_of_their_own_parameters():
    a = tensor([0.1, 0.9]).repeat_interleave(600)[:, None, None]
    model = LinearGaussian(a, 0.5, 1.0, 1.0, 2.0)
    found = paris(model, Y, product, particles=40, chains=1200, backward="rejection", seed=3).estimate[:, 0]
    table = paris(model, Y, product, particles=40, chains=1200, seed=4).estimate[:, 0]
    for chains in (slice(0, 600), slice(600, 1200)):
        gap, error = found[chains].mean() - table[chains].mean(), math.hypot(found[chains].std(), table[chains].std()) / math.sqrt(600)
        assert abs(gap) < 4 * error


def test_tables_in_blocks_are_tables(monkeypatch):
    before = step_of(np.linspace(-1, 1, 9), np.full(9, 1 / 9))
    beta, x_next = torch.randn(1, 9, 1, dtype=F), torch.randn(1, 9, 1, dtype=F)
    whole = exact_update(product, scalar(), before, x_next, beta)
    monkeypatch.setattr("surefoot.methods.exact.backward_sampling.BLOCK", 20)
    torch.testing.assert_close(exact_update(product, scalar(), before, x_next, beta), whole)
    drawn = backward_draws(scalar(), before, x_next, 3, seeded(0))
    assert drawn.shape == (1, 9, 3) and int(drawn.max()) < 9


def test_bias_dies_out_over_sweeps():
    """And it does not without the reference, PPG's key term: then every sweep is PaRIS again."""
    found = ppg(scalar(), Y, product, PPGConfig(particles=3, sweeps=8, burn_in=5), chains=6000, seed=2)
    bias = found.sweeps[..., 0].mean(1) - TRUTH
    assert bias[0] > 0.3 and off(found.estimate[:, 0], TRUTH) < 4.5
    assert abs(float(found.estimate.mean() - TRUTH)) < 0.1
    paris_bias = float(one_sweep(3, chains=6000, seed=3).estimate.mean()) - TRUTH
    assert paris_bias > 1.5


def test_gaps_in_the_data():
    y = np.array([1.0, np.nan, -0.5, np.nan, 0.7])
    found = ppg(scalar(), y, product, PPGConfig(particles=10, sweeps=10, burn_in=4), chains=3000)
    exact = kalman_smoother(scalar(), y)
    assert off(found.estimate[:, 0], exact.lag_moment.sum()) < 4.5
    assert off(found.mean.transpose(0, 1), exact.mean) < 4.5


def test_means_of_the_states_are_those_of_the_functional():
    done = one_sweep(5, 3, chains=4, seed=1, h=lambda t, x, v: v * (t == 6))
    torch.testing.assert_close(done.mean()[7], done.estimate)


def test_one_observation_and_a_start_term():
    found = ppg(scalar(), [1.0], product, PPGConfig(particles=20, sweeps=6), h0=lambda x: x, chains=4000)
    assert off(found.estimate[:, 0], kalman_smoother(scalar(), [1.0]).mean[0, 0]) < 4.5


def test_equal_seeds_equal_estimates():
    one, two, three = (ppg(scalar(), Y, product, chains=2, seed=s).sweeps for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message", "error"),
    [
        ({"particles": 1}, "particles is 1: a filter needs at least 2", ConfigError),
        ({"draws": 0}, "draws is 0", ConfigError),
        ({"sweeps": 3, "burn_in": 3}, "burn_in is 3 of 3 sweeps: at least one sweep must be left", ConfigError),
        ({"burn_in": -1}, "burn_in is -1", ConfigError),
        ({"backward": "tables"}, "did you mean 'table'", UnknownNameError),
    ],
)
def test_ppg_settings(settings, message, error):
    with pytest.raises(error, match=message):
        PPGConfig(**settings)


def test_functionals_and_references_of_the_wrong_shape():
    with pytest.raises(ConfigError, match=r"h returned shape \(1, 10, 2\) for states .*: it must keep their axes"):
        ppg(scalar(), Y, lambda t, x, x_next: (x * x_next).sum(-1))
    with pytest.raises(ConfigError, match=r"reference path has shape \(2, 10, 1\): it must be \[chains, T, dx\] = \(1, 10, 1\)"):
        ppg(scalar(), Y, product, reference=torch.zeros(2, 10, 1, dtype=F))
    with pytest.raises(DataError, match=r"y has shape \(10, 2\)"):
        paris(scalar(), np.ones((10, 2)), product)
    with pytest.raises(DataError, match=r"y\[1, 0\] is infinite"):
        ppg(scalar(), [0.0, math.inf], product)


def test_a_reference_that_the_model_cannot_reach():
    z = torch.zeros(1, 5, 1, dtype=F)
    z[0, 2] = 1.0
    never = DiscreteHMM(tensor([[1.0, 0.0], [0.0, 1.0]]), torch.full((2, 2), 0.5), tensor([1.0, 0.0]))
    with pytest.raises(DataError, match=r"no particle at step 1 can have led to x = \[1.0\] at step 2 \(chain 0\)"):
        ppg(never, [0, 0, 0, 0, 0], product, reference=z)


def test_densities_that_do_not_broadcast_and_bounds_that_are_none():
    model = scalar()
    model.log_m = lambda t, x, x_next: torch.zeros(x_next.shape[:-1], dtype=F)
    with pytest.raises(
        ConfigError, match=r"LinearGaussian.log_m returned \(1, 10, 1\) for all pairs: it must broadcast .*, to \(1, 10, 10\)"
    ):
        ppg(model, Y, product, PPGConfig(particles=10))
    model = scalar()
    model.log_m_bound = lambda t: tensor(-5.0)
    with pytest.raises(ConfigError, match=r"log_m_bound is exceeded by .* at step 0"):
        paris(model, Y, product, backward="rejection")
