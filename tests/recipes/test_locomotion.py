"""The locomotion recipes in small: the four logs come from one training, which goes on where it was stopped."""

import numpy as np
import pytest

from surefoot.recipes import locomotion
from surefoot.recipes.locomotion import Task, Teacher, make_log


@pytest.fixture
def small(monkeypatch):
    """Hopper with a medium level that any policy reaches, and counts that take seconds."""
    monkeypatch.setitem(locomotion.TASKS, "hopper", Task("Hopper-v5", 0.0, 3.0))
    for name, value in (("TRANSITIONS", 300), ("STRIDE", 4), ("LIMIT", 8)):
        monkeypatch.setattr(locomotion, name, value)
    monkeypatch.setattr(Teacher, "every", 4)


def test_four_logs_of_one_training(small, tmp_path):
    said = []
    replay = make_log("hopper", "medium-replay", 0, tmp_path / "run", said.append)
    assert len(replay) == 5004  # the warm-up and what was seen until the medium level
    assert replay.ends[-1] and replay.env_id == "Hopper-v5"
    assert "medium level after 4 updates" in replay.notes["recipe"]
    assert said and "return" in said[0]
    medium = make_log("hopper", "medium", 0, tmp_path / "run", said.append)
    assert len(medium) >= 300
    both = make_log("hopper", "medium-expert", 0, tmp_path / "run", said.append)
    assert len(both) >= 600 and both.fingerprint != medium.fingerprint
    assert make_log("hopper", "medium", 0, tmp_path / "run", said.append).fingerprint == medium.fingerprint
    # the training has gone on since: the replay is still the part until then
    assert make_log("hopper", "medium-replay", 0, tmp_path / "run", said.append).fingerprint == replay.fingerprint


def test_scores_are_those_of_d4rl():
    task = locomotion.TASKS["walker2d"]
    np.testing.assert_allclose(task.normalised(np.array([task.random_return, task.expert_return])), [0.0, 100.0])
    assert set(locomotion.TASKS) == {"hopper", "halfcheetah", "walker2d"}
    assert set(locomotion.KINDS) == {"medium", "medium-replay", "expert", "medium-expert"}
