"""Minari data sets: one that Minari's own collector recorded, ours written and read back, and what cannot be read."""

import os
import warnings

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from minari.data_collector.episode_buffer import EpisodeBuffer

from surefoot.data.log import Log
from surefoot.data.metadata import WARNINGS
from surefoot.data.readers import read_log
from surefoot.data.spec import Continuous, Discrete
from surefoot.data.writers import write_log
from surefoot.errors import DataError, EnvError
from surefoot.evaluation.recording import record
from surefoot.recipes.pendulum import mixed_log


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Local data sets in a folder of the test's own; nothing is ever downloaded."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("minari.storage.hosting.download_dataset", refused)
    warnings.filterwarnings("ignore", module="minari")
    return tmp_path / "minari"


def refused(dataset_id):
    print(f"Downloading {dataset_id}")  # as Minari does, on standard output
    raise ConnectionError("no network")


def collected(env_id: str, name: str, data_format: str = "hdf5", steps: int = 40) -> tuple[minari.MinariDataset, list[list]]:
    """What Minari's DataCollector records of random play, and the same steps as they happened."""
    env = minari.DataCollector(gym.make(env_id, max_episode_steps=25), data_format=data_format)
    rng = np.random.default_rng(0)
    episodes: list[list] = []
    obs, _ = env.reset(seed=0)
    episodes.append([])
    for _ in range(steps):
        space = env.action_space
        action = (
            int(rng.integers(space.n)) if isinstance(space, gym.spaces.Discrete) else rng.uniform(space.low, space.high).astype(np.float32)
        )
        next_obs, reward, terminated, truncated, _ = env.step(action)
        episodes[-1].append((obs, action, reward, next_obs, terminated, truncated))
        obs = next_obs
        if terminated or truncated:
            obs, _ = env.reset()
            episodes.append([])
    return env.create_dataset(name), [episode for episode in episodes if episode]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_recording_of_minari(env_id, data_format):
    dataset, episodes = collected(env_id, "group/test-v0", data_format)
    log = read_log("minari:group/test-v0")
    assert len(log) == dataset.total_steps == 40
    assert log.episode_lengths.tolist() == [len(episode) for episode in episodes]
    rows = [step for episode in episodes for step in episode]
    t = log.transitions
    for i, (name, values) in enumerate(zip(("obs", "action", "reward", "next_obs", "terminated"), zip(*rows, strict=True), strict=False)):
        expected = torch.as_tensor(np.array(values).astype(np.int64 if name == "action" and env_id == "CartPole-v1" else np.float32))
        torch.testing.assert_close(getattr(t, name), expected, rtol=0, atol=0, msg=f"{name} {i}")
    assert log.env_id == env_id
    assert log.action == (Discrete(2) if env_id == "CartPole-v1" else Continuous((-2.0,), (2.0,)))
    assert WARNINGS not in log.notes
    assert read_log("minari:group/test-v0", env_id=env_id).fingerprint == log.fingerprint
    with pytest.raises(EnvError, match="Acrobot-v1"):
        read_log("minari:group/test-v0", env_id="Acrobot-v1")


@pytest.mark.parametrize(
    "log", [mixed_log(seed=1, good=1, random=1), record("random", "CartPole-v1", episodes=9, seed=0, max_steps=15)], ids=["box", "discrete"]
)
def test_ours_is_read_back_bit_for_bit_and_by_minari(log, root):
    write_log(log, "minari:mine/sub/log-v2")
    again = read_log("minari:mine/sub/log-v2")
    assert again.fingerprint == log.fingerprint
    assert (again.action, again.env_id, again.notes) == (log.action, log.env_id, log.notes)
    dataset = minari.load_dataset("mine/sub/log-v2")
    assert (dataset.total_steps, dataset.total_episodes) == (len(log), len(log.episode_ends))
    assert [len(episode) for episode in dataset] == log.episode_lengths.tolist()
    assert [bool(episode.truncations[-1]) for episode in dataset] == (log.transitions.terminated[log.episode_ends] == 0).tolist()
    assert dataset.env_spec is not None
    assert dataset.env_spec.id == log.env_id
    assert list(minari.list_local_datasets()) == ["mine/sub/log-v2"]
    assert sorted(path.name for path in (root / "mine" / "sub").iterdir()) == ["log-v2", "namespace_metadata.json"]
    with pytest.raises(DataError, match="exists already"):
        write_log(log, "minari:mine/sub/log-v2")


def test_a_log_without_an_environment(root):
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((6, 2, 2))
    log = Log.from_arrays(
        obs[:5],
        rng.uniform(0, 1, (5, 1)),
        rng.standard_normal(5),
        obs[1:],
        np.zeros(5, bool),
        action_space=Continuous((0.0,), (1.0,)),
        env_id="Not-v9",
    )
    write_log(log, "minari:own-v0")
    again = read_log("minari:own-v0")
    assert (again.obs_shape, again.fingerprint, again.env_id) == ((2, 2), log.fingerprint, "Not-v9")
    jumpy = Log.from_arrays(obs[:5], np.zeros((5, 1)), np.zeros(5), obs[:5], np.zeros(5, bool), action_space=log.action)
    with pytest.raises(DataError, match="not always the obs of the next row"):
        write_log(jumpy, "minari:jumpy-v0")
    assert sorted(path.name for path in root.iterdir()) == ["own-v0"]


def test_nothing_is_left_of_a_failed_write(root, monkeypatch):
    monkeypatch.setattr("minari.create_dataset_from_buffers", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_log(mixed_log(seed=1, good=1, random=1), "minari:mine/log-v0")
    assert [path for path in root.rglob("*") if path.name != "mine"] == []
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


def test_unknown_ids_offer_the_nearest(capsys):
    with pytest.raises(DataError, match=r"'hopper/medium-v0' cannot be opened \(no network\); there are no local ones"):
        read_log("minari:hopper/medium-v0")
    assert capsys.readouterr().out == ""  # what Minari prints goes to stderr
    write_log(mixed_log(seed=1, good=1, random=1), "minari:pendulum/mixed-v0")
    with pytest.raises(DataError, match=r"'pendulm/mixed-v0' .* local ones: pendulum/mixed-v0"):
        read_log("minari:pendulm/mixed-v0")
    for wrong in ("pendulum", "../../etc-v0", ""):
        with pytest.raises(DataError, match="no Minari id"):
            read_log(f"minari:{wrong}")
        with pytest.raises(DataError, match="no Minari id"):
            write_log(mixed_log(seed=1, good=1, random=1), f"minari:{wrong}")


def created(name, observations, actions, obs_space, action_space):
    steps = len(actions)
    buffer = EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=np.arange(steps, dtype=np.float32),
        terminations=np.zeros(steps, bool),
        truncations=np.arange(steps) == steps - 1,
    )
    minari.create_dataset_from_buffers(name, [buffer], observation_space=obs_space, action_space=action_space)


VECTOR, STEER = gym.spaces.Box(-9, 9, (2,), np.float32), gym.spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    ("obs_space", "action_space", "words"),
    [
        (gym.spaces.Dict(x=VECTOR), STEER, "observations are a Dict, not a Box"),
        (gym.spaces.Discrete(5), STEER, "observations are a Discrete, not a Box"),
        (gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), STEER, "observations are images"),
        (VECTOR, gym.spaces.MultiDiscrete([2, 3]), "only a flat Box and Discrete"),
    ],
)
def test_spaces_that_cannot_be_learned_from(obs_space, action_space, words):
    obs = [obs_space.sample() for _ in range(5)]
    observations = {"x": np.stack([o["x"] for o in obs])} if isinstance(obs_space, gym.spaces.Dict) else np.stack(obs)
    created("odd-v0", observations, np.stack([action_space.sample() for _ in range(4)]), obs_space, action_space)
    with pytest.raises(DataError, match=words):
        read_log("minari:odd-v0")


def test_a_box_without_bounds_is_guessed_and_bad_numbers_are_named():
    free = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    obs, action = np.ones((5, 2), np.float32), np.linspace(-3, 3, 4, dtype=np.float32)[:, None]
    created("free-v0", obs, action, VECTOR, free)
    log = read_log("minari:free-v0")
    assert log.action == Continuous((-3.0,), (3.0,))
    assert "taken to be" in log.notes[WARNINGS]
    obs = obs.copy()
    obs[2, 1] = np.nan
    created("nan-v0", obs, action, VECTOR, free)
    with pytest.raises(DataError, match="'observations' is nan in row 2, feature 1"):
        read_log("minari:nan-v0")
    created("far-v0", np.ones((5, 2), np.float32), action, VECTOR, STEER)
    with pytest.raises(DataError, match=r"'action' is -3 in row 0, dimension 0, outside \[-1, 1\]"):
        read_log("minari:far-v0")


def test_a_download_that_needs_its_package_says_so(monkeypatch):
    def lacking(dataset_id):
        raise ImportError('huggingface_hub is not installed. Please install it using `pip install "minari[hf]"`')

    monkeypatch.setattr("minari.storage.hosting.download_dataset", lacking)
    with pytest.raises(DataError, match=r"needs huggingface_hub: pip install 'surefoot\[minari\]'"):
        read_log("minari:hopper/medium-v0")
