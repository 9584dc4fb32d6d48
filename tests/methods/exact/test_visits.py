"""Counts that are drawn are those of episodes that are played, probes included."""

import numpy as np
import pytest

from surefoot.envs.finite import FiniteMDP, draw, random_mdp, riverswim
from surefoot.errors import ConfigError, DataError, EnvError
from surefoot.methods.exact.planning import occupancy
from surefoot.methods.exact.visits import Simulator, trajectories, visit_counts


def simulator(mdp, rng):
    return Simulator(lambda h, s, a: draw(mdp.transition[h, s, a], rng), mdp.reward, mdp.initial)


def probed_occupancy(mdp, policy, probe):
    """The mean over h' of the occupancy of the policy that plays `probe` at stage h', enumerated."""
    horizon, _, n_actions = policy.shape
    mixed = np.stack([policy] * horizon)
    for h in range(horizon):
        mixed[h, h] = np.eye(n_actions)[probe[h]]
    return np.mean([occupancy(mdp, pi) for pi in mixed], 0)


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("probing", [False, True])
def test_counts_have_the_law_of_episodes(stepped, probing):
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 3, 2)
    policy, probe = rng.dirichlet(np.ones(2), (2, 4, 3)), rng.integers(2, size=(2, 4, 3))
    n = np.array([40_000, 20_000])
    counts = visit_counts(simulator(mdp, rng) if stepped else mdp, policy, n, rng, probe if probing else None)
    assert counts.shape == (2, 4, 3, 2, 3)
    np.testing.assert_array_equal(counts.sum((-3, -2, -1)), np.repeat(n[:, None], 4, 1))
    np.testing.assert_array_equal(counts[:, :-1].sum((-3, -2)), counts[:, 1:].sum((-2, -1)))  # who arrives goes on
    for i in range(2):
        expected = probed_occupancy(mdp, policy[i], probe[i]) if probing else occupancy(mdp, policy[i])
        p = expected[..., None] * mdp.transition
        error = np.sqrt(np.maximum(p * (1.0 - p), 1e-12) / n[i])
        assert (np.abs(counts[i] / n[i] - p) <= 5.0 * error).all()


def test_every_episode_is_probed_once():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 5, 3, 2)
    left = np.zeros((5, 3, 2))
    left[..., 0] = 1.0
    counts = visit_counts(mdp, left, 1000, rng, np.ones((5, 3), np.int64))
    assert counts[:, :, 1].sum() == 1000
    assert np.abs(counts[:, :, 1].sum((-2, -1)) - 200).max() < 5 * np.sqrt(160)


def test_copies_may_have_no_episodes():
    river, rng = riverswim(), np.random.default_rng(0)
    for world in (river, simulator(river, rng)):
        counts = visit_counts(world, np.full((10, 6, 2), 0.5), np.array([0, 3, 0]), rng, np.zeros((10, 6), np.int64))
        assert counts.sum((1, 2, 3, 4)).tolist() == [0, 30, 0]
        assert visit_counts(world, np.full((10, 6, 2), 0.5), 0, rng).sum() == 0


@pytest.mark.parametrize("kind", ["model", "copies", "simulator"])
def test_trajectories_go_where_the_occupancy_says(kind):
    rng = np.random.default_rng(1)
    mdp = random_mdp(rng, 3, 4, 2, copies=(2,) if kind == "copies" else ())
    policy = rng.dirichlet(np.ones(2), (2, 3, 4))
    states, actions = trajectories(simulator(mdp, rng) if kind == "simulator" else mdp, policy, 20_000, rng)
    assert states.shape == actions.shape == (2, 20_000, 3)
    expected = occupancy(mdp, policy)
    for i, h in np.ndindex(2, 3):
        share = np.bincount(states[i, :, h] * 2 + actions[i, :, h], minlength=8).reshape(4, 2) / 20_000
        assert np.abs(share - expected[i, h]).max() < 5 * 0.5 / np.sqrt(20_000)


def test_misuse_is_one_sentence():
    river, rng, policy = riverswim(), np.random.default_rng(0), np.full((10, 6, 2), 0.5)
    with pytest.raises(DataError, match=r"policy has shape \(3, 6, 2\): it must end in \(10, 6, 2\)"):
        visit_counts(river, policy[:3], 1, rng)
    with pytest.raises(ConfigError, match="n is 0"):
        trajectories(river, policy, 0, rng)
    with pytest.raises(DataError, match="give one policy a world"):
        trajectories(random_mdp(rng, 3, 2, 2, copies=(3,)), np.full((2, 3, 3, 2, 2), 0.5), 5, rng)
    with pytest.raises(DataError, match=r"reward has shape \(6, 2\): it must be \[H, S, A\]"):
        Simulator(lambda h, s, a: s, np.zeros((6, 2)), river.initial)
    with pytest.raises(DataError, match=r"initial has shape \(2,\)"):
        Simulator(lambda h, s, a: s, river.reward, np.array([1.0, 0.0]))
    with pytest.raises(DataError, match=r"initial.* sums to 2"):
        Simulator(lambda h, s, a: s, river.reward, np.array([1.0, 1.0, 0, 0, 0, 0]))
    with pytest.raises(EnvError, match=r"step returned float64 of shape \(4,\) at stage 0"):
        visit_counts(Simulator(lambda h, s, a: s * 1.0, river.reward, river.initial), policy, 4, rng)
    with pytest.raises(EnvError, match=r"step\(0, 0, [01]\) returned state 6: the 6 states are numbered from 0"):
        visit_counts(Simulator(lambda h, s, a: s + 6, river.reward, river.initial), policy, 4, rng)


def test_probabilities_that_miss_one_by_rounding_are_accepted():
    p = np.full((1, 3, 1, 3), 1.0 / 3.0 + 1e-10)
    mdp = FiniteMDP(p, np.zeros((1, 3, 1)), np.full(3, 1.0 / 3.0 + 1e-10))
    assert visit_counts(mdp, np.ones((1, 3, 1)), 100, np.random.default_rng(0)).sum() == 100
