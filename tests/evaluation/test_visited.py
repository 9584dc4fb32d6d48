"""States along a policy's own episodes: which they are, what the policy remembered there, and that nothing else is kept."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import ConfigError, EnvError
from surefoot.evaluation.rollouts import play
from surefoot.evaluation.visited import _evenly, visited
from surefoot.policies.families import Categorical
from surefoot.policies.frame_stack import FrameStack


class Counting(gym.Env):
    """Shows (number of the episode, step); episode e lasts 1 + (start drawn from its seed) steps."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    made = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.last = int(self.np_random.integers(1, 30))
        self.t = 0
        return np.array([self.last, 0], np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.last, self.t], np.float32), 1.0, self.t >= self.last, False, {}


gym.register("test/Counting-v0", entry_point=Counting, max_episode_steps=50)


def policy(copies=(), frames=1):
    inner = Categorical(Spec((2 * frames,), Discrete(2)), (4,), copies, generator=torch.Generator().manual_seed(0))
    return FrameStack(inner, frames) if frames > 1 else inner


def test_states_are_spaced_evenly_over_the_episodes_put_in_a_row():
    lengths = np.array([3, 1, 6])
    np.testing.assert_array_equal(_evenly(lengths, 100), [(0, 0), (0, 1), (0, 2), (1, 0), *[(2, t) for t in range(6)]])
    np.testing.assert_array_equal(_evenly(lengths, 4), [(0, 0), (1, 0), (2, 2), (2, 5)])
    np.testing.assert_array_equal(_evenly(lengths, 1), [(0, 0)])


@pytest.mark.parametrize("copies", [(), (2,)])
@pytest.mark.parametrize("n_envs", [None, 3])
def test_they_are_what_the_policy_saw_in_these_episodes(copies, n_envs):
    found = visited(policy(copies), "test/Counting-v0", 25, episodes=7, seed=3, n_envs=n_envs)
    steps = list(play(policy(copies), "test/Counting-v0", 7, seed=3, n_envs=n_envs))
    for f, seen in enumerate(found):
        own = (lambda x: x[f]) if copies else (lambda x: x)  # noqa: B023
        true = {}
        for i, step in enumerate(steps):
            t = i - next(j for j, each in enumerate(steps) if each.first == step.first)
            true |= {(step.first + e, t): own(step.obs)[e] for e in np.flatnonzero(own(step.alive))}
        assert len(seen) == 25 and seen.memory is None
        for obs, episode, t in zip(seen.obs.numpy(), seen.episode.tolist(), seen.step.tolist(), strict=True):
            np.testing.assert_array_equal(obs, true[episode, t])
        gaps = np.diff([sorted(true).index(each) for each in zip(seen.episode.tolist(), seen.step.tolist(), strict=True)])
        assert gaps.max() - gaps.min() <= 1


def test_the_memory_is_that_of_the_frames_before():
    (seen,) = visited(policy(frames=3), "test/Counting-v0", 1000, episodes=4, seed=1)
    assert seen.memory is not None
    for i, t in enumerate(seen.step.tolist()):
        assert bool(seen.memory["started"][i]) == (t > 0)
        if t > 0:
            before = [max(0, t - 3), max(0, t - 2), t - 1]
            assert seen.memory["frames"][i, :, 1].tolist() == before and (seen.memory["frames"][i, :, 0] == seen.obs[i, 0]).all()


def test_misuse():
    with pytest.raises(ConfigError, match="states is 0"):
        visited(policy(), "test/Counting-v0", 0)
    with pytest.raises(ConfigError, match="episodes is 0"):
        visited(policy(), "test/Counting-v0", 3, episodes=0)


def test_an_environment_that_does_not_repeat_itself_is_said(monkeypatch):
    monkeypatch.setattr(Counting, "made", 0)
    monkeypatch.setattr(Counting, "reset", _shrinking)
    with pytest.raises(EnvError, match="played other episodes from the same seed"):
        visited(policy(), "test/Counting-v0", 1000, episodes=3)


def _shrinking(self, *, seed=None, options=None):
    Counting.made += 1
    self.last, self.t = max(1, 30 - 5 * Counting.made), 0
    return np.array([self.last, 0], np.float32), {}
