"""Finite MDPs: checked on construction, played by the book."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.envs import finite
from surefoot.errors import ConfigError, DataError


def test_riverswim_is_the_river_of_the_paper():
    river = finite.riverswim()
    assert (river.horizon, river.n_states, river.n_actions) == (10, 6, 2)
    np.testing.assert_allclose(river.transition[0, 0, 1], [0.4, 0.6, 0, 0, 0, 0])
    np.testing.assert_allclose(river.transition[3, 2, 1], [0, 0.05, 0.6, 0.35, 0, 0])
    np.testing.assert_allclose(river.transition[9, 5, 1], [0, 0, 0, 0, 0.4, 0.6])
    np.testing.assert_allclose(river.transition[0, 4, 0], [0, 0, 0, 1, 0, 0])
    assert river.reward[0, 0, 0] == 0.005 and river.reward[0, 5, 1] == 1.0 and river.reward.sum() == pytest.approx(10.05)


def test_played_episodes_follow_the_model():
    rng = np.random.default_rng(0)
    mdp = finite.random_mdp(rng, 3, 4, 2)
    policy = rng.dirichlet(np.ones(2), (3, 4))
    played = finite.play(mdp, policy, 200_000, rng)
    assert (played.state[:, 0] == 0).all()
    for h in range(3):
        for s in range(4):
            at = played.state[:, h] == s
            for a in range(2):
                rows = at & (played.action[:, h] == a)
                if at.sum() == 0 or rows.sum() == 0:
                    continue
                se = 0.5 / np.sqrt(at.sum())
                assert abs(rows.sum() / at.sum() - policy[h, s, a]) < 5 * se
                counts = np.bincount(played.state[rows, h + 1], minlength=4) / rows.sum()
                assert np.abs(counts - mdp.transition[h, s, a]).max() < 5 * 0.5 / np.sqrt(rows.sum())
                np.testing.assert_array_equal(played.reward[rows, h], mdp.reward[h, s, a])


def test_each_episode_may_have_its_own_policy():
    rng = np.random.default_rng(1)
    mdp = finite.random_mdp(rng, 4, 3, 2)
    policies = np.zeros((10, 4, 3, 2))
    policies[:5, ..., 0] = policies[5:, ..., 1] = 1.0
    played = finite.play(mdp, policies, 10, rng)
    assert (played.action[:5] == 0).all() and (played.action[5:] == 1).all()


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_what_is_impossible_is_never_drawn(seed, n):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(n, 0.5), 50) * (rng.random((50, n)) < 0.7)
    p = p[p.sum(-1) > 0.0]
    p /= p.sum(-1, keepdims=True)
    drawn = finite.draw(p, rng)
    assert (p[np.arange(len(p)), drawn] > 0.0).all()


def test_linear_models_are_mdps_with_copies():
    linear = finite.random_linear_mdp(np.random.default_rng(0), 3, 8, 4, 5, copies=(7,))
    assert linear.mdp.transition.shape == (7, 3, 8, 4, 8) and linear.mdp.copies == (7,)
    assert linear.mdp.reward.min() >= 0.0 and linear.mdp.reward.max() <= 1.0


def test_bad_models_are_named():
    good = finite.riverswim()
    broken = good.transition.copy()
    broken[2, 3, 1, 4] = 0.9
    with pytest.raises(DataError, match=r"transition\[2, 3, 1\] sums to 1.55: probabilities"):
        finite.FiniteMDP(broken, good.reward, good.initial)
    broken[2, 3, 1, :] = [0, 0, -0.5, 0.5, 1.0, 0]
    with pytest.raises(DataError, match=r"transition\[2, 3, 1\] holds -0.5"):
        finite.FiniteMDP(broken, good.reward, good.initial)
    broken[2, 3, 1, 0] = np.nan
    with pytest.raises(DataError, match=r"transition\[2, 3, 1\] "):
        finite.FiniteMDP(broken, good.reward, good.initial)
    with pytest.raises(DataError, match=r"initial sums to 2"):
        finite.FiniteMDP(good.transition, good.reward, 2 * good.initial)
    reward = good.reward.copy()
    reward[1, 2, 0] = np.inf
    with pytest.raises(DataError, match=r"reward\[1, 2, 0\] is inf"):
        finite.FiniteMDP(good.transition, reward, good.initial)
    with pytest.raises(DataError, match=r"must be \[..., H, S, A, S\]"):
        finite.FiniteMDP(good.transition[0], good.reward, good.initial)
    with pytest.raises(DataError, match="reward has shape"):
        finite.FiniteMDP(good.transition, good.reward[:3], good.initial)
    with pytest.raises(DataError, match="a probability a state"):
        finite.FiniteMDP(good.transition, good.reward, good.initial[:3])
    with pytest.raises(ConfigError, match="at least one stage"):
        finite.riverswim(horizon=0)
    with pytest.raises(ConfigError, match="at least 3"):
        finite.riverswim(states=2)
    with pytest.raises(ConfigError, match="numbered from 0"):
        finite.FiniteMDP.stationary(good.transition[0], good.reward[0], 3, start=6)
