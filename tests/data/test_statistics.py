"""Counts, returns and ranges of a log, against numpy on the whole arrays."""

import json

import numpy as np
import pytest

from surefoot.data import validation
from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Spec
from surefoot.data.statistics import ranges, statistics, summary
from surefoot.errors import DataError, EnvError
from surefoot.evaluation.recording import record
from surefoot.recipes.pendulum import mixed_log


def test_counts_and_returns():
    log = record("random", "CartPole-v1", episodes=60, seed=0, max_steps=25)
    found = statistics(log)
    assert (found.transitions, found.episodes) == (len(log), 60)
    terminal = log.transitions.terminated[log.episode_ends].numpy()
    assert (found.terminated, found.truncated) == (int(terminal.sum()), int((1 - terminal).sum()))
    assert min(found.terminated, found.truncated) > 0
    returns = log.episode_returns
    assert (found.returns.mean, found.returns.min, found.returns.max) == (returns.mean(), returns.min(), returns.max())
    assert found.returns.quantiles["0.5"] == np.median(returns)
    assert found.positive_sided_variance == pytest.approx(np.square(np.maximum(returns - returns.mean(), 0)).mean())
    assert found.lengths.mean == pytest.approx(len(log) / 60)
    assert found.action_counts == np.bincount(log.transitions.action.numpy()).tolist()
    assert (found.action, found.actions, found.env_id) == ({"n": 2}, [], "CartPole-v1")
    assert found.fingerprint == log.fingerprint
    assert "all rewards are 1" in found.warnings[0]


@pytest.mark.parametrize("rows", [13, 1 << 16])
def test_ranges_are_those_of_numpy(rows, monkeypatch):
    monkeypatch.setattr(validation, "SLICE", rows)
    log = mixed_log(seed=0, good=1, random=2)
    found = statistics(log)
    obs, action, reward = (np.float64(x.numpy()) for x in (log.transitions.obs, log.transitions.action, log.transitions.reward))
    for features, values in ((found.obs, obs), (found.actions, action), ([found.reward], reward[:, None])):
        assert len(features) == values.shape[1]
        for feature, column in zip(features, values.T, strict=True):
            np.testing.assert_allclose(
                [feature.mean, feature.std, feature.min, feature.max], [column.mean(), column.std(), column.min(), column.max()], rtol=1e-9
            )
    assert found.action == {"low": [-2.0], "high": [2.0]}


def test_a_small_spread_around_a_large_mean_is_not_lost():
    n = 5000
    obs = 1e4 + 0.01 * np.random.default_rng(0).standard_normal((n, 1))
    log = Log.from_arrays(obs, np.zeros((n, 1)), np.zeros(n), obs, np.zeros(n, bool), action_space=Continuous((-1.0,), (1.0,)))
    assert ranges(log)[0].std == pytest.approx(np.float32(obs).astype(float).std(), rel=1e-6)


def test_json_and_summary():
    found = statistics(mixed_log(seed=0, good=1, random=2))
    told = found.to_json()
    assert json.loads(json.dumps(told))["returns"] == told["returns"]
    assert told["warnings"] == ["the log holds only 600 transitions: little can be learned from them"]
    one = summary([3.0])
    assert (one.mean, one.std, one.quantiles["0.9"]) == (3.0, 0.0, 3.0)


def test_logs_are_validated_first():
    log = mixed_log(seed=0, good=1, random=2)
    with pytest.raises(EnvError, match="Wide-v0"):
        statistics(log, env=Spec((4,), log.action), env_id="Wide-v0")
    log.packed[5, 0] = float("nan")
    with pytest.raises(DataError, match="row 5"):
        statistics(log)
