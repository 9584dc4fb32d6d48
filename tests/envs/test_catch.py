"""Catch: its rules, its picture, and that it can be won."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from surefoot.envs.catch import GREY, LEFT, RIGHT, SIZE, STAY, TEXTURE, WIDTH
from surefoot.envs.making import env_spaces, make_env


@pytest.fixture
def env():
    env = make_env("surefoot/Catch-v0")
    yield env
    env.close()


def played(env, seed, choose):
    """Observations and the last reward of an episode."""
    obs, _ = env.reset(seed=seed)
    shown, done = [obs], False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(choose(env.unwrapped))
        shown.append(obs)
        done = terminated or truncated
        assert done or reward == 0.0
    assert terminated
    return shown, reward


def test_it_is_a_gymnasium_environment():
    check_env(gym.make("surefoot/Catch-v0").unwrapped, skip_render_check=True)
    assert env_spaces("surefoot/Catch-v0").obs_shape == (2, SIZE, SIZE)


def test_following_the_ball_wins_and_standing_still_does_not_always(env):
    def follow(catch):
        return STAY + int(np.sign(catch.column + catch.drift - catch.paddle))

    assert np.mean([played(env, seed, follow)[1] for seed in range(200)]) == 1.0
    assert -0.8 < np.mean([played(env, seed, lambda _: STAY)[1] for seed in range(200)]) < 0.2


def test_the_picture_shows_ball_paddle_and_texture(env):
    shown, _ = played(env, 3, lambda _: RIGHT)
    assert len(shown) == SIZE
    for t, (older, newer) in enumerate(shown):
        assert np.array_equal(older, shown[max(t - 1, 0)][1])  # the last two frames, the first one twice
        rest = newer.copy()
        if t < SIZE - 1:
            (column,) = np.flatnonzero(newer[t] == 1.0)  # the ball is on row t
            rest[t, column] = TEXTURE[t, column]
            paddle = np.flatnonzero(newer[-1] == 1.0)
            assert paddle.tolist() == list(range(paddle[0], paddle[0] + WIDTH))
            assert paddle.mean() == min(SIZE // 2 + t, SIZE - 2)
        rest[-1] = TEXTURE[-1]
        assert np.array_equal(rest[:-1], TEXTURE[:-1])
    assert set(np.unique(TEXTURE)) == {np.float32(0.0), np.float32(GREY)}


def test_the_drift_is_constant_but_for_walls(env):
    for seed in range(100):
        shown, _ = played(env, seed, lambda _: LEFT)
        columns = [int(np.flatnonzero(s[1][t] == 1.0)[0]) for t, s in enumerate(shown[:-1])]
        moves = np.diff(columns)
        assert np.abs(moves).max() <= 1
        changed = np.flatnonzero(np.diff(moves)) + 1  # the ball was at a wall where its drift changed
        assert all(columns[t] in (0, SIZE - 1) for t in changed)


def test_the_seed_decides(env):
    again = [played(env, 7, lambda _: STAY)[0] for _ in range(2)]
    assert np.array_equal(*again)
    starts = {played(env, seed, lambda _: STAY)[0][0].tobytes() for seed in range(100)}
    assert len(starts) == SIZE
