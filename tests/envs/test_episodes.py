"""Running episodes: seeds of their own, true last observations, and a state that is a seed and the actions since."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.episodes import RECENT, Episodes
from surefoot.errors import EnvError, UnknownNameError


class Labelled(gym.Env):
    """Shows (steps of this episode, a number of its seed); terminated after 2 to 5 steps; rewards its steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    first = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.t, self.label = int(self.np_random.integers(2, 6)), 0, float(seed % 9973)
        return np.array([self.first, self.label]), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t, self.label]), float(self.t), self.t >= self.left, False, {}


class Infinite(Labelled):
    first = np.inf


gym.register("episodes/Labelled-v0", entry_point=Labelled, max_episode_steps=4)
gym.register("episodes/Infinite-v0", entry_point=Infinite, max_episode_steps=4)


def test_the_last_observation_is_the_episodes_own_and_the_next_begins():
    run = Episodes("episodes/Labelled-v0", members=2, slots=3, seed=1)
    assert len(run) == 6
    labels, ends = set(run.obs[:, 1]), []
    for _ in range(50):
        before = run.obs.copy()
        run.step(np.zeros(6, np.int64))
        assert (run.next_obs[:, 0] == before[:, 0] + 1).all()
        assert (run.next_obs[:, 1] == before[:, 1]).all()
        assert (run.obs[run.ended, 0] == 0).all()
        assert (run.obs[~run.ended] == run.next_obs[~run.ended]).all()
        assert (run.ended == (run.terminated | (run.next_obs[:, 0] == 4))).all()
        labels |= set(run.obs[run.ended, 1])
        ends += run.terminated[run.ended].tolist()
    assert 0 < np.mean(ends) < 1  # some episodes were cut off at 4 steps, where one that would end there is terminated
    assert len(labels) == len(ends) + 6  # no seed twice, in any environment of any member
    assert run.finished.sum() == len(ends)


def test_returns_of_the_newest_episodes():
    run = Episodes("episodes/Labelled-v0", seed=0)
    assert np.isnan(run.recent_returns()).all()
    returns, total = [], 0.0
    while len(returns) < RECENT + 30:
        run.step(np.zeros(1, np.int64))
        total += run.reward[0]
        if run.ended[0]:
            returns.append(total)
            total = 0.0
        if returns:
            assert run.recent_returns()[0] == pytest.approx(np.mean(returns[-RECENT:]))


@settings(max_examples=20, deadline=None)
@given(before=st.integers(0, 60), after=st.integers(0, 60), seed=st.integers(0, 2**31), noise=st.sampled_from([0.0, 0.3]))
def test_a_loaded_state_goes_on_bit_for_bit(before, after, seed, noise):
    options = {"members": 2, "slots": 2, "seed": seed, "frame_stack": 2, "noise": noise}
    run, other = Episodes("CartPole-v1", **options), Episodes("CartPole-v1", **options)
    rng = np.random.default_rng(seed)
    for _ in range(before):
        run.step(rng.integers(0, 2, 4))
    for _ in range(7):
        other.step(np.ones(4, np.int64))
    assert other.load_state_dict(run.state_dict(), run.obs) == []
    for _ in range(after):
        action = rng.integers(0, 2, 4)
        run.step(action)
        other.step(action)
        for name in ("obs", "next_obs", "reward", "terminated", "ended", "returns", "ages", "episodes"):
            np.testing.assert_array_equal(getattr(run, name), getattr(other, name))


def test_an_environment_that_does_not_come_back_begins_afresh_and_says_so():
    run, other = (Episodes("episodes/Labelled-v0", slots=2, seed=0) for _ in range(2))
    run.step(np.zeros(2, np.int64))
    shown = run.obs.copy()
    shown[1, 1] += 1.0
    with pytest.warns(UserWarning, match=r"episodes/Labelled-v0.* did not come back"):
        assert other.load_state_dict(run.state_dict(), shown) == [1]
    assert other.ages.tolist() == [1, 0]
    assert other.episodes.tolist() == [0, 1]


def test_misuse():
    with pytest.raises(UnknownNameError):
        Episodes("episodes/Labeled-v0")
    with pytest.raises(EnvError, match="not finite"):
        Episodes("episodes/Infinite-v0")
