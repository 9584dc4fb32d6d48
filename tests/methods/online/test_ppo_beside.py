"""The benchmark of PPO beside its peers: that it runs, what its rows say, whose files it runs. No timings."""

import numpy as np
import pytest

from benchmarks import cleanrl, on_policy


@pytest.fixture(name="short")
def _short(monkeypatch):
    for name, value in {"UPDATES": {"CartPole-v1": 1, "Pendulum-v1": 1}, "LENGTH": 16, "EPOCHS": 1, "EPISODES": 1}.items():
        monkeypatch.setattr(on_policy, name, value)


def test_every_side_learns_and_is_played(short):
    for env in on_policy.UPDATES:
        found = on_policy.measured(env, 0)
        assert {"surefoot", "Stable-Baselines3"} <= set(found)
        assert all(rate > 0.0 and np.isfinite(mean) for rate, mean in found.values())


def test_what_the_rows_say():
    found = [{"surefoot": (30.0, 5.0 + i), "A": (10.0 + i, 4.0 + i)} for i in range(3)]
    assert on_policy.speed_row("E", found) == {"environment": "E", "surefoot, steps/s": 30.0, "A, steps/s": 11.0, "times A": 30.0 / 11.0}
    row = on_policy.return_row("CartPole-v1", found)
    assert row["steps"] == 30 * 2048 and row["seeds"] == 3 and row["surefoot"].startswith("6 [")
    assert row["surefoot less A"].startswith("1 [")


def test_other_files_are_not_taken_for_cleanrl(tmp_path, monkeypatch):
    monkeypatch.setattr(cleanrl, "FOLDER", tmp_path)
    assert not cleanrl.available() and set(on_policy.sides()) == {"surefoot", "Stable-Baselines3"}
    for name in cleanrl.FILES:
        (tmp_path / name).write_text("print()")
    with pytest.raises(RuntimeError, match=r"ppo.py is not CleanRL's file at fe8d8a0"):
        cleanrl.available()
