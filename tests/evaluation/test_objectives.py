"""What counts as harm: cross-entropies and divergences as torch and ART have them, and attacks that raise them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, kl_divergence

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.evaluation.attacks import FGSM, PGD, Estimated, RandomAttack
from surefoot.evaluation.decision import Decision
from surefoot.evaluation.objectives import Departure, Divergence, deviation
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical, Deterministic, NormalPolicy
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

BOX = Spec((4,), Continuous((-2.0, -1.0), (2.0, 3.0)))
ART = np.load(Path(__file__).parents[1] / "fixtures" / "art.npz", allow_pickle=False)


def normal(seed: int = 0) -> NormalPolicy:
    policy = NormalPolicy(BOX, (16,), squashed=False, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-0.7, 0.4]))
    return policy


def categorical(seed: int = 0) -> Categorical:
    policy = Categorical(Spec((4,), Discrete(3)), (16,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        policy.net.weights[-1].mul_(5.0)
    return policy


def harms(objective, policy, near, shown) -> torch.Tensor:
    decision = Decision(policy, None)
    with torch.no_grad():
        return objective.harm(decision(shown), objective.anchor(near, decision(near), decision), decision)


def points(n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    near = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return near, near + 0.3 * torch.randn(n, 4, generator=torch.Generator().manual_seed(2))


def once(attack, policy, obs) -> torch.Tensor:
    attack.start(len(obs), policy)
    with torch.no_grad():
        return attack(obs, policy, policy.start(len(obs)), torch.ones(len(obs), dtype=torch.bool))


# --- parity -----------------------------------------------------------------------------------------------------------


def test_departure_of_scores_is_torchs_cross_entropy_of_the_action_that_was_greedy():
    policy, (near, shown) = categorical(), points()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(policy(shown), policy(near).argmax(-1), reduction="none")
    torch.testing.assert_close(harms(Departure(), policy, near, shown), expected)


def test_departure_of_actions_is_the_squared_change_in_half_ranges():
    policy, (near, shown) = Deterministic(BOX, (16,), generator=torch.Generator().manual_seed(0)), points()
    with torch.no_grad():
        expected = ((policy(shown) - policy(near)) / torch.tensor([2.0, 2.0])).square().sum(-1)
    torch.testing.assert_close(harms(Departure(), policy, near, shown), expected)


def test_what_is_clipped_away_counts_a_tenth():
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    policy = ModulePolicy(layer, Spec((4,), Continuous((-1.0, -1.0), (1.0, 1.0))), "id")
    near = torch.tensor([[0.5, 0.0, 0, 0], [2.0, 0.0, 0, 0]])
    shown = torch.tensor([[2.0, 0.0, 0, 0], [4.0, 0.0, 0, 0]])
    torch.testing.assert_close(harms(Departure(), policy, near, shown), torch.tensor([0.6**2, 0.2**2]))


def test_divergence_is_torchs_of_scores_and_of_normals():
    near, shown = points()
    policy = categorical()
    with torch.no_grad():
        expected = kl_divergence(TorchCategorical(logits=policy(near)), TorchCategorical(logits=policy(shown)))
    torch.testing.assert_close(harms(Divergence(), policy, near, shown), expected)
    gaussian = normal()
    with torch.no_grad():  # a half range of each action is 2; means before they are clipped
        before, after = (Normal(gaussian.decide(x), 2.0 * gaussian.log_std.exp()) for x in (near, shown))
        expected = kl_divergence(before, after).sum(-1)
    torch.testing.assert_close(harms(Divergence(), gaussian, near, shown), expected)


def test_the_deviation_is_found_behind_wrappers_and_is_1_where_there_is_none():
    gaussian = normal()
    torch.testing.assert_close(deviation(Smoothed(gaussian, 0.1)), gaussian.log_std.exp().unsqueeze(0))
    assert deviation(Deterministic(BOX, (4,))) == 1.0
    stack = FrameStack(NormalPolicy(Spec((8,), BOX.action), (4,), (3,), squashed=False), 2)
    assert deviation(stack).shape == (3, 1, 2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_pgds_iterates_are_those_of_the_adversarial_robustness_toolbox(norm, steps):
    """Same network, no random start, point by point: on this way the worst point, which ours keeps, is the last, which theirs is."""
    network = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
    network.load_state_dict({name: torch.from_numpy(ART[name]) for name in ("0.weight", "0.bias", "2.weight", "2.bias")})
    policy = ModulePolicy(network, Spec((5,), Discrete(4)), "network")
    attack = PGD(float(ART["eps"]), norm=norm, steps=steps, step=float(ART["share"]), random_start=False)
    seen = once(attack, policy, torch.from_numpy(ART["x"]))
    torch.testing.assert_close(seen, torch.from_numpy(ART[norm][steps - 1]), atol=2e-5, rtol=1e-4)


# --- attacks on them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [categorical, normal])
def test_mad_raises_the_divergence_more_than_chance_and_at_least_as_much_as_pgd(make, norm):
    policy, near = make(), torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    found = {
        name: harms(Divergence(), policy, near, once(attack, policy, near)).mean()
        for name, attack in {
            "mad": PGD(0.2, norm=norm, steps=20, objective=Divergence()),
            "pgd": PGD(0.2, norm=norm, steps=20),
            "chance": RandomAttack(0.2, norm=norm),
        }.items()
    }
    assert found["mad"] > 1.5 * found["chance"]
    assert found["mad"] > 0.99 * found["pgd"]


# --- by outputs alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [categorical, normal])
def test_slopes_from_outputs_point_along_the_gradient(make):
    """In the mean over many pairs, with a small width, they are the gradient."""
    policy, (near, shown) = make(), points(6)
    decision, objective = Decision(policy, None), Departure()
    anchor = objective.anchor(near, decision(near).detach(), decision)
    harm, gradient = decision.climb(shown, lambda output: objective.harm(output, anchor, decision))
    generator = torch.Generator().manual_seed(0)
    same, estimate = Estimated(4000).at(shown, anchor, decision, objective, torch.full((6, 1), 0.01), generator)
    torch.testing.assert_close(same, harm)
    assert (torch.cosine_similarity(estimate, gradient, -1) > 0.99).all()
    torch.testing.assert_close(estimate.norm(dim=-1), gradient.norm(dim=-1), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("objective", [Departure(), Divergence()])
def test_by_outputs_a_policy_that_only_names_its_action_is_made_to_change_it(objective):
    function = FunctionPolicy(lambda obs: (obs[:, 2] + obs[:, 3] > 0).astype(int), Spec((4,), Discrete(2)), "python:x")
    near = 0.1 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    flipped = {}
    for name, attack in {
        "score": PGD(0.15, norm="l2", slopes=Estimated(), objective=objective),
        "chance": RandomAttack(0.15, norm="l2"),
    }.items():
        flipped[name] = (function.act(once(attack, function, near))[0] != function.act(near)[0]).float().mean()
    assert flipped["score"] > 0.6
    assert flipped["score"] > 2.0 * flipped["chance"]


def test_by_outputs_a_policy_that_always_does_the_same_is_reported_as_failed():
    function = FunctionPolicy(lambda obs: np.ones(len(obs), int), Spec((4,), Discrete(2)), "python:x")
    attack = PGD(0.2, norm="l2", slopes=Estimated())
    once(attack, function, torch.randn(5, 4))
    assert attack.failed and attack.tried and not attack.needs_gradient


def test_fgsm_of_scores_is_the_sign_of_torchs_gradient():
    policy, near = categorical(), points()[0].requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(policy(near), policy(near).argmax(-1), reduction="sum"), near)
    near = near.detach()
    torch.testing.assert_close(once(FGSM(0.2, norm="linf"), policy, near), near + 0.2 * gradient.sign(), atol=1e-5, rtol=1e-5)
