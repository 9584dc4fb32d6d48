"""Policies as folders: read back bit for bit, refused in a sentence when damaged, and never half written."""

import json
import pickle
from pathlib import Path

import pytest
import torch

import surefoot.policies.saving
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import CheckpointError, PolicyError
from surefoot.policies.external import FunctionPolicy
from surefoot.policies.families import Categorical, Deterministic, Gaussian
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.saving import read_policy, save_policy
from surefoot.steering.smoothed import Smoothed

BOX = Continuous((-1.0, 0.0), (1.0, 8.0))


def scaled(*shape: int) -> Spec:
    return Spec((6,), BOX, torch.randn(*shape), torch.rand(*shape) + 0.5)


def policies():
    """Families, fleets, statistics that are shared or a member's own, and wrappers around each other."""
    discrete = Spec((6,), Discrete(3))
    yield "deterministic", Deterministic(scaled(6), (8, 8))
    yield "shared statistics", Gaussian(scaled(6), (8,), (3,))
    yield "own statistics", Deterministic(scaled(3, 6), (8,), (3,))
    yield "linear", Categorical(discrete, ())
    yield "observations of two axes", Categorical(Spec((3, 2), Discrete(3)), (8,))
    yield "frame stack", FrameStack(Categorical(discrete, (8,), (2,)), 3)
    yield "frames of two axes", FrameStack(Deterministic(scaled(6), (8,)), 2, (3, 1))
    yield "smoothed stack of a fleet", Smoothed(FrameStack(Deterministic(scaled(2, 6), (8,), (2,)), 2), 0.25)


def trajectory(policy, steps=4):
    """Actions over a few steps from one seed."""
    inputs, draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    memory, actions = policy.start(5), []
    for t in range(steps):
        obs = torch.randn(*policy.copies, 5, *policy.spec.obs_shape, generator=inputs)
        action, memory = policy.act(obs, memory, generator=draws, greedy=t % 2 == 0)
        actions.append(action.detach())
    return torch.stack(actions)


@pytest.mark.parametrize(("name", "policy"), list(policies()), ids=[name for name, _ in policies()])
def test_what_is_read_acts_bit_for_bit_like_what_was_saved(name, policy, tmp_path):
    save_policy(policy, tmp_path / "p")
    again = read_policy(tmp_path / "p")
    assert type(again) is type(policy)
    assert again.copies == policy.copies
    assert again.spec.obs_shape == policy.spec.obs_shape
    assert again.spec.action == policy.spec.action
    assert torch.equal(trajectory(again), trajectory(policy))
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["policy.json", "policy.safetensors"]
    for i in range(policy.copies[0] if policy.copies else 0):
        assert torch.equal(trajectory(again.member(i)), trajectory(policy.member(i)))


def test_a_member_saved_alone_and_a_policy_saved_twice(tmp_path):
    fleet = Deterministic(scaled(3, 6), (8,), (3,))
    save_policy(fleet.member(2), tmp_path / "p")
    assert torch.equal(trajectory(read_policy(tmp_path / "p")), trajectory(fleet.member(2)))
    save_policy(fleet, tmp_path / "p")
    assert read_policy(tmp_path / "p").copies == (3,)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_training_goes_on_after_saving_without_changing_what_was_saved(tmp_path):
    policy = Categorical(Spec((6,), Discrete(3)), (8,))
    before = trajectory(policy)
    save_policy(policy, tmp_path / "p")
    with torch.no_grad():
        for tensor in policy.parameters():
            tensor.add_(1.0)
    assert torch.equal(trajectory(read_policy(tmp_path / "p")), before)


def change(key, value):
    def spoil(folder: Path):
        description = json.loads((folder / "policy.json").read_text())
        description[key] = value
        (folder / "policy.json").write_text(json.dumps(description))

    return spoil


def cut(name: str, share: float):
    def spoil(folder: Path):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return spoil


def replace(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


DAMAGE = {
    "tensors cut off": cut("policy.safetensors", 0.7),
    "header cut off": cut("policy.safetensors", 0.05),
    "tensors empty": cut("policy.safetensors", 0.0),
    "tensors missing": lambda folder: (folder / "policy.safetensors").unlink(),
    "description missing": lambda folder: (folder / "policy.json").unlink(),
    "description cut off": cut("policy.json", 0.5),
    "description empty": cut("policy.json", 0.0),
    "description is no object": replace("policy.json", b"[1, 2]"),
    "description is binary": replace("policy.json", bytes(range(256))),
    "another format": change("format", 99),
    "unknown family": change("family", "oracle"),
    "family is no name": change("family", ["deterministic"]),
    "another width": change("config", {"hidden": [9, 9]}),
    "unknown setting": change("config", {"hidden": [8, 8], "depth": 3}),
    "another fleet": change("copies", [2]),
    "no spec": change("spec", None),
    "no such space": change("spec", {"obs_shape": [6], "action": {"low": 1}, "scaled": None}),
    "a pickle": replace("policy.safetensors", pickle.dumps({"a": 1})),
    "noise below zero": change("family", "smoothed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_sentence(name, tmp_path):
    save_policy(Deterministic(scaled(6), (8, 8)), tmp_path / "p")
    DAMAGE[name](tmp_path / "p")
    with pytest.raises(PolicyError, match=str(tmp_path / "p")) as caught:
        read_policy(tmp_path / "p")
    assert "\n" not in str(caught.value)


def test_settings_that_were_tampered_with_are_refused_in_one_sentence(tmp_path):
    save_policy(Smoothed(Categorical(Spec((6,), Discrete(3)), (8,)), 0.2), tmp_path / "p")
    for sigma in (-1.0, "much"):
        change("config", {"sigma": sigma})(tmp_path / "p")
        with pytest.raises(PolicyError, match="damaged"):
            read_policy(tmp_path / "p")


@pytest.mark.parametrize("moment", ["tensors", "description"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "interrupt"])
def test_a_save_that_is_interrupted_leaves_the_old_policy_and_nothing_else(moment, error, tmp_path, monkeypatch):
    old, new = (Categorical(Spec((6,), Discrete(3)), (8,)) for _ in range(2))
    save_policy(old, tmp_path / "p")

    def stop(*args, **kwargs):
        raise error

    with monkeypatch.context() as patched:
        if moment == "tensors":
            patched.setattr(surefoot.policies.saving, "save_file", stop)
        else:
            patched.setattr(Path, "write_text", stop)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError):
            save_policy(new, tmp_path / "p")
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError):
            save_policy(new, tmp_path / "q")
    assert torch.equal(trajectory(read_policy(tmp_path / "p")), trajectory(old))
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_policies_from_elsewhere_are_not_saved_and_leave_nothing(tmp_path):
    policy = FunctionPolicy(lambda obs: obs[:, 0] > 0, Spec((6,), Discrete(2)), "python:mine:act")
    for p in (policy, Smoothed(policy, 0.1)):
        with pytest.raises(PolicyError, match="python:mine:act"):
            save_policy(p, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_class_of_ones_own_says_so(tmp_path):
    class Own(Deterministic):
        pass

    with pytest.raises(PolicyError, match="Own cannot be saved"):
        save_policy(Own(Spec((6,), BOX), (8,)), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file"):
        save_policy(Deterministic(Spec((6,), BOX), (8,)), tmp_path / "file" / "p")
