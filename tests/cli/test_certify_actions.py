"""`surefoot certify --actions`: choices as in Python, kept for the report, policies from elsewhere, and misuse before any episode."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.evaluation import certified_actions
from surefoot.evaluation.certified_actions import certify_actions
from surefoot.evaluation.lvm_rs import VOTES
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.evidence import Actions, pieces
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.saving import save_policy
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

AGENTS = """
def lean(obs):
    return (obs[:, 2] + obs[:, 3] > 0).astype(int)
"""
LEAN = ("python:choosing_agents:lean", "--env", "CartPole-v1", "--actions", "--max-steps", "40")
QUICK = ("--states", "12", "--samples", "300", "--selection", "50", "--episodes", "3")
SAME = {"states": 12, "n": 300, "n0": 50, "episodes": 3, "seed": 2000}


def stack(copies=()):
    return FrameStack(Categorical(Spec((8,), Discrete(2)), (8,), copies), 2)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Runs that learned with noise 0.3, and a function."""
    (tmp_path / "choosing_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "choosing_agents", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def saved(name, policy, **settings):
    """The policy as a run that learned with noise; runs save it without."""
    save_policy(policy, Path(name, "policy"))
    Path(name, "config.json").write_text(json.dumps({"env": "CartPole-v1", "max_steps": 30, "noise": 0.3} | settings))
    return policy


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["certify", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_fleet_is_certified_as_in_python_and_kept_for_the_report(capsys, tmp_path):
    fleet = saved("run", stack((2,)))
    code, out, err = call(capsys, "run", "--actions", *QUICK, "--json")
    assert code == 0 and "run@0" in err and "run@1" in err and "r = 0.6" in err and "deploy it that way" in err
    (result,) = json.loads(out)["policies"]
    expected = certify_actions(Smoothed(fleet, 0.3), "CartPole-v1", **SAME, max_steps=30).to_json()
    command = f"surefoot certify run --actions {' '.join(QUICK)} --json"
    assert result == {"policy": "run", "command": command} | json.loads(json.dumps(expected))
    path = tmp_path / "run" / "evidence" / "certified-actions.json"
    assert json.loads(path.read_text()) == result
    (arm,) = read_arms(["run"])
    read = pieces(arm, path.stem, arm.evidence[path.stem])
    assert [type(each) for each in read] == [Actions, Actions] and [each.place.whom.member for each in read] == [0, 1]
    for each, member in zip(read, result["members"], strict=True):
        assert (each.place.sigma, each.place.env, each.states, each.confidence) == (0.3, "CartPole-v1", 12, 0.95)
        assert each.radii.tolist() == member["radii"] and each.certified.tolist() == member["certified"]
        assert each.abstained == member["abstained"]


def test_a_member_has_evidence_of_its_own(capsys, tmp_path):
    saved("run", stack((2,)))
    assert call(capsys, "run@1", "--actions", *QUICK)[:2] == (0, "")
    (path,) = (tmp_path / "run" / "evidence").iterdir()
    assert path.name == "certified-actions@1.json" and len(json.loads(path.read_text())["members"]) == 1


def test_a_policy_that_only_names_its_action(capsys, tmp_path):
    code, out, _ = call(capsys, *LEAN, "--sigma", "0.1", *QUICK, "--maps", "votes", "--alpha", "0.001", "--json")
    assert code == 0
    (result,) = json.loads(out)["policies"]
    assert (result["sigma"], result["alpha"], result["maps"], result["max_steps"]) == (0.1, 0.001, len(VOTES), 40)
    at = result["members"][0]["at"]
    assert all(each["action"] in (-1, each["without_noise"]) for each in at) and any(each["radius"] > 0.05 for each in at)
    assert not (tmp_path / "evidence").exists()


def test_several_policies_with_noise_of_their_own_are_compared_in_units_of_it(capsys):
    saved("one", stack(), noise=0.1)
    saved("two", stack(), noise=0.2)
    code, _, err = call(capsys, "one", "two", "--actions", *QUICK)
    assert code == 0 and "r = 0.25 sigma" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--actions",), "no policy was named"),
        ((*LEAN, *QUICK), "give the standard deviation of the noise (--sigma)"),
        ((*LEAN, *QUICK, "--sigma", "-1"), "sigma is -1"),
        ((*LEAN, *QUICK, "--sigma", "0.1", "--alpha", "0"), "alpha is 0"),
        ((*LEAN, "--sigma", "0.1", "--samples", "5"), "no 5 samples can certify anything with confidence 0.95; take 6 or more"),
        ((*LEAN, "--sigma", "0.1", "--samples", "10", "--alpha", "0.001"), "confidence 0.999; take 11 or more"),
        ((*LEAN, "--sigma", "0.1", "--selection", "1"), "n0 is 1"),
        ((*LEAN, "--sigma", "0.1", "--inputs", "points.npz"), "give one of the two"),
        (("continuous", "--actions", *QUICK), "only a choice among discrete actions can be certified"),
        (("alone", "--actions", *QUICK), "there is no choice to certify"),
        (("good", "continuous", "--actions", *QUICK), "only a choice among discrete actions can be certified"),
    ],
)
def test_misuse_exits_2_with_a_sentence_before_anything_is_played(capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(certified_actions, "visited", None)
    saved("good", stack())
    saved("alone", Categorical(Spec((4,), Discrete(1)), (8,)))
    saved("continuous", Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,)), env="Pendulum-v1")
    assert refused(capsys, *arguments).count(words) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("broken", "--actions", *QUICK), "a logit that is NaN or infinite near input 0"),
        ((*LEAN, *QUICK, "--sigma", "0.1", "--states", "0"), "states is 0"),
        ((*LEAN, *QUICK, "--sigma", "0.1", "--episodes", "0"), "episodes is 0"),
        (("broken", "--actions", "--env", "FrozenLake-v1", *QUICK), "is not a Box"),
    ],
)
def test_what_shows_only_when_it_is_played(capsys, arguments, words):
    broken = Categorical(Spec((4,), Discrete(2)), (8,))
    torch.nn.init.constant_(broken.net.biases[1], np.nan)
    saved("broken", broken)
    assert refused(capsys, *arguments).count(words) == 1


def refused(capsys, *arguments):
    """The one sentence."""
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("surefoot: ") and err.count("\n") == 1 and "Traceback" not in err
    return err
