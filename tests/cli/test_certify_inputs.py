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
