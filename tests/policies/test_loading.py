"""One name for any policy: run folders, members, best, prefixes, and what is said when there is none."""

import json

import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import NotTrustedError, PolicyError, UnknownNameError
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.loading import load_policy, run_folder
from surefoot.policies.saving import save_policy

PENDULUM = Spec((3,), Continuous((-2.0,), (2.0,)))
OBS = torch.linspace(-1, 1, 12).reshape(4, 3)


@pytest.fixture
def run(tmp_path):
    """A run folder with a fleet of 3: the last policy and another best one."""
    folder = tmp_path / "run"
    last, best = (Deterministic(PENDULUM, (8,), (3,)) for _ in range(2))
    save_policy(last, folder / "policy")
    save_policy(best, folder / "policy_best")
    (folder / "config.json").write_text(json.dumps({"env": "Pendulum-v1"}))
    return folder, last, best


def test_run_folders_members_and_best(run):
    folder, last, best = run
    assert torch.equal(load_policy(folder).act(OBS)[0], last.act(OBS)[0])
    assert torch.equal(load_policy(folder / "policy").act(OBS)[0], last.act(OBS)[0])
    assert torch.equal(load_policy(f"{folder}:best").act(OBS)[0], best.act(OBS)[0])
    for member in range(3):
        lone = load_policy(f"{folder}@{member}")
        assert lone.copies == ()
        torch.testing.assert_close(lone.act(OBS)[0], last.act(OBS)[0][member])
        torch.testing.assert_close(load_policy(f"{folder}:best@{member}").act(OBS)[0], best.act(OBS)[0][member])
    for ref in (f"{folder}", f"{folder}@1", f"{folder}:best", f"{folder}/policy"):
        assert run_folder(ref) == folder
    assert run_folder("sb3:x.zip") is None


def test_a_folder_whose_name_looks_like_a_member_wins(tmp_path):
    policy = Categorical(Spec((4,), Discrete(2)), (8,))
    save_policy(policy, tmp_path / "run@2")
    loaded = load_policy(tmp_path / "run@2")
    obs = torch.from_numpy(np.eye(4, dtype=np.float32))
    assert torch.equal(loaded.act(obs)[0], policy.act(obs)[0])
    assert loaded.copies == ()


def test_what_is_not_a_policy_is_said_in_a_sentence(run, tmp_path):
    folder, *_ = run
    (tmp_path / "empty").mkdir()
    (tmp_path / "agent.zip").write_text("")
    (folder / "policy_best" / "policy.json").unlink()
    for ref, words in (
        (f"{folder}@3", "no member 3"),
        (f"{folder}@x", "number of a member"),
        (f"{folder}:best", "no policy_best/policy.json"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "empty", "not a run folder"),
        (tmp_path / "agent.zip", "did you mean sb3:"),
        ("onnx:model.onnx", "--env"),
    ):
        with pytest.raises(PolicyError, match=words):
            load_policy(ref)


def test_prefixes_reach_their_loaders(tmp_path):
    (tmp_path / "agent.zip").write_text("")
    with pytest.raises(NotTrustedError):
        load_policy(f"sb3:{tmp_path}/agent.zip")
    with pytest.raises(PolicyError, match="no module"):
        load_policy("python:no_such_module:act", env_id="CartPole-v1")
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        load_policy("python:no_such_module:act", env_id="CartPol-v1")
    with pytest.raises(PolicyError, match="there is no file"):
        load_policy("onnx:none.onnx", env_id="CartPole-v1")
