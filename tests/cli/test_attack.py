"""`surefoot attack`: curves as in Python, every kind, failed attacks that say so, evidence, misuse."""

import json
import sys

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.evaluation import suite
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.sarsa_attack import SarsaConfig, fit_sarsa
from surefoot.evaluation.suite import KINDS, WITHOUT_GRADIENT
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.saving import save_policy
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

AGENTS = """
import torch

def lean(obs):
    return (obs[:, 2] + obs[:, 3] > 0).astype(int)

class Steps(torch.nn.Module):
    def forward(self, x):
        left = (x[:, 2] < 0).float()
        return torch.stack([left, 1.0 - left], -1) + 0.0 * x.sum(-1, keepdim=True)

steps = Steps()

def always(obs):
    return obs[:, 0] * 0 + 1

def wrong(obs):
    return obs[:, 0] * 0 + 2
"""
FEW = ("--episodes", "4", "--max-steps", "12")


@pytest.fixture(autouse=True)
def agents(tmp_path, monkeypatch):
    (tmp_path / "attack_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "attack_agents", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def quick(monkeypatch):
    """A critic of robust Sarsa that learns little."""
    few = SarsaConfig(steps=300, updates=30)
    monkeypatch.setattr(suite, "fit_sarsa", lambda policy, env, config, **options: fit_sarsa(policy, env, few, **options))


@pytest.fixture
def fleet(tmp_path):
    """A CartPole run of two members that lean with the pole, one of them the wrong way."""
    policy = Categorical(Spec((4,), Discrete(2)), (), (2,))
    with torch.no_grad():
        policy.net.biases[0].zero_()
        policy.net.weights[0].zero_()
        policy.net.weights[0][:, 2:, 1] = torch.tensor([[1.0], [-1.0]])
    save_policy(policy, tmp_path / "run" / "policy")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"env": "CartPole-v1", "max_steps": 60}))
    return policy


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_q_attack_of_a_fleet_with_evidence(capsys, fleet, tmp_path):
    arguments = ("--budgets", "0", "2", "--thresholds", "0", "0.05", "--step", "0.1", "--episodes", "10", "--json")
    code, out, err = call(capsys, "attack", "run", *arguments)
    assert code == 0
    (row,) = json.loads(out)["policies"]
    good, _ = row["members"]
    assert (row["kind"], row["norm"], row["sigma"], row["max_steps"]) == ("q", "total", 0.0, 60)
    assert row["variants"] == ["threshold 0", "threshold 0.05"]
    plain = rollout(fleet, "CartPole-v1", 10, seed=3000, max_steps=60).returns
    np.testing.assert_array_equal([m["returns"][0] for m in row["members"]], plain)
    assert good["mean"][1] < 45 < good["mean"][0] == 60.0
    assert good["mean"][1] == min(means[1] for means in good["variant_means"].values())
    assert good["spent"][1] <= 2.0
    assert "run@0" in err and "run@1" in err
    assert json.loads((tmp_path / "run" / "evidence" / "attack-q.json").read_text()) == row


@pytest.mark.parametrize("kind", ["q", "fgsm", "pgd", "mad", "score", "random"])
def test_every_kind_that_learns_nothing_attacks_a_smoothed_policy(capsys, kind, fleet, tmp_path):
    save_policy(Smoothed(fleet.member(0), 0.1), tmp_path / "p")
    code, out, _ = call(capsys, "attack", "p", "--env", "CartPole-v1", "--kind", kind, "--budgets", "0.4", "--draws", "4", *FEW, "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert (row["kind"], row["sigma"]) == (kind, 0.1)
    assert row["members"][0]["spent"][0] <= 0.4 + 1e-6
    code, out, _ = call(capsys, "attack", "p", "--env", "CartPole-v1", "--kind", kind, "--sigma", "0", "--budgets", "0.4", *FEW, "--json")
    assert json.loads(out)["policies"][0]["sigma"] == 0.0


def test_continuous_actions_and_budgets_at_each_step(capsys, tmp_path):
    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,)), tmp_path / "p")
    norm = ("--env", "Pendulum-v1", "--budgets", "0.1", "--norm", "linf")
    code, out, err = call(capsys, "attack", "p", *norm, "--kind", "pgd", "--steps", "2", *FEW, "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert row["norm"] == "linf"
    assert 0.1 * np.sqrt(12) < row["members"][0]["spent"][0] <= 0.1 * np.sqrt(3 * 12) + 1e-6
    assert "largest change at each step" in err


def test_a_failed_attack_shows_no_return(capsys):
    agent = ("python:attack_agents:steps", "--env", "CartPole-v1")
    code, out, err = call(capsys, "attack", *agent, "--budgets", "0", "0.5", "--step", "0.1", *FEW, "--json")
    assert code == 0
    (member,) = json.loads(out)["policies"][0]["members"]
    assert member["mean"][0] is not None
    assert member["mean"][1] is None
    assert member["failed"] == [False, True]
    assert "failed" in err
    assert "says nothing about robustness" in err


def test_suite_plays_all_that_apply_and_shows_the_worst(capsys, quick, fleet, tmp_path):
    few = ("--episodes", "3", "--max-steps", "8", "--attacker-steps", "1", "--draws", "2", "--steps", "1")
    code, out, err = call(capsys, "attack", "run@0", "--kind", "suite", "--budgets", "0", "0.5", *few, "--json")
    assert code == 0
    rows = json.loads(out)["policies"]
    kinds = [row["kind"] for row in rows]
    assert kinds == [*KINDS, "worst"]
    for row in rows[:-1]:
        (member,) = row["members"]
        assert member["spent"][1] <= 0.5 + 1e-9
        assert member["returns"][0] == rows[0]["members"][0]["returns"][0]
        assert json.loads((tmp_path / "run" / "evidence" / f"attack-{row['kind']}@0.json").read_text()) == row
        assert ("slopes" in row) == (row["kind"] == "score")
    (worst,) = rows[-1]["members"]
    assert worst["mean"][1] == min(row["members"][0]["mean"][1] for row in rows[:-1] if not row["members"][0]["failed"][1])
    assert worst["worst"][1] in KINDS and rows[-1]["variants"] == list(KINDS)
    assert all(kind in err for kind in kinds)


@pytest.mark.parametrize("agent", ["python:attack_agents:lean", "onnx:lean.onnx"])
def test_policies_from_elsewhere_that_give_no_gradient_are_attacked_by_their_outputs(capsys, quick, agent, tmp_path):
    if agent.startswith("onnx"):
        export_lean(tmp_path / "lean.onnx")
    few = ("--episodes", "10", "--max-steps", "40", "--attacker-steps", "1", "--budgets", "0.5", "--norm", "linf")
    code, out, _ = call(capsys, "attack", agent, "--env", "CartPole-v1", "--kind", "suite", *few, "--json")
    assert code == 0
    rows = {row["kind"]: row for row in json.loads(out)["policies"]}
    assert set(rows) == {*WITHOUT_GRADIENT, "worst"}
    assert {kind for kind, row in rows.items() if "slopes" in row} == {"mad", "rs", "score"}
    mean = {kind: row["members"][0]["mean"][0] for kind, row in rows.items()}
    assert mean["score"] < mean["random"] - 5.0
    assert not any(tmp_path.glob("**/evidence"))


def export_lean(path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    h = onnx.helper
    weight = onnx.numpy_helper.from_array(np.array([[0, 0], [0, 0], [-1, 1], [-1, 1]], np.float32), "w")
    ends = [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width]) for name, width in (("obs", 4), ("scores", 2))]
    graph = h.make_graph([h.make_node("MatMul", ["obs", "w"], ["scores"])], "lean", ends[:1], ends[1:], [weight])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)


def test_budgets_in_the_policys_own_units(capsys, tmp_path):
    std = torch.tensor([0.1, 2.0, 0.5])
    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,)), torch.zeros(3), std), (8,)), tmp_path / "p")
    some = ("attack", "p", "--env", "Pendulum-v1", "--kind", "random", "--budgets", "0.1", "--norm", "linf", "--units", "policy")
    code, out, err = call(capsys, *some, *FEW, "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert row["units"] == "policy"
    assert row["members"][0]["spent"][0] == pytest.approx(0.1 * np.sqrt(3 * 12), rel=1e-3)  # as counted in them
    assert "in the policy's own units" in err


@pytest.mark.parametrize(("which", "settings"), [("periodic", {"every": 1}), ("random", {"every": 1, "toggle": 0.4})])
def test_attacks_that_come_and_go(capsys, which, settings, fleet, tmp_path):
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    some = ("--kind", "fgsm", "--norm", "l2", "--budgets", "0.5", "--episodes", "6", "--max-steps", "10", "--json")
    code, out, _ = call(capsys, "attack", "run@0", "--switching", which, *options, *some)
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert (row["kind"], row["switching"]) == (f"fgsm-{which}", {"kind": which} | settings)
    assert 0.0 < row["members"][0]["spent"][0] < 0.5 * np.sqrt(10)
    assert (tmp_path / "run" / "evidence" / f"attack-fgsm-{which}@0.json").is_file()


def test_an_attacker_that_learned_nothing_is_reported_as_failed(capsys):
    """One update does no harm to a policy that does not look: neither is that a return."""
    agent = ("python:attack_agents:steps", "--env", "CartPole-v1", "--kind")
    code, out, err = call(capsys, "attack", *agent, "sa-rl", "--budgets", "0", "1e-6", "--attacker-steps", "1", *FEW, "--json")
    assert code == 0
    (member,) = json.loads(out)["policies"][0]["members"]
    assert member["mean"][1] is None and member["failed"] == [False, True]
    assert "the attacker that was trained did not lower the return" in err
    code, _, err = call(capsys, "attack", "python:attack_agents:always", *agent[1:], "score", "--budgets", "0.1", *FEW)
    assert code == 0
    assert "the policy gave the same output wherever it was asked" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--budgets", "-0.1"], "budget is -0.1"),
        (["run", "--budgets"], "no attack budget"),
        (["run", "--sigma", "-1"], "sigma is -1"),
        (["run", "--thresholds"], "no threshold"),
        (["run", "--thresholds", "-1"], "threshold is -1"),
        (["run", "--draws", "0"], "samples is 0"),
        (["run", "--step", "0"], "step 0"),
        (["run", "--kind", "pgd", "--steps", "0"], "steps is 0"),
        (["run", "--norm", "linf"], "for all attacks but q"),
        (["run", "--episodes", "0"], "episodes is 0"),
        (["run", "--kind", "fgsm", "--horizon", "0"], "horizon 0"),
        (["python:attack_agents:lean", "--env", "CartPole-v1"], "gives no gradient"),
        (["pendulum", "--env", "Pendulum-v1"], "discrete actions"),
        (["run", "pendulum", "--env", "CartPole-v1"], "discrete actions"),
        ([], "no policy was named"),
        *((["python:attack_agents:lean", "--env", "CartPole-v1", "--kind", k], f"which {k} needs") for k in ("fgsm", "pgd", "pa-ad")),
        (["run", "--kind", "sa-rl", "--attacker-steps", "0"], "attacker_steps is 0"),
        (["run", "--units", "policy"], "does not say how it scales"),
        (["run", "--switching", "periodic", "--every", "0"], "every is 0"),
        (["run", "--switching", "random", "--toggle", "1.5"], "toggle 1.5"),
        (["run", "--kind", "suite", "--budgets", "nan"], "budget is nan"),
        (["run", "--kind", "suite", "--env", "FrozenLake-v1"], "cannot be changed by small amounts"),
        (["python:attack_agents:lean", "--env", "FrozenLake-v1", "--kind", "random"], "Discrete"),
        (["run", "--env", "Pendulum-v1", "--kind", "random"], "Pendulum-v1"),
        (["python:attack_agents:wrong", "--env", "CartPole-v1", "--kind", "random"], "not one of the integers 0 to 1"),
    ],
)
def test_misuse_exits_2_with_a_sentence(capsys, fleet, tmp_path, arguments, words):
    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,)), tmp_path / "pendulum")
    code, out, err = call(capsys, "attack", *arguments)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("surefoot: ")]
    assert len(lines) == 1 and words in lines[0]
    assert not (tmp_path / "run" / "evidence").exists()
