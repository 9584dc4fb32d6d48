"""States that cannot be listed: costs worked out on demand are those of tables; misuse."""

import numpy as np
import pytest

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.adversarial_mdp import AdversarialMDPConfig, bonus, dilated, magnitude_shift, reduced_estimate
from surefoot.methods.exact.covariance_inverse import squared_norm
from surefoot.methods.exact.on_demand import OnDemandLinearQ

SAMPLED = {"covariance": "average", "bonus": "sampled", "draws": 5}


def listed(seed=0, horizon=3, states=3, actions=2, d=3):
    """Features and a deterministic step; in all layers but the first, all actions of a state are alike, so that B(x', a') is certain."""
    rng = np.random.default_rng(seed)
    phi = rng.dirichlet(np.ones(d), (horizon, states, actions))
    phi[1:] = phi[1:, :, :1]
    after = rng.integers(states, size=(horizon, states, actions))
    after[1:] = after[1:, :, :1]
    return phi, after


@pytest.mark.parametrize("algorithm", ["logbarrier", "magnitude_reduced", "plain"])
def test_costs_are_those_of_tables(algorithm):
    phi, after = listed()
    learner = OnDemandLinearQ(
        lambda h, x: phi[h, x],
        lambda h, x, a, rng: after[h, x, a],
        lambda n, rng: np.zeros(n, np.int64),
        3,
        AdversarialMDPConfig(algorithm, episodes=20, beta=0.2, **SAMPLED),
    )
    rng = np.random.default_rng(1)
    for _ in range(7):
        x, path = 0, []
        for h in range(3):
            a = learner.act(h, x)
            path.append((x, a, float(rng.random())))
            x = after[h, x, a]
        learner.end_episode(path)
    cost, transition = np.zeros((3, 3, 2)), np.eye(3)[after]
    for tau in range(7):
        policy, difference, b = learner._leader(cost, learner.rates.eta), np.zeros(cost.shape), np.zeros(cost.shape)
        for h in range(3):
            si, flat = learner.inverse[tau][h], phi[h].reshape(-1, 3)
            c = flat @ learner.played[tau][h]
            q = c * learner.to_go[tau][h]
            if algorithm == "magnitude_reduced":
                q = reduced_estimate(c, learner.to_go[tau][h], magnitude_shift(flat, si, learner.draws[tau][h], None, 3), 3)
            difference[h] = q.reshape(3, 2)
            b[h] = bonus(squared_norm(flat, si).reshape(3, 2), policy[h], 0.2)
        cost += difference - dilated(b, policy, transition)
    for h in range(3):
        for x in range(3):
            np.testing.assert_allclose(learner.cost(h, x), cost[h, x], rtol=1e-9, atol=1e-9)


def circle(h, x):
    """Two actions, features of a point on a circle."""
    point = np.stack([np.cos(x), np.sin(x), np.ones(len(x))], -1) / np.sqrt(2.0)
    return np.stack([np.concatenate([point, 0 * point], -1), np.concatenate([0 * point, point], -1)], 1)


def test_learns_where_states_are_numbers():
    """One decision, on the sign of a state that is never met twice; without estimates (L = 0) the policy stays where it was."""
    rng = np.random.default_rng(0)

    def chosen(signal):
        config = AdversarialMDPConfig("magnitude_reduced", episodes=120, **SAMPLED | {"draws": 30})
        learner = OnDemandLinearQ(circle, lambda h, x, a, rng: x, lambda n, rng: rng.uniform(-1.5, 1.5, n), 1, config)
        right = []
        for _ in range(120):
            x = rng.uniform(-1.5, 1.5)
            a = learner.act(0, x)
            right.append(a == (x > 0))
            learner.end_episode([(x, a, signal * float(a != (x > 0)))])
        return np.mean(right[-50:])

    assert chosen(1.0) > 0.75
    assert chosen(0.0) < 0.7


def test_misuse_is_one_sentence():
    def start(n, rng):
        return np.zeros(n)

    with pytest.raises(ConfigError, match="need covariance='average'"):
        OnDemandLinearQ(circle, start, start, 1, AdversarialMDPConfig(episodes=10))
    with pytest.raises(ConfigError, match="horizon is 0"):
        OnDemandLinearQ(circle, start, start, 0, AdversarialMDPConfig(episodes=10, **SAMPLED))
    learner = OnDemandLinearQ(circle, start, start, 1, AdversarialMDPConfig(episodes=10, **SAMPLED))
    with pytest.raises(DataError, match="the episode has 2 steps"):
        learner.end_episode([(0.0, 0, 0.0)] * 2)
    with pytest.raises(DataError, match="the loss at stage 0 is nan"):
        learner.end_episode([(0.0, 0, np.nan)])
    with pytest.raises(DataError, match="stage is 1"):
        learner.act(1, 0.0)
    long = OnDemandLinearQ(lambda h, x: 2.0 * circle(h, x), start, start, 1, AdversarialMDPConfig(episodes=10, **SAMPLED))
    with pytest.raises(DataError, match="features, stage 0, have norm 2"):
        long.act(0, 0.0)
    flat = OnDemandLinearQ(lambda h, x: x, start, start, 1, AdversarialMDPConfig(episodes=10, **SAMPLED))
    with pytest.raises(DataError, match=r"features, stage 0, returned shape \(1,\)"):
        flat.act(0, 0.0)
