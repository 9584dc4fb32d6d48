"""Fresh segments: what is stored of each step, true last observations, and resumes that are bit for bit."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.rollouts import Rollouts
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, DivergedError, EnvError
from surefoot.policies.families import Categorical, NormalPolicy


class Counter(gym.Env):
    """Shows (steps of this episode, its seed's number); terminates after 4 steps where its number is even, else never."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.label = 0, float(seed % 9973)
        return np.array([0.0, self.label]), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t, self.label]), float(action), self.label % 2 == 0 and self.t >= 4, False, {}


gym.register("rollouts/Counter-v0", entry_point=Counter, max_episode_steps=6)


def source(copies=(), n_envs=3, n_steps=10, seed=0):
    actor = Categorical(Spec((2,), Discrete(3)), (8,), copies, generator=torch.Generator().manual_seed(0))
    return Rollouts("rollouts/Counter-v0", actor, n_steps, copies=copies, n_envs=n_envs, seed=seed)


def test_steps_are_stored_as_they_were():
    whole = source()
    batches = [next(whole) for _ in range(4)]
    obs, next_obs, ended = (torch.cat([getattr(b, name) for b in batches]) for name in ("obs", "next_obs", "ended"))
    terminated, reward, action = (torch.cat([getattr(b, name) for b in batches]) for name in ("terminated", "reward", "action"))
    assert obs.shape == (40, 3, 2) and ended.shape == (40, 3)
    torch.testing.assert_close(reward, action.float())
    torch.testing.assert_close(next_obs[..., 0], obs[..., 0] + 1.0)  # the true next one, at ends too
    torch.testing.assert_close(next_obs[..., 1], obs[..., 1])
    goes_on = ended[:-1] == 0.0
    torch.testing.assert_close(obs[1:][goes_on], next_obs[:-1][goes_on])  # across batches too
    assert (obs[1:][~goes_on][:, 0] == 0.0).all()
    even = obs[..., 1] % 2 == 0
    torch.testing.assert_close(terminated, ((next_obs[..., 0] == 4) & even).float())
    torch.testing.assert_close(ended, (((next_obs[..., 0] == 4) & even) | (next_obs[..., 0] == 6)).float())
    assert terminated.sum() > 0 and ended.sum() > terminated.sum()


def test_members_have_their_own_environments():
    fleet = source(copies=(2,), n_envs=2)
    batch = next(fleet)
    assert batch.obs.shape == (2, 10, 2, 2) and batch.action.shape == batch.reward.shape == (2, 10, 2)
    assert len(set(batch.obs[:, 0, :, 1].flatten().tolist())) == 4
    metrics = fleet.metrics()
    assert metrics["train/env_steps"] == [20.0, 20.0]


@pytest.mark.parametrize("copies", [(), (2,)], ids=["lone", "fleet"])
def test_a_resumed_source_equals_the_uninterrupted_one(copies):
    whole = source(copies)
    next(whole)
    state = whole.state_dict()
    expected = [next(whole) for _ in range(2)]
    again = source(copies)
    next(again), next(again)
    again.load_state_dict(state)
    for batch in expected:
        got = next(again)
        assert all(torch.equal(getattr(got, name), value) for name, value in vars(batch).items())
    assert again.metrics() == whole.metrics()


def test_draws_are_kept_as_drawn_and_taken_clipped():
    class Wild(NormalPolicy):
        def draw(self, obs, generator=None):
            return torch.full((*obs.shape[:-1], 1), 7.0)

    actor = Wild(Spec((3,), Continuous((-2.0,), (2.0,))), (8,))
    batch = next(Rollouts("Pendulum-v1", actor, 3))
    assert (batch.action == 7.0).all() and actor.taken(batch.action).max() == 2.0


def test_misuse_is_one_sentence():
    actor = Categorical(Spec((2,), Discrete(3)), (8,))
    with pytest.raises(ConfigError, match="n_steps is 0"):
        Rollouts("rollouts/Counter-v0", actor, 0)
    with pytest.raises(ConfigError, match="they must agree"):
        Rollouts("rollouts/Counter-v0", actor, 4, copies=(2,))
    with pytest.raises(EnvError, match="observations of shape"):
        Rollouts("CartPole-v1", actor, 4)
    broken = NormalPolicy(Spec((3,), Continuous((-2.0,), (2.0,))), (8,))
    with torch.no_grad():
        broken.net.biases[-1].fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite"):
        next(Rollouts("Pendulum-v1", broken, 4))
