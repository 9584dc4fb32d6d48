"""`surefoot stress`: numbers as in Python, evidence, pictures, every way to name parameters, misuse."""

import json

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.data.spec import Discrete, Spec
from surefoot.envs.uncertainty import chosen
from surefoot.evaluation.stress import stress
from surefoot.policies.families import Categorical
from surefoot.policies.saving import save_policy

torch.set_num_threads(1)

FEW = ("--grid", "2", "--episodes", "2", "--max-steps", "30")


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    policy = Categorical(Spec((4,), Discrete(2)), (8,), (2,), generator=torch.Generator().manual_seed(0))
    save_policy(policy, tmp_path / "run" / "policy")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"env": "CartPole-v1", "max_steps": 60}))
    return policy


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["stress", *arguments])
    return code, *capsys.readouterr()


def test_numbers_evidence_and_picture(fleet, capsys, tmp_path):
    code, out, err = call(capsys, "run", *FEW, "--json", "--plot", "map.png")
    assert code == 0, err
    (result,) = json.loads(out)["policies"]
    direct = stress(fleet, "CartPole-v1", chosen(None, "CartPole-v1"), n=2, episodes=2, seed=4_000, max_steps=30)
    np.testing.assert_allclose([m["means"] for m in result["members"]], direct.means)
    assert result["policy"] == "run" and result["command"].startswith("surefoot stress run --grid 2") and result["max_steps"] == 30
    assert json.loads((tmp_path / "run" / "evidence" / "stress.json").read_text()) == result
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert "run@0" in err and "run@1" in err and "pole mass 0.05 to 2 x pole half-length 0.2 to 2" in err


def test_a_policy_with_noise_is_stressed_with_it(fleet, capsys):
    noisy, plain = (json.loads(call(capsys, "run@0", *FEW, "--sigma", sigma, "--json")[1])["policies"][0] for sigma in ("2", "0"))
    again = json.loads(call(capsys, "run@0", *FEW, "--json")[1])["policies"][0]
    assert (noisy["sigma"], plain["sigma"]) == (2.0, 0.0) and again["members"] == plain["members"] != noisy["members"]


def test_a_member_over_names_and_over_a_file(fleet, capsys, tmp_path):
    assert call(capsys, "run@1", *FEW, "--over", "gravity")[0] == 0
    named = json.loads((tmp_path / "run" / "evidence" / "stress@1.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({"parameters": [{"name": "gravity", "low": 4.9, "high": 19.6}]}))
    assert call(capsys, "run@1", *FEW, "--over", "mine.json")[0] == 0
    filed = json.loads((tmp_path / "run" / "evidence" / "stress@1.json").read_text())
    assert filed["members"] == named["members"] and filed["points"] == [[4.9], [19.6]]


def test_the_run_s_own_limit_counts(fleet, capsys):
    _, out, _ = call(capsys, "run@0", "--grid", "2", "--episodes", "1", "--json")
    assert json.loads(out)["policies"][0]["max_steps"] == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no policy was named"),
        (("run", "--grid", "1"), "--grid is 1 and --episodes 5"),
        (("run", "--over", "torso mass"), "CartPole-v1 has no physical parameter 'torso mass'"),
        (("run", "--over", "nowhere.json"), "nowhere.json cannot be read"),
        (("run", "--over", "gravity", "--search", "cmaes"), "two parameters or more"),
        (("run", "--env", "MountainCar-v0"), "MountainCar-v0 has no set of parameters of its own"),
    ],
)
def test_misuse_is_one_sentence(fleet, capsys, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and words in err and "Traceback" not in err


def test_two_policies_over_two_sets_have_no_common_picture(fleet, capsys, tmp_path):
    from surefoot.data.spec import Continuous
    from surefoot.policies.families import Deterministic

    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (4,)), tmp_path / "other" / "policy")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"env": "Pendulum-v1"}))
    code, _, err = call(capsys, "run", "other", *FEW, "--plot", "both.png")
    assert code == 2 and "plot them one by one" in err
    assert call(capsys, "run", "other", *FEW)[0] == 0
