"""Natural policy gradient with resets: its closed form, its estimates, and that it is the resets that find the reward."""

import numpy as np
import pytest
from scipy.optimize import minimize

from surefoot.claims.dr_po import combination_lock, typing
from surefoot.envs.finite import play, random_mdp
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.dataset_reset import DatasetResetConfig, fitted_q, learn, mirror_step
from surefoot.methods.exact.planning import expected, kl, optimal_plan, policy_return, policy_values

REF, NOW, Q = np.array([0.5, 0.5]), np.array([0.2, 0.8]), np.array([1.0, 0.0])


def test_oracle_6_the_closed_form():
    assert mirror_step(NOW, REF, Q, 0.5, 1.0) == pytest.approx([0.356437, 0.643563], abs=5e-7)
    without = NOW * np.exp(0.5 * Q)
    assert mirror_step(NOW, REF, Q, 0.5, 0.0) == pytest.approx(without / without.sum())
    limit = REF * np.exp(Q)
    assert mirror_step(NOW, REF, Q, np.inf, 1.0) == pytest.approx(limit / limit.sum())
    assert mirror_step(NOW, REF, Q, 1e9, 1.0) == pytest.approx(limit / limit.sum(), abs=1e-8)


def test_the_closed_form_is_the_minimiser():
    rng = np.random.default_rng(0)
    for eta, lam in ((0.5, 1.0), (2.0, 0.1), (1.0, 0.0)):
        reference, now, q = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4)), rng.normal(size=4)

        def cost(z, reference=reference, now=now, q=q, eta=eta, lam=lam):
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            return -p @ q + lam * kl(p, reference) + kl(p, now) / eta

        found = minimize(cost, np.zeros(4), tol=1e-12).x
        step = mirror_step(now, reference, q, eta, lam)
        assert np.exp(found) / np.exp(found).sum() == pytest.approx(step, abs=1e-4)


def test_what_is_ruled_out_stays_so():
    never = np.array([0.0, 1.0])
    assert mirror_step(never, REF, Q, 0.5, 0.0).tolist() == [0.0, 1.0]
    assert mirror_step(NOW, never, Q, 0.5, 1.0).tolist() == [0.0, 1.0]
    assert mirror_step(NOW, never, Q, 0.5, 0.0)[0] > 0.0


def test_fitted_q_is_unbiased():
    """Against the exact Q of the policy, cell by cell, within 5 standard errors."""
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 3, 2)
    policy = rng.dirichlet(np.ones(2), (4, 3))
    n = 60_000
    stages, states = rng.integers(4, size=n), rng.integers(3, size=n)
    found = fitted_q(mdp, policy, states, stages, rng, mdp.reward)
    v = policy_values(mdp, policy)
    exact = np.stack([mdp.reward[h] + expected(mdp.transition[h], v[h + 1]) for h in range(4)])
    per_cell = n / 12 * policy
    assert (np.abs(found - exact) < 5.0 * 1.0 / np.sqrt(per_cell) + 1e-12).all()
    assert found[3] == pytest.approx(mdp.reward[3])  # the last stage has no luck in it


def test_resets_to_the_data_are_why():
    """The learning test: the same data, reference and budget; without resets, or with the reference's own states, the lock stays shut."""
    rng = np.random.default_rng(1)
    key = rng.integers(4, size=8)
    lock, weak = combination_lock(key), typing(key, 0.25)
    data = play(lock, typing(key, 0.9), 300, rng).state[:, :-1]
    worth = {}
    for starts in ("data", "reference", "initial"):
        config = DatasetResetConfig(iterations=60, episodes=500, eta=2.0, starts=starts)
        worth[starts] = learn(lock, data, weak, config, rng).value(lock)
    assert policy_return(lock, weak) < 1e-4
    assert worth["data"] > 0.7 and worth["reference"] < 0.05 and worth["initial"] < 0.05


def test_the_penalty_holds_the_policy():
    rng = np.random.default_rng(2)
    mdp = random_mdp(rng, 3, 3, 2)
    uniform = np.full(mdp.reward.shape, 0.5)
    data = play(mdp, uniform, 300, rng).state[:, :-1]
    config = {"iterations": 40, "episodes": 3000, "eta": 1.0}
    free = learn(mdp, data, uniform, DatasetResetConfig(**config), rng)
    held = learn(mdp, data, uniform, DatasetResetConfig(**config, lam=1.0), rng)
    assert free.value(mdp) > held.value(mdp) > policy_return(mdp, uniform)
    best = float(optimal_plan(mdp).v[0, 0])
    assert policy_return(mdp, free.policies[-1]) == pytest.approx(best, abs=0.02)
    first_step = learn(mdp, data, uniform, DatasetResetConfig(iterations=1, episodes=1), rng)
    assert first_step.policies.tolist() == [uniform.tolist()]


def test_bad_input():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 3, 3, 2)
    uniform, data = np.full(mdp.reward.shape, 0.5), np.zeros((5, 3), np.int64)
    for changes, message in (
        ({"iterations": 0}, "iterations is 0"),
        ({"lam": -1.0}, "lam is -1.0"),
        ({"eta": 0.0}, "eta is 0.0"),
        ({"starts": "nowhere"}, "starts is 'nowhere'"),
    ):
        with pytest.raises(ConfigError, match=message):
            DatasetResetConfig(**changes)
    for states, message in ((data[:, :2], "must be states"), (data + 3, r"data\[0, 0\] is 3"), (data.astype(float), "whole numbers")):
        with pytest.raises(DataError, match=message):
            learn(mdp, states, uniform, DatasetResetConfig(), rng)
    with pytest.raises(DataError, match="reference has shape"):
        learn(mdp, data, uniform[0], DatasetResetConfig(), rng)
    with pytest.raises(DataError, match="lone"):
        learn(random_mdp(rng, 3, 3, 2, (2,)), data, uniform, DatasetResetConfig(), rng)
    with pytest.raises(ConfigError, match="infinite"):
        mirror_step(NOW, REF, Q, np.inf, 0.0)
