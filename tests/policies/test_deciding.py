"""Decisions in units in which all actions count alike, and the scaling that a policy says it uses."""

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import PolicyError
from surefoot.policies.base import Policy
from surefoot.policies.deciding import decide, outputs, scaling
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

BOX = Continuous((-2.0, 0.0), (2.0, 1.0))
CARTPOLE = Spec((4,), Discrete(2))


def scaled(copies: tuple[int, ...] = (), frames: int = 1, shift: float = 0.0) -> Deterministic:
    """Scales each feature by its own number (1, 2, 3, …)."""
    n = 3 * frames
    mean, std = (x.expand(*copies, n).clone() for x in (torch.arange(1.0, n + 1.0) + shift, 2.0 * torch.arange(1.0, n + 1.0)))
    return Deterministic(Spec((n,), BOX, mean, std), (8,), copies)


def test_actions_are_in_half_ranges_and_scores_as_they_are():
    policy, obs = scaled(), torch.randn(5, 3)
    torch.testing.assert_close(decide(policy, obs, None), policy(obs) / torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(outputs(policy, obs, None), decide(policy, obs, None))
    discrete, obs = Categorical(CARTPOLE, (8,), (2,)), torch.randn(2, 5, 4)
    assert torch.equal(decide(discrete, obs, None), discrete(obs))
    assert torch.equal(outputs(discrete, obs, None), discrete(obs))


def test_a_policy_that_names_its_action_scores_it_1_for_those_who_look_at_outputs():
    obs = torch.tensor([[0.0, 0, 0.5, 0], [0.0, 0, -0.5, 0]])
    for shape in ((-1,), (-1, 1)):
        function = FunctionPolicy(lambda x, shape=shape: (x[:, 2] > 0).astype(np.int64).reshape(shape), CARTPOLE, "python:x")
        assert outputs(function, obs, None).tolist() == [[0.0, 1.0], [1.0, 0.0]]
        with pytest.raises(PolicyError, match="where an attack needs 2 scores"):
            decide(function, obs, None)
    flat = FunctionPolicy(lambda x: x[:, 2], Spec((4,), Continuous((-0.5,), (0.5,))), "python:x")
    assert outputs(flat, obs, None).tolist() == [[1.0], [-1.0]]


@pytest.mark.parametrize("wrong", [2, -1, 0.5])
def test_an_action_that_does_not_exist_is_told(wrong):
    function = FunctionPolicy(lambda x: np.full(len(x), wrong), CARTPOLE, "python:x")
    with pytest.raises(PolicyError, match="integers 0 to 1"):
        outputs(function, torch.zeros(3, 4), None)


def test_another_width_is_told():
    module = ModulePolicy(nn.Linear(4, 3), CARTPOLE, "wide")
    with pytest.raises(PolicyError, match=r"gives \(5, 3\) float32 where an attack needs 2 scores"):
        decide(module, torch.zeros(5, 4), None)


def test_scaling_is_found_behind_smoothing_and_is_the_newest_frames():
    mean, std = scaling(scaled())
    assert mean.tolist() == [1.0, 2.0, 3.0] and std.tolist() == [2.0, 4.0, 6.0]
    mean, std = scaling(Smoothed(FrameStack(scaled(frames=2), 2), 0.1))
    assert mean.tolist() == [4.0, 5.0, 6.0] and std.tolist() == [8.0, 10.0, 12.0]
    mean, _ = scaling(scaled((2,)))
    assert mean.shape == (2, 3)
    assert scaling(Categorical(CARTPOLE, (8,))) is None
    assert scaling(FunctionPolicy(len, CARTPOLE, "python:x")) is None


def test_policies_of_a_set_must_scale_alike():
    class Pair(Policy):
        def __init__(self, *inners):
            super().__init__()
            self.inners = nn.ModuleList(inners)

    assert scaling(Pair(scaled(), scaled()))[1].tolist() == [2.0, 4.0, 6.0]
    assert scaling(Pair(Categorical(CARTPOLE, (8,)), Categorical(CARTPOLE, (4,)))) is None
    for other in (scaled(shift=1.0), Categorical(CARTPOLE, (4,))):
        with pytest.raises(PolicyError, match="scale their observations differently"):
            scaling(Pair(scaled(), other))
