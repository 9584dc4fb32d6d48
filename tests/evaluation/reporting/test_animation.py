"""Moving pictures of an episode: drawn by a child process whose troubles stay its own."""

import base64
import subprocess
from io import BytesIO

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import EnvError
from surefoot.evaluation.reporting import animation
from surefoot.evaluation.reporting.animation import Episode, film, play_episode
from surefoot.policies.families import Categorical, Deterministic

PENDULUM = Spec((3,), Continuous((-2.0,), (2.0,)))


def picture(address):
    kind, content = address.split(";base64,")
    assert kind.startswith("data:image/")
    return Image.open(BytesIO(base64.b64decode(content)))


def test_an_episode_can_be_replayed_from_its_actions():
    episode = play_episode(Deterministic(PENDULUM, (8,)), "Pendulum-v1", seed=3, max_steps=15)
    env = gym.make("Pendulum-v1")
    obs, _ = env.reset(seed=3)
    for t, action in enumerate(episode.action):
        assert np.array_equal(obs, episode.obs[t])
        obs, reward, *_ = env.step(action)
        assert reward == episode.reward[t]
    assert len(episode.obs) == 16 and np.array_equal(obs, episode.obs[-1])


def test_discrete_actions_and_early_ends():
    policy = Categorical(Spec((4,), Discrete(2)), (8,))
    with torch.no_grad():
        for p in policy.parameters():
            p.zero_()  # always to the left
    episode = play_episode(policy, "CartPole-v1", seed=0)
    assert len(episode.reward) < 15 and (episode.action == 0).all()


def test_a_clip_moves_and_stays_within_its_size():
    episode = play_episode(Deterministic(PENDULUM, (8,)), "Pendulum-v1", seed=3, max_steps=30)
    clip = film(episode, most_bytes=20_000)
    moving, still = picture(clip.moving), picture(clip.still)
    assert moving.n_frames > 5 and moving.size == still.size == (clip.width, clip.height)
    assert len(clip.moving) * 3 / 4 < 20_000 and clip.whole and clip.seconds == pytest.approx(1.0)


def episode_of(env_id):
    return Episode(env_id, 0, 5, np.zeros((6, 3)), np.zeros((5, 1)), np.zeros(5))


def test_an_environment_that_cannot_be_drawn_says_why():
    with pytest.raises(EnvError, match=r"surefoot/Line-v0 could not be drawn here \(it offers no render mode rgb_array\)"):
        film(Episode("surefoot/Line-v0", 0, 5, np.zeros((6, 2)), np.zeros((5, 2), np.float32), np.zeros(5)))


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (subprocess.CompletedProcess([], -11, "", ""), "crashed with signal 11"),
        (subprocess.CompletedProcess([], 1, "", "noise\nmujoco.FatalError: no OpenGL\n"), "FatalError: no OpenGL"),
        (subprocess.CompletedProcess([], 0, "", ""), "ended with code 0"),
        (subprocess.TimeoutExpired([], 1.0), "took longer"),
    ],
)
def test_whatever_becomes_of_the_child_it_is_a_sentence(monkeypatch, outcome, sentence):
    def run(*args, **kwargs):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(animation.subprocess, "run", run)
    with pytest.raises(EnvError, match=sentence):
        film(episode_of("Pendulum-v1"))
