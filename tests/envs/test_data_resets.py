"""Resets into played episodes: the states are the data's, their share and place are as they should be, and a seed brings the same."""

import gymnasium as gym
import numpy as np
import pytest

from surefoot.data.rollouts import Rollouts
from surefoot.data.spec import Discrete, Spec
from surefoot.envs.data_resets import DatasetResets, Played
from surefoot.errors import ConfigError, DataError, EnvError
from surefoot.policies.families import Categorical


def played(seed, steps=8):
    """An episode of CartPole that goes left and right, and its observations `[T + 1, 4]`."""
    env = gym.make("CartPole-v1")
    shown = [env.reset(seed=seed)[0]]
    actions = np.arange(steps) % 2
    shown += [env.step(action)[0] for action in actions]
    return Played(seed, actions), np.array(shown)


EPISODES = [played(seed) for seed in (10_011, 10_012)]
DATA = [episode for episode, _ in EPISODES]
SHOWN = np.stack([shown for _, shown in EPISODES])  # [2, 9, 4]


def where(observation):
    """Which step of which episode this is: a step from 1 to 7, or None for a state of nobody's."""
    found = np.argwhere((observation == SHOWN).all(-1))
    return tuple(found[0]) if len(found) else None


def test_episodes_start_where_the_data_were():
    env = DatasetResets(gym.make("CartPole-v1"), DATA, reset_prob=0.6)
    found = [where(env.reset(seed=seed)[0]) for seed in range(700)]
    inside = [place for place in found if place is not None]
    assert len(inside) / 700 == pytest.approx(0.6, abs=4 * (0.24 / 700) ** 0.5)
    steps = np.bincount([step for _, step in inside], minlength=9) / len(inside)
    assert steps[0] == steps[8] == 0.0 and np.abs(steps[1:8] - 1 / 7).max() < 4 * (6 / 49 / len(inside)) ** 0.5
    assert np.mean([episode for episode, _ in inside]) == pytest.approx(0.5, abs=4 * 0.5 / len(inside) ** 0.5)


def test_a_seed_brings_the_same_and_no_share_changes_nothing():
    one, other = (DatasetResets(gym.make("CartPole-v1"), DATA) for _ in range(2))
    for seed in range(20):
        assert (one.reset(seed=seed)[0] == other.reset(seed=seed)[0]).all()
        assert (one.step(0)[0] == other.step(0)[0]).all()
    off, plain = DatasetResets(gym.make("CartPole-v1"), DATA, reset_prob=0.0), gym.make("CartPole-v1")
    assert all((off.reset(seed=seed)[0] == plain.reset(seed=seed)[0]).all() for seed in range(5))


def test_what_follows_has_luck_of_its_own():
    """On a windy cart the same state of the data goes on differently under another seed, and the same under the same."""

    class Windy(gym.Wrapper):
        def step(self, action):
            observation, *rest = self.env.step(action)
            return observation + self.unwrapped.np_random.normal(size=4), *rest

    env = DatasetResets(Windy(gym.make("CartPole-v1")), DATA, 1.0)
    after = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        after.append(env.step(0)[0])
    assert (after[0] == after[2]).all() and (after[0] != after[1]).any()
    assert len({env.reset(seed=seed) and float(env.unwrapped.np_random.random()) for seed in range(50)}) == 50


def test_rollouts_of_an_environment_that_is_registered_with_it():
    gym.register("CartPoleFromData-v0", lambda **_: DatasetResets(gym.make("CartPole-v1").unwrapped, DATA, 1.0), max_episode_steps=50)
    try:
        source = Rollouts("CartPoleFromData-v0", Categorical(Spec((4,), Discrete(2)), (4,)), 60, n_envs=1)
        segments = next(source)
        assert where(segments.obs[0, 0].numpy()) is not None and segments.ended.any()
        source.close()
    finally:
        gym.registry.pop("CartPoleFromData-v0")


def test_bad_input():
    env = gym.make("CartPole-v1")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        DatasetResets(env, DATA, reset_prob=2.0)
    with pytest.raises(DataError, match="two actions"):
        DatasetResets(env, [Played(0, np.zeros(1, np.int64))])
    wrong = DatasetResets(env, [Played(0, np.ones(400, np.int64))], reset_prob=1.0)  # falls after some ten of these
    with pytest.raises(EnvError, match="of its 400 actions"):
        wrong.reset(seed=1)
