"""The packed log: columns, episodes, statistics, identity."""

import numpy as np
import pytest
import torch

from surefoot.data.log import Layout, Log, concatenate
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import DataError

BOX = Continuous((-1.0, -2.0), (1.0, 2.0))


def fields(n=10, seed=0, discrete=False):
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.standard_normal((n, 3)),
        "action": rng.integers(4, size=n) if discrete else rng.uniform(-1, 1, (n, 2)),
        "reward": rng.standard_normal(n),
        "next_obs": rng.standard_normal((n, 3)),
        "terminated": np.arange(n) == 3,
        "truncated": np.arange(n) == 6,
    }


def test_every_field_comes_back():
    f = fields()
    log = Log.from_arrays(**f, action_space=BOX)
    t = log.transitions
    assert len(log) == 10
    assert (log.layout.width, log.packed.shape, log.packed.dtype) == (10, (10, 10), torch.float32)
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(t, name).numpy(), f[name].astype(np.float32))
    assert t.obs.data_ptr() == log.packed.data_ptr()  # views: the log is held once


def test_discrete_actions_are_integers():
    f = fields(discrete=True)
    log = Log.from_arrays(**f, action_space=Discrete(4))
    assert log.transitions.action.dtype == torch.int64
    np.testing.assert_array_equal(log.transitions.action.numpy(), f["action"])
    rows = log.packed[torch.tensor([[1, 2], [3, 4]])]
    batch = log.layout.unpack(rows)
    assert (batch.obs.shape, batch.action.shape, batch.reward.shape) == ((2, 2, 3), (2, 2), (2, 2))


def test_episodes():
    f = fields()
    log = Log.from_arrays(**f, action_space=BOX)
    assert log.ends.tolist() == [False] * 3 + [True] + [False] * 2 + [True] + [False] * 2 + [True]  # the last row always ends one
    assert log.episode_starts.tolist() == [0, 4, 7]
    assert log.episode_ends.tolist() == [3, 6, 9]
    assert log.episode_lengths.tolist() == [4, 3, 3]
    r = f["reward"]
    np.testing.assert_allclose(log.episode_returns, [r[:4].sum(), r[4:7].sum(), r[7:].sum()], rtol=1e-6)
    assert log.episode_returns.dtype == np.float64
    assert Log.from_arrays(**(f | {"truncated": None}), action_space=BOX).episode_ends.tolist() == [3, 9]


def test_observation_statistics():
    f = fields(n=5000)
    f["obs"] = f["obs"] * [1.0, 10.0, 0.0] + [5.0, -3.0, 2.0]
    log = Log.from_arrays(**f, action_space=BOX)
    spec = log.spec()
    assert spec.obs_mean is not None
    assert spec.obs_std is not None
    np.testing.assert_allclose(spec.obs_mean.numpy(), f["obs"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(spec.obs_std.numpy()[:2], f["obs"].std(0)[:2] + 1e-3, rtol=1e-5)
    assert spec.obs_std[2] == 1.0  # a constant feature is left as it is
    assert log.spec(scale_obs=False) == Spec((3,), BOX)


def test_statistics_of_many_pieces_are_those_of_the_whole():
    n = (1 << 18) * 2 + 17
    obs = np.random.default_rng(0).standard_normal((n, 1)).astype(np.float32) + 100.0
    log = Log.from_arrays(obs, np.zeros(n), np.zeros(n), obs, np.zeros(n, bool), action_space=Discrete(1))
    spec = log.spec()
    np.testing.assert_allclose(spec.obs_mean, obs.mean(0, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(spec.obs_std, obs.std(0, dtype=np.float64) + 1e-3, rtol=1e-6)


def test_fingerprint_tells_contents_apart():
    f = fields()
    one = Log.from_arrays(**f, action_space=BOX).fingerprint
    assert Log.from_arrays(**f, action_space=BOX, source="elsewhere").fingerprint == one
    assert Log.from_arrays(**f, action_space=Continuous((-1.0, -2.0), (1.0, 3.0))).fingerprint != one
    assert Log.from_arrays(**(f | {"truncated": np.arange(10) == 5}), action_space=BOX).fingerprint != one
    f["reward"][9] += 1e-3
    assert Log.from_arrays(**f, action_space=BOX).fingerprint != one


def test_parts_and_joins():
    log = Log.from_arrays(**fields(), action_space=BOX)
    part = log.select(np.array([4, 5, 6]), np.array([False, False, True]))
    torch.testing.assert_close(part.transitions.obs, log.transitions.obs[4:7])
    both = concatenate([log, part], "both")
    assert (len(both), both.source, both.episode_lengths.tolist()) == (13, "both", [4, 3, 3, 3])
    other = Log.from_arrays(**fields(discrete=True), action_space=Discrete(4))
    with pytest.raises(DataError, match="cannot be joined"):
        concatenate([log, other], "both")


def test_shapes_must_agree():
    f = fields()
    with pytest.raises(DataError, match="'action' has 5 rows, but 'reward' has 10"):
        Log.from_arrays(**(f | {"action": f["action"][:5]}), action_space=BOX)
    with pytest.raises(DataError, match="no transitions"):
        Log.from_arrays(**{k: v[:0] for k, v in f.items()}, action_space=BOX)


def test_observations_keep_their_shape():
    f = fields()
    f["obs"], f["next_obs"] = np.zeros((10, 2, 3)), np.ones((10, 2, 3))
    log = Log.from_arrays(**f, action_space=BOX)
    assert (log.obs_shape, log.layout) == ((2, 3), Layout(6, 2, False))
