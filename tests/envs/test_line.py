"""The line world: its dynamics, its limits, and that Gymnasium accepts it."""

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

import surefoot.envs


def test_it_is_an_environment_of_gymnasium():
    assert surefoot.envs is not None
    check_env(gym.make("surefoot/Line-v0").unwrapped, skip_render_check=True)


def test_full_speed_reaches_the_goal_in_18_steps_and_the_limit_truncates():
    env = gym.make("surefoot/Line-v0")
    obs, _ = env.reset(seed=0)
    assert 0.0 <= obs[0] <= 2.0
    total, start = 0.0, obs[0]
    for step in range(1, 31):
        obs, reward, terminated, truncated, _ = env.step(np.array([2.0], np.float32))  # clipped to 1
        total += reward
        assert not terminated and truncated == (step == 30)
        assert step < 18 or obs[0] >= 9.0
    assert obs[0] == 10.0
    np.testing.assert_allclose(total, (10.0 - start) / 0.5, rtol=1e-5)
