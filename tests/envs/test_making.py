"""Environments by name, and the environment to learn in: what a policy sees there is what its wrappers show it later."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.spec import Discrete, Spec
from surefoot.envs.making import env_spaces, make_env, time_limit, training_env
from surefoot.errors import ConfigError, EnvError, UnknownNameError
from surefoot.policies.base import Policy
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed


class Watching(Policy):
    """Pushes right every third step, and keeps what it saw."""

    def __init__(self, obs_dim):
        super().__init__()
        self.spec, self.seen = Spec((obs_dim,), Discrete(2)), []

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        self.seen.append(obs[0].clone())
        return torch.tensor([int(len(self.seen) % 3 == 0)]), memory


def shown(env, policy, episodes):
    """Plays episodes seeded 0, 1, …; policies with memory start it afresh."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for seed in range(episodes):
            obs, memory, done = env.reset(seed=seed)[0], policy.start(1), False
            while not done:
                action, memory = policy.act(torch.from_numpy(obs)[None], memory, generator=generator)
                obs, _, terminated, truncated, _ = env.step(int(action))
                done = terminated or truncated


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_policy_sees_in_training_what_a_frame_stack_shows_it_later(k):
    inner, outer = Watching(4 * k), Watching(4 * k)
    shown(training_env("CartPole-v1", frame_stack=k), inner, 3)
    shown(make_env("CartPole-v1"), FrameStack(outer, k), 3)
    assert len(inner.seen) == len(outer.seen) > 20
    assert torch.equal(torch.stack(inner.seen), torch.stack(outer.seen))


def test_noise_is_drawn_once_a_frame_and_stacked_as_smoothing_stacks_it():
    k, sigma = 3, 0.2
    trained, smoothed, clean = Watching(4 * k), Watching(4 * k), Watching(4 * k)
    shown(training_env("CartPole-v1", frame_stack=k, noise=sigma), trained, 30)
    shown(make_env("CartPole-v1"), Smoothed(FrameStack(smoothed, k), sigma), 30)
    shown(training_env("CartPole-v1", frame_stack=k), clean, 30)
    noises = []
    for policy in (trained, smoothed):
        seen, true = torch.stack(policy.seen), torch.stack(clean.seen)
        noise = (seen - true).unflatten(-1, (k, 4))
        first = (noise == noise[:, :1]).all(-1).all(-1)  # an episode's first frame, k times with one noise
        assert first.sum() == 30
        assert torch.equal(seen[1:, :-4][~first[1:]], seen[:-1, 4:][~first[1:]])  # older frames keep their noise
        newest = noise[:, -1]
        assert newest.std().item() == pytest.approx(sigma, rel=0.05)
        noises.append(newest)
    assert not torch.equal(*noises)


def test_shapes_limits_and_what_is_left_alone():
    env = training_env("CartPole-v1", frame_stack=5, noise=0.2, max_steps=7)
    assert env.observation_space.shape == (20,)
    env.reset(seed=0)
    ends = [env.step(i % 2)[2:4] for i in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]  # a time limit truncates
    assert training_env("Pendulum-v1").observation_space == gym.make("Pendulum-v1").observation_space
    assert env_spaces("Pendulum-v1").obs_shape == (3,)
    assert time_limit("CartPole-v1") == 500
    assert time_limit("CartPole-v1", 200) == 200


def test_noise_does_not_change_how_the_environment_plays():
    clean, noisy = training_env("Pendulum-v1"), training_env("Pendulum-v1", noise=1.0)
    clean.reset(seed=5)
    noisy.reset(seed=5)
    rewards = [(clean.step(a)[1], noisy.step(a)[1]) for a in np.linspace(-2, 2, 40, dtype=np.float32)[:, None]]
    assert all(x == y for x, y in rewards)


def test_misuse():
    with pytest.raises(ConfigError, match="at least 1 frame"):
        training_env("CartPole-v1", frame_stack=0)
    for noise in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="noise is"):
            training_env("CartPole-v1", noise=noise)
    with pytest.raises(ConfigError, match="max_steps"):
        training_env("CartPole-v1", max_steps=0)
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        training_env("CartPol-v1")
    with pytest.raises(EnvError, match="no_such_module"):
        make_env("no_such_module:Thing-v0")

    class Endless(gym.Env):
        observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Discrete(2)

    gym.register("test/NoLimit-v0", entry_point=Endless)
    with pytest.raises(EnvError, match="no time limit"):
        training_env("test/NoLimit-v0")
