"""Planning against brute force: all deterministic policies, all trajectories."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.finite import play, random_mdp, riverswim
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.planning import kl, occupancy, optimal_plan, policy_return, policy_values, soft_maximum, trajectory_kl


def all_trajectories(mdp, policy):
    """Every trajectory (s_0, a_0, ..., a_{H-1}) with its probability under `policy` and its return."""
    H, S, A = mdp.reward.shape
    for states in itertools.product(range(S), repeat=H):
        for actions in itertools.product(range(A), repeat=H):
            p, total = mdp.initial[states[0]], 0.0
            for h in range(H):
                p *= policy[h, states[h], actions[h]]
                total += mdp.reward[h, states[h], actions[h]]
                if h + 1 < H:
                    p *= mdp.transition[h, states[h], actions[h], states[h + 1]]
            yield (states, actions), p, total


@pytest.mark.parametrize("seed", range(3))
def test_returns_and_kl_are_sums_over_trajectories(seed):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, 3, 2, 2)
    pi, rho = rng.dirichlet(np.ones(2), (2, 3, 2))
    ours, theirs = list(all_trajectories(mdp, pi)), list(all_trajectories(mdp, rho))
    assert policy_return(mdp, pi) == pytest.approx(sum(p * total for _, p, total in ours), abs=1e-12)
    chain = sum(p * np.log(p / q) for (_, p, _), (_, q, _) in zip(ours, theirs, strict=True) if p > 0.0)
    assert trajectory_kl(mdp, pi, rho) == pytest.approx(chain, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_the_best_of_all_deterministic_policies(seed):
    mdp = random_mdp(np.random.default_rng(seed), 2, 2, 3)
    best = max(policy_return(mdp, np.eye(3)[np.array(choice).reshape(2, 2)]) for choice in itertools.product(range(3), repeat=4))
    plan = optimal_plan(mdp)
    assert (mdp.initial * plan.v[0]).sum() == pytest.approx(best, abs=1e-12) == policy_return(mdp, plan.policy)


@given(st.integers(0, 10_000), st.floats(0.01, 10.0))
@settings(max_examples=40, deadline=None)
def test_no_policy_beats_the_regularised_plan(seed, lam):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, 3, 4, 3, copies=(20,))
    reference, other = rng.dirichlet(np.ones(3), (2, 20, 3, 4))
    plan = optimal_plan(mdp, lam, reference)
    np.testing.assert_allclose(policy_values(mdp, plan.policy, lam, reference), plan.v, atol=1e-10)
    assert (policy_values(mdp, other, lam, reference) <= plan.v + 1e-10).all()
    assert (plan.v <= optimal_plan(mdp).v + 1e-10).all()


def test_soft_maximum_by_hand_and_in_its_limits():
    q, reference = np.array([1.0, 0.0]), np.array([0.25, 0.75])
    value, policy = soft_maximum(q, reference, 0.5)
    assert value == pytest.approx(0.477229, abs=1e-6)
    np.testing.assert_allclose(policy, [0.711235, 0.288765], atol=1e-6)
    assert policy @ q - 0.5 * kl(policy, reference) == pytest.approx(value, abs=1e-12)
    assert soft_maximum(q, reference, 0.001)[0] == pytest.approx(0.998614, abs=1e-6)
    assert soft_maximum(q, reference, 1000.0)[0] == pytest.approx(0.250094, abs=1e-6)
    assert soft_maximum(q, reference, 0.0)[0] == 1.0
    value, policy = soft_maximum(np.array([5.0, 0.0]), np.array([0.0, 1.0]), 1e-3)  # what the reference never does is never done
    assert value == 0.0 and policy.tolist() == [0.0, 1.0]
    value, _ = soft_maximum(np.array([1e6, -1e6]), np.array([0.5, 0.5]), 1e-6)
    assert value == pytest.approx(1e6)


def test_riverswim_values():
    river, uniform = riverswim(), np.full((10, 6, 2), 0.5)
    start = lambda v: v[0, 0]  # noqa: E731
    plan = optimal_plan(river)
    assert start(plan.v) == pytest.approx(0.352384, abs=1e-6)
    assert trajectory_kl(river, plan.policy, uniform) == pytest.approx(10 * np.log(2))
    for lam, regularised, plain in ((0.01, 0.297246, 0.347051), (0.1, 0.069951, 0.145603), (1.0, 0.019955, 0.022104)):
        soft = optimal_plan(river, lam, uniform)
        assert start(soft.v) == pytest.approx(regularised, abs=1e-6)
        assert start(policy_values(river, soft.policy)) == pytest.approx(plain, abs=1e-6)


def test_occupancy_is_where_episodes_go():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 3, 2)
    policy = rng.dirichlet(np.ones(2), (4, 3))
    visited = occupancy(mdp, policy)
    np.testing.assert_allclose(visited.sum((-2, -1)), 1.0)
    played = play(mdp, policy, 100_000, rng)
    for h in range(4):
        counts = np.zeros((3, 2))
        np.add.at(counts, (played.state[:, h], played.action[:, h]), 1e-5)
        assert np.abs(counts - visited[h]).max() < 5 * 0.5 / np.sqrt(100_000)
    assert (visited * mdp.reward).sum() == pytest.approx(policy_return(mdp, policy))


def test_copies_are_apart():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 3, 4, 2, copies=(5,))
    policy = rng.dirichlet(np.ones(2), (5, 3, 4))
    for i in range(5):
        lone = type(mdp)(mdp.transition[i], mdp.reward[i], mdp.initial[i])
        assert policy_return(lone, policy[i]) == pytest.approx(policy_return(mdp, policy)[i])
        np.testing.assert_allclose(optimal_plan(lone).q, optimal_plan(mdp).q[i])
        np.testing.assert_allclose(occupancy(lone, policy[i]), occupancy(mdp, policy)[i])


def test_misuse_is_one_sentence():
    river = riverswim()
    with pytest.raises(ConfigError, match="lam is -1"):
        optimal_plan(river, -1.0)
    with pytest.raises(DataError, match=r"must end in \(10, 6, 2\)"):
        policy_values(river, np.ones((3, 6, 2)))
    with pytest.raises(ConfigError, match="no reference policy"):
        policy_values(river, np.full((10, 6, 2), 0.5), 0.1)
    other = np.zeros((10, 6, 2))
    other[..., 0] = 1.0
    assert trajectory_kl(river, np.full((10, 6, 2), 0.5), other) == np.inf
