"""Recording: rows are the episodes' own, in order, with terminated and truncated kept apart."""

import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import PolicyError, UnknownNameError
from surefoot.evaluation.recording import record
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.families import Categorical, Deterministic


def test_returns_and_lengths_are_those_of_the_rollout():
    torch.manual_seed(0)
    policy = Categorical(Spec((4,), Discrete(2)), (8,))
    log = record(policy, "CartPole-v1", episodes=25, seed=3, greedy=False, n_envs=10, max_steps=30)
    result = rollout(policy, "CartPole-v1", 25, seed=3, greedy=False, n_envs=10, max_steps=30)
    assert (log.episode_lengths == result.lengths).all()
    np.testing.assert_allclose(log.episode_returns, result.returns)
    assert log.env_id == "CartPole-v1"
    assert log.action == Discrete(2)


def test_each_row_continues_the_one_before_it():
    log = record("random", "CartPole-v1", episodes=30, seed=0, n_envs=7, max_steps=25)
    t, ends = log.transitions, torch.from_numpy(log.ends)
    inside = ~ends[:-1]
    assert torch.equal(t.obs[1:][inside], t.next_obs[:-1][inside])
    assert not torch.equal(t.obs[1:][~inside], t.next_obs[:-1][~inside])
    cut = log.episode_lengths == 25
    assert cut.any()
    assert not cut.all()
    terminal = t.terminated[torch.from_numpy(log.episode_ends)].bool().numpy()
    assert terminal[~cut].all()
    assert t.terminated.sum() == terminal.sum()
    fell = (t.next_obs[:, 0].abs() > 2.4) | (t.next_obs[:, 2].abs() > 12 * 2 * np.pi / 360)
    assert torch.equal(fell, t.terminated.bool())  # the final observation is the fallen pole, not the next episode's start


def test_random_actions_fill_the_box_and_a_time_limit_is_no_terminal():
    log = record("random", "Pendulum-v1", episodes=5, seed=0)
    assert len(log) == 1000
    assert log.transitions.terminated.sum() == 0
    assert log.action == Continuous((-2.0,), (2.0,))
    action = log.transitions.action
    assert action.min() < -1.9
    assert action.max() > 1.9
    assert action.mean().abs() < 0.15
    assert record("random", "Pendulum-v1", episodes=5, seed=0).fingerprint == log.fingerprint
    assert record("random", "Pendulum-v1", episodes=5, seed=1).fingerprint != log.fingerprint


def test_misuse():
    fleet = Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (4,), (2,))
    with pytest.raises(PolicyError, match="choose a member"):
        record(fleet, "Pendulum-v1", episodes=1, seed=0)
    with pytest.raises(PolicyError, match="'random'"):
        record("uniform", "Pendulum-v1", episodes=1, seed=0)
    with pytest.raises(UnknownNameError, match="Pendulum-v1"):
        record("random", "Pendulm-v1", episodes=1, seed=0)
