"""`surefoot certify … --inputs`: classifiers and choices of action at inputs, from every kind of file, and misuse."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from surefoot.cli import main
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.data.writers import write_log
from surefoot.methods.vision.classifier import NoiseClassifier, image_spec
from surefoot.nn.noise_conditional import NetworkSize
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.saving import save_policy
from surefoot.recipes.pendulum import mixed_log

CLASSIFIERS = """
import torch

class Plane(torch.nn.Module):
    '''Two classes, apart at x_0 = 0.'''
    def forward(self, x):
        return torch.stack([x[:, 0], -x[:, 0]], -1)

plane = Plane()

def scores(x):
    return x @ [[1.0, -1.0], [0.0, 0.0]]

def one_class(x):
    return x[:, :1]

def broken(x):
    return x * float('nan')
"""
QUICK = ("--sigma", "0.5", "--samples", "2000", "--selection", "100")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    (tmp_path / "planes.py").write_text(CLASSIFIERS)
    x = np.array([[2.0, 0.0], [-2.0, 0.0], [0.3, 1.0], [0.0, 0.0]], np.float32)
    np.savez(tmp_path / "points.npz", x=x, y=np.array([0, 1, 1, 0]))
    np.savez(tmp_path / "bare.npz", x=x)
    np.savez(tmp_path / "three.npz", x=x, y=np.array([0, 2, 1, 0]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "planes", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["certify", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", ["plane", "scores"])
def test_a_classifier_of_ones_own(capsys, name):
    code, out, err = call(capsys, f"python:planes:{name}", "--inputs", "points.npz", *QUICK, "--json")
    assert code == 0 and "right and certified" in err and "25%" in err
    result = json.loads(out)["classifiers"][0]
    at = result["at"]
    assert [each["class"] for each in at] == [0, 1, 0, -1]  # the third is labelled otherwise, the last lies on the boundary
    assert all(each["radius"] <= distance for each, distance in zip(at, (2.0, 2.0, 0.3, 0.0), strict=True))
    assert result["certified"][0] == 0.5 and result["abstained"] == 1
    assert result["average_radius"] == pytest.approx((at[0]["radius"] + at[1]["radius"]) / 4)


def test_votes_alone(capsys):
    code, out, _ = call(capsys, "python:planes:plane", "--inputs", "points.npz", *QUICK, "--maps", "votes", "--json")
    assert code == 0 and {each["map"] for each in json.loads(out)["classifiers"][0]["at"]} == {"argmax"}


def test_without_classes_the_choice_itself_is_certified(capsys):
    code, out, err = call(capsys, "python:planes:plane", "--inputs", "bare.npz", *QUICK, "--json")
    assert code == 0 and "choose the same" in err
    result = json.loads(out)["classifiers"][0]
    assert result["certified"][0] == 0.75 and "label" not in result["at"][0]


def test_a_policy_at_the_observations_of_a_log(capsys, tmp_path):
    policy = Categorical(Spec((3,), Discrete(3)), (8,), (2,))
    save_policy(policy, tmp_path / "policy")
    write_log(mixed_log(seed=0, good=1, random=1), tmp_path / "log.npz")
    code, out, _ = call(capsys, "policy@1", "--inputs", "log.npz", "--limit", "5", *QUICK, "--json")
    assert code == 0
    result = json.loads(out)["classifiers"][0]
    assert result["n"] == 5
    greedy = policy.member(1).act(torch.from_numpy(mixed_log(seed=0, good=1, random=1).transitions.obs.numpy()[[0]]))[0]
    assert result["at"][0]["class"] in (-1, int(greedy))


def test_an_onnx_classifier(capsys, tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3), np.arange(6.0))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in (("x", 2), ("y", 3)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "linear", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "model.onnx")
    code, out, _ = call(capsys, "onnx:model.onnx", "--inputs", "points.npz", *QUICK, "--json")
    assert code == 0 and len(json.loads(out)["classifiers"][0]["at"]) == 4


# --- of a run -------------------------------------------------------------------------------------------------------


def make_classifier(folder, sigma):
    """The run of an image classifier as training leaves it, with numbers of no meaning."""
    generator = torch.Generator().manual_seed(0)
    save_policy(NoiseClassifier(image_spec((4, 4), 2), NetworkSize(width=8, depth=1), sigma, generator=generator), folder / "policy")
    (folder / "config.json").write_text(json.dumps({"method": "rrcm", "env": None, "noise": sigma}))
    np.savez(folder / "held_out.npz", x=np.random.default_rng(0).random((6, 4, 4)), y=np.arange(6) % 2)


def evidence(folder, name="certified-inputs"):
    return json.loads((folder / "evidence" / f"{name}.json").read_text())


def test_the_run_of_a_classifier_brings_its_inputs_and_its_noise(capsys, tmp_path):
    make_classifier(tmp_path / "run", 0.3)
    code, out, err = call(capsys, "run", "--samples", "200", "--selection", "50", "--limit", "4", "--json")
    assert code == 0 and "4 inputs of run/held_out.npz" in err and "r = 0.15" in err
    result = json.loads(out)["classifiers"][0]
    assert (result["sigma"], result["n"], result["labelled"]) == (0.3, 4, True)
    kept = evidence(tmp_path / "run")
    about = {"policy": "run", "kind": "certified-inputs", "held_out": True, "command": json.loads(out)["command"]}
    assert kept == about | result
    code, out, _ = call(capsys, "run", "--inputs", "run/held_out.npz", "--samples", "200", "--selection", "50", "--limit", "4", "--json")
    assert code == 0 and json.loads(out)["classifiers"][0] == result  # what is the default can be said

    np.savez(tmp_path / "mine.npz", x=np.zeros((1, 4, 4)))
    code, out, err = call(capsys, "run", "--inputs", "mine.npz", "--sigma", "0.5", "--samples", "200", "--json")
    assert code == 0 and "note: run was trained with noise of 0.3; what follows is about it with 0.5" in err
    kept = evidence(tmp_path / "run")
    assert (kept["sigma"], kept["n"], kept["held_out"], kept["inputs"]) == (0.5, 1, False, "mine.npz")


def test_classifiers_of_several_noise_levels_are_set_side_by_side(capsys, tmp_path):
    for name, sigma in (("quiet", 0.25), ("loud", 0.5)):
        make_classifier(tmp_path / name, sigma)
    code, out, err = call(capsys, "quiet", "loud", "--samples", "200", "--selection", "50", "--json")
    assert code == 0 and "within radius r times sigma" in err and "each one's held-out inputs" in err
    assert [each["radii"][-1] for each in json.loads(out)["classifiers"]] == [0.5, 1.0]
    assert evidence(tmp_path / "loud")["sigma"] == 0.5


def test_a_policy_acts_with_the_noise_that_it_was_trained_with(capsys, tmp_path):
    save_policy(Categorical(Spec((3,), Discrete(3)), (8,), (2,)), tmp_path / "agent" / "policy")
    (tmp_path / "agent" / "config.json").write_text(json.dumps({"method": "dqn", "env": "Pendulum-v1", "noise": 0.2}))
    write_log(mixed_log(seed=0, good=1, random=1), tmp_path / "log.npz")
    code, _, err = call(capsys, "agent@1", "--inputs", "log.npz", "--limit", "2", "--samples", "200", "--selection", "50")
    kept = evidence(tmp_path / "agent", "certified-inputs@1")
    assert code == 0 and "kept    agent/evidence/certified-inputs@1.json" in err and (kept["sigma"], kept["held_out"]) == (0.2, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--actions"), "run is a classifier, which visits no states of its own: leave --actions out"),
        (("run", "agent"), "agent is not the run of a classifier, which has kept inputs back: certify it apart, or at inputs (--inputs)"),
        (("run", "--inputs", "points.npz"), "the classifier expects images of shape (4, 4)"),
        (("agent", "--inputs", "points.npz"), "agent was trained without noise: give --sigma"),
    ],
)
def test_misuse_of_a_run_is_one_sentence_and_leaves_nothing_behind(capsys, tmp_path, arguments, message):
    make_classifier(tmp_path / "run", 0.3)
    save_policy(Categorical(Spec((2,), Discrete(3)), (8,)), tmp_path / "agent" / "policy")
    (tmp_path / "agent" / "config.json").write_text(json.dumps({"method": "dqn", "env": "CartPole-v1"}))
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and message in err and "Traceback" not in err and err.count("\n") == 1
    assert not (tmp_path / "run" / "evidence").exists()


# --- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("python:planes:plane", "--inputs", "points.npz"), "give --sigma"),
        (("--inputs", "points.npz", "--sigma", "0.5"), "no classifier was named"),
        (("python:planes:one_class", "--inputs", "points.npz", *QUICK), "c >= 2 classes"),
        (("python:planes:broken", "--inputs", "points.npz", *QUICK), "NaN or infinite"),
        (("python:planes:plane", "--inputs", "points.npz", "--sigma", "0.5", "--samples", "3"), "take 6 or more"),
        (("python:planes:plane", "--inputs", "points.npz", "--sigma", "0.5", "--samples", "10", "--alpha", "0.001"), "take 11 or more"),
        (("python:planes:plane", "--inputs", "points.npz", "--sigma", "0.5", "--selection", "1"), "n0 is 1"),
        (("python:planes:plane", "--inputs", "points.npz", "--sigma", "0"), "sigma is 0"),
        (("python:planes:plane", "--inputs", "points.npz", "--sigma", "0.5", "--alpha", "1"), "alpha is 1"),
        (("python:planes:plane", "--inputs", "three.npz", *QUICK), "says class 2 for input 1, but the classes are 0 to 1"),
        (("python:planes:plane", "--inputs", "points.npz", *QUICK, "--limit", "0"), "at least one is needed"),
        (("python:planes:plane", "--inputs", "none.npz", *QUICK), "none.npz"),
        (("fleet", "--inputs", "log.npz", *QUICK), "name one of its members"),
        (("stack", "--inputs", "points.npz", *QUICK), "certify it along episodes of its own, with --actions"),
        (("continuous", "--inputs", "points.npz", *QUICK), "continuous actions"),
    ],
)
def test_misuse_is_one_sentence(capsys, tmp_path, arguments, message):
    save_policy(Categorical(Spec((3,), Discrete(3)), (8,), (2,)), tmp_path / "fleet")
    save_policy(FrameStack(Categorical(Spec((4,), Discrete(3)), (8,)), 2), tmp_path / "stack")
    save_policy(Deterministic(Spec((2,), Continuous((-1.0,), (1.0,))), (8,)), tmp_path / "continuous")
    write_log(mixed_log(seed=0, good=1, random=1), tmp_path / "log.npz")
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and message in err and "Traceback" not in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"field 'x' has shape \(3,\)"),
        ({"x": np.array([[1.0], [np.nan]])}, "not finite in row 1"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(2)}, "one class, an integer from 0, for each of the 3 inputs"),
        ({"x": np.zeros((3, 1)), "y": np.array([0.5, 0, 0])}, "an integer from 0"),
        ({"x": np.array(["a", "b"])[:, None]}, "must be numbers"),
    ],
)
def test_bad_inputs_are_named(arrays, message, tmp_path):
    from surefoot.data.inputs import read_inputs
    from surefoot.errors import DataError

    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_inputs(tmp_path / "bad.npz")
