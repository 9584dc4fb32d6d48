"""The decision that attacks climb: its mean over noise, its units, some of the episodes, and several points of each."""

import pytest
import torch
from torch import nn

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import PolicyError
from surefoot.evaluation.decision import Decision
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical
from surefoot.policies.frame_stack import FrameStack

torch.set_num_threads(1)

UNIT = torch.tensor([0.5, 2.0, 1.0, 3.0])


def stacked(copies: tuple[int, ...] = ()) -> FrameStack:
    return FrameStack(Categorical(Spec((8,), Discrete(3)), (16,), copies, generator=torch.Generator().manual_seed(0)), 2)


def decision_of(copies: tuple[int, ...] = (), m: int = 3, draws: int = 5) -> tuple[Decision, torch.Tensor]:
    """With a memory of one step, and the observations that come next, in units of UNIT."""
    generator, policy = torch.Generator().manual_seed(1), stacked(copies)
    memory = policy.remember(torch.randn(*copies, m, 4, generator=generator), policy.start(m))
    noise = 0.3 * torch.randn(*copies, m, draws, 4, generator=generator)
    return Decision(policy, memory, noise, UNIT), torch.randn(*copies, m, 4, generator=generator)


@pytest.mark.parametrize("copies", [(), (2,)])
def test_it_is_the_mean_over_the_noise_of_what_the_policy_decides(copies):
    decision, x = decision_of(copies)
    alone = [decision.policy.decide(x * UNIT + decision.noise[..., i, :], decision.memory) for i in range(5)]
    torch.testing.assert_close(decision(x), torch.stack(alone).mean(0))
    assert torch.equal(decision(x), decision(x))


@pytest.mark.parametrize("copies", [(), (2,)])
def test_several_points_of_each_episode_are_decided_as_one_by_one(copies):
    decision, x = decision_of(copies)
    points = x.unsqueeze(-2) + 0.1 * torch.randn(*x.shape[:-1], 4, 4, generator=torch.Generator().manual_seed(2))
    together = decision.repeated(4)(points.flatten(-3, -2)).unflatten(-2, (3, 4))
    torch.testing.assert_close(together, torch.stack([decision(points[..., i, :]) for i in range(4)], -2))


def test_some_of_the_episodes():
    decision, x = decision_of((2,))
    some = torch.tensor([2, 0])
    torch.testing.assert_close(decision.select(some)(x[:, some]), decision(x)[:, some])


def test_gradients_are_in_the_same_units_as_the_point():
    decision, x = decision_of()
    target = torch.tensor([0, 1, 2])
    scores, gradient = decision.towards(x, target)
    torch.testing.assert_close(scores, decision(x).detach())
    for feature in range(4):
        step = torch.zeros(4)
        step[feature] = 1e-2

        def value(point):
            return torch.log_softmax(decision(point), -1).gather(-1, target.unsqueeze(-1)).squeeze(-1)

        slope = (value(x + step) - value(x - step)) / 2e-2
        torch.testing.assert_close(gradient[:, feature], slope.detach(), atol=2e-3, rtol=2e-2)


def test_what_has_no_gradient_says_which_attacks_need_none():
    cut = ModulePolicy(nn.Sequential(nn.Linear(4, 2), nn.Threshold(0.0, 0.0)), Spec((4,), Discrete(2)), "cut")
    cut.module.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(PolicyError, match="--kind score or sa-rl"):
        Decision(cut, None).towards(torch.zeros(1, 4), torch.tensor([0]))


def test_a_policy_that_names_its_action_is_heard_where_choices_are_asked_for():
    function = FunctionPolicy(lambda obs: (obs[:, 0] > 0).astype(int), Spec((4,), Discrete(2)), "python:x")
    noise = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1).expand(1, 4, 4)
    assert Decision(function, None, noise)(torch.zeros(1, 4), choices=True).tolist() == [[0.25, 0.75]]  # votes
    with pytest.raises(PolicyError, match="scores"):
        Decision(function, None)(torch.zeros(1, 4))
