"""Recipes by name: what they make is theirs alone, what takes long is kept, and names that nothing answers to get the nearest."""

import numpy as np
import pytest

from surefoot.data.writers import write_log
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.recipes import line, pendulum, registry


def test_a_name_stands_for_one_log():
    assert registry.make_log("pendulum-mixed").fingerprint == pendulum.mixed_log(0).fingerprint
    assert registry.make_log("line-barred", seed=3).fingerprint == line.barred_log(3).fingerprint
    assert registry.make_log("line-barred", seed=3).fingerprint != line.barred_log(4).fingerprint


def test_what_takes_long_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path))
    calls = []

    def make(seed, folder, say):
        calls.append((seed, folder))
        return line.barred_log(seed, rows=50)

    monkeypatch.setitem(registry.RECIPES, "hopper-medium", registry.Recipe("Hopper-v5", "a", 0, make, cached=True))
    monkeypatch.setitem(registry.RECIPES, "hopper-medium-replay", registry.Recipe("Hopper-v5", "b", 0, make, cached=True))
    first, again = registry.make_log("hopper-medium", seed=2), registry.make_log("hopper-medium", seed=2)
    registry.make_log("hopper-medium-replay", seed=2)
    assert first.fingerprint == again.fingerprint
    assert calls == [(2, tmp_path / "hopper-seed2")] * 2  # the logs of one environment share a training


def test_any_log_opens_by_its_name(tmp_path):
    write_log(line.barred_log(0, rows=20), tmp_path / "own.npz")
    assert len(registry.open_log(tmp_path / "own.npz")) == 20
    assert len(registry.open_log("line-barred")) == 6000
    with pytest.raises(UnknownNameError, match="did you mean 'line-barred'"):
        registry.open_log("line-bared")
    with pytest.raises(DataError, match=r"own\.npz"):
        registry.open_log(tmp_path / "owm.npz")
    with pytest.raises(UnknownNameError, match="hopper-medium-replay"):
        registry.make_log("hoper-medium-replay")
    with pytest.raises(ConfigError, match="seed is -1"):
        registry.make_log("line-barred", seed=-1)


def test_the_barred_log_never_moves_right_in_the_band():
    t = line.barred_log(0).transitions
    x, action = t.obs[:, 0].numpy(), t.action[:, 0].numpy()
    inside = (x > 4.0) & (x < 6.0)
    assert (action[inside] <= 0.0).all() and (action[~inside] > 0.0).any()
    np.testing.assert_allclose(t.next_obs[:, 0].numpy(), np.clip(x + 0.5 * action, 0.0, 10.0), atol=1e-6)
    np.testing.assert_allclose(t.reward.numpy(), (t.next_obs[:, 0].numpy() - x) / 0.5, atol=1e-5)
