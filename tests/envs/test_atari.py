"""Atari: names, what is shown, rewards, and episodes that their seed decides."""

import builtins

import numpy as np
import pytest

from surefoot.envs.atari import GAMES, STEPS, rom_name
from surefoot.envs.making import env_spaces, env_spec, make_env
from surefoot.errors import MissingExtraError, UnknownNameError

pytest.importorskip("ale_py")
PONG = "surefoot/AtariPong-v0"


@pytest.fixture(scope="module")
def pong():
    env = make_env(PONG, disable_env_checker=True)
    yield env
    env.close()


def played(env, seed, steps=40):
    actions = np.random.default_rng(0).integers(env.action_space.n, size=steps)
    obs, _ = env.reset(seed=seed)
    return np.stack([obs, *(env.step(int(action))[0] for action in actions)])


def test_every_game_has_its_rom():
    from ale_py import roms

    assert len(GAMES) == 57
    assert not set(map(rom_name, GAMES)) - set(roms.get_all_rom_ids())
    assert [rom_name(game) for game in ("RoadRunner", "UpNDown", "Pong")] == ["road_runner", "up_n_down", "pong"]
    assert all(env_spec(f"surefoot/Atari{game}-v0").max_episode_steps == STEPS for game in GAMES)


def test_four_grey_frames_in_the_unit_range_the_newest_last(pong):
    spec = env_spaces(PONG)
    assert (spec.obs_shape, spec.n_actions) == ((4, 84, 84), 6)
    shown = played(pong, 1)
    assert shown.dtype == np.float32
    assert 0.0 <= shown.min() < 0.5 < shown.max() <= 1.0
    assert pong.observation_space.contains(shown[-1])
    assert np.array_equal(shown[1:, :-1], shown[:-1, 1:])  # a stack moves on by one frame a step
    assert not np.array_equal(shown[-1, -1], shown[-1, 0])


def test_the_seed_decides(pong):
    first, other, again = (played(pong, seed) for seed in (1, 2, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(played(pong, None), played(pong, None))  # without a seed each game is another


def test_rewards_are_the_game_s_own():
    """Asteroids pays tens and more: nothing is clipped."""
    env = make_env("surefoot/AtariAsteroids-v0", disable_env_checker=True)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    rewards = [env.step(int(rng.integers(env.action_space.n)))[1] for _ in range(150)]
    env.close()
    assert max(rewards) >= 10.0


def test_without_the_package_the_sentence_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("ale_py"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"surefoot\[atari\]"):
        make_env(PONG)


def test_unknown_games_have_a_nearest_one():
    with pytest.raises(UnknownNameError, match="surefoot/AtariPong-v0"):
        make_env("surefoot/AtariPongg-v0")
