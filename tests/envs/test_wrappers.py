"""Observation noise: its size, its own seeds, and an environment that plays on as if there were none."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.wrappers import NoisyObservation
from surefoot.errors import ConfigError, EnvError


def observations(env, seed, n):
    """The observations of n steps of random but fixed actions, new episodes with fresh seeds."""
    rng = np.random.default_rng(0)
    shown = [env.reset(seed=seed)[0]]
    for i in range(n):
        obs, _, terminated, truncated, _ = env.step(rng.uniform(-2, 2, 1).astype(np.float32))
        shown.append(obs)
        if terminated or truncated:
            shown.append(env.reset(seed=seed + i + 1)[0])
    return np.array(shown)


def test_noise_is_gaussian_of_that_size_and_leaves_the_environment_alone():
    clean = observations(gym.make("Pendulum-v1"), 3, 2000)
    noisy = observations(NoisyObservation(gym.make("Pendulum-v1"), 0.5), 3, 2000)
    noise = noisy - clean
    assert noisy.dtype == np.float32
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    assert abs((np.abs(noise) < 0.5).mean() - 0.6827) < 0.03
    flat = noise.reshape(-1)
    assert abs(np.corrcoef(flat[:-3], flat[3:])[0, 1]) < 0.06  # fresh for each frame


def test_the_same_seed_brings_the_same_noise_and_another_seed_other_noise():
    env = NoisyObservation(gym.make("Pendulum-v1"), 0.5)
    first = observations(env, 3, 50)
    np.testing.assert_array_equal(observations(env, 3, 50), first)
    np.testing.assert_array_equal(observations(NoisyObservation(gym.make("Pendulum-v1"), 0.5), 3, 50), first)
    assert not np.isclose(observations(env, 4, 50), first).any()
    env.reset(seed=3)
    assert not np.array_equal(env.reset()[0], env.reset()[0])  # a reset without a seed goes on with the stream


def test_noise_is_not_the_environments_own_randomness():
    env = NoisyObservation(gym.make("CartPole-v1"), 1.0)
    clean = gym.make("CartPole-v1")
    noise = [env.reset(seed=s)[0] - clean.reset(seed=s)[0] for s in range(300)]
    start = [clean.reset(seed=s)[0] for s in range(300)]
    assert abs(np.corrcoef(np.ravel(noise), np.ravel(start))[0, 1]) < 0.12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_sigma_zero_changes_nothing(seed):
    np.testing.assert_array_equal(
        observations(NoisyObservation(gym.make("Pendulum-v1"), 0.0), seed, 5), observations(gym.make("Pendulum-v1"), seed, 5)
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # the checker's advice on style
def test_the_space_is_unbounded_and_integers_become_floats():
    class Pixels(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (2, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.full((2, 3), 255, np.uint8), {}

        def step(self, action):
            return np.full((2, 3), 255, np.uint8), 0.0, False, False, {}

    env = NoisyObservation(Pixels(), 12.0)
    obs = env.reset(seed=0)[0]
    assert obs.dtype == np.float32
    assert env.observation_space.contains(obs)
    assert obs.max() > 255.0
    assert env.step(0)[0].dtype == np.float32
    check_env(NoisyObservation(gym.make("Pendulum-v1").unwrapped, 0.5), skip_render_check=True)


def test_misuse():
    for sigma in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="standard deviation"):
            NoisyObservation(gym.make("Pendulum-v1"), sigma)
    with pytest.raises(EnvError, match="not a Box"):
        NoisyObservation(gym.make("FrozenLake-v1"), 0.1)
