"""What is certified survives attacks: returns of many smoothed policies under every attack of the same budget, and choices within
their radius under gradient attacks on the smoothed classifier itself.

How often certificates hold where the truth is known is in `test_coverage.py`.
"""

from functools import partial

import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.evaluation.attack_curve import attack_curve
from surefoot.evaluation.attacks import FGSM, PGD, Estimated, QAttack, RandomAttack
from surefoot.evaluation.certificates import certify
from surefoot.evaluation.lvm_rs import ABSTAIN, VOTES, certify_inputs, simplex_maps
from surefoot.nn.mlp import MLP
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

# --- returns ----------------------------------------------------------------------------------------------------------

MEMBERS, BUDGETS = 12, [0.1, 0.6]
ATTACKS = {
    "q": partial(QAttack, step=0.1, samples=4),
    "fgsm": partial(FGSM, norm="total", horizon=10, samples=4),
    "pgd": partial(PGD, norm="total", horizon=10, samples=4, steps=3),
    "pgd from outputs": partial(PGD, norm="total", horizon=10, samples=4, steps=2, slopes=Estimated(4)),
    "random": partial(RandomAttack, norm="total", horizon=10),
}


def balancing(frames=1):
    """Twelve CartPole policies, from good to useless: they push the way the pole leans, with ever more of a random network's taste."""
    generator = torch.Generator().manual_seed(0)
    spec = Spec((4 * frames,), Discrete(2))
    policy = Categorical(spec, (16,), (MEMBERS,), generator=generator)
    with torch.no_grad():
        first, last = policy.net.weights
        taste = torch.linspace(0.0, 2.0, MEMBERS)[:, None]
        first[:, :, 0] = taste * first[:, :, 0] + torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(frames) / frames
        first[:, :, 1] = taste * first[:, :, 1] - torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(frames) / frames
        last[:, 0] += torch.tensor([-3.0, 3.0])
        last[:, 1] += torch.tensor([3.0, -3.0])
    return FrameStack(policy, frames) if frames > 1 else policy


def swinging():
    """Twelve policies of continuous actions with random weights of different sizes."""
    policy = Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (16,), (MEMBERS,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        policy.net.weights[0].mul_(torch.linspace(0.5, 5.0, MEMBERS)[:, None, None])
    return policy


@pytest.mark.parametrize(
    ("policy", "env_id", "steps", "episodes", "attacks"),
    [
        (balancing(), "CartPole-v1", 50, 20, tuple(ATTACKS)),
        (balancing(frames=2), "CartPole-v1", 50, 15, ("q", "pgd")),
        (swinging(), "Pendulum-v1", 12, 8, ("fgsm", "pgd", "random")),
    ],
    ids=["cart pole", "cart pole, two frames", "pendulum"],
)
def test_no_attack_brings_a_return_below_its_certificate(policy, env_id, steps, episodes, attacks):
    smoothed = Smoothed(policy, 0.2)
    certificate = certify(smoothed, env_id, BUDGETS, episodes=10 * episodes, alpha=0.001, max_steps=steps, seed=1)
    means = []
    for name in attacks:
        curve = attack_curve(smoothed, env_id, BUDGETS, {name: ATTACKS[name]}, episodes=episodes, max_steps=steps, seed=2)
        error = curve.returns.std(-1, ddof=1) / np.sqrt(episodes)
        means.append(curve.returns.mean(-1))  # [K, F]
        assert (means[-1] + 4.0 * error >= certificate.lower.T).all(), name
    if env_id == "CartPole-v1":  # neither side is vacuous: bounds are above what is sure, and attacks do harm
        assert (certificate.lower[:, 0] > 5.0).all()
        assert (certificate.returns.mean(-1) - np.min(means, 0)[-1]).max() > 3.0


# --- choices ----------------------------------------------------------------------------------------------------------

SIGMA, INPUTS, DRAWS = 0.5, 16, 10_000


def smoothed_means(net, of, x, draws, generator):
    """Mean output of the map over the noise around each of `x` `[k, d]`: `[k, c]`; the gradient of votes is that of a soft map."""
    copies = x[:, None] + SIGMA * torch.randn(len(x), draws, x.shape[-1], generator=generator)
    z = net(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])
    soft = torch.softmax(8.0 * z, -1) if of.kind == "argmax" else of(z)
    return (soft + (of(z) - soft).detach() if of.kind == "argmax" else soft).mean(1)


def harmed(net, of, x, label, radius, generator):
    """`x` `[d]` moved by `radius` to where the label leads least, by gradient steps of ever smaller size from several starts."""
    starts = torch.nn.functional.normalize(torch.randn(4, len(x), generator=generator), dim=-1) * radius
    moved = x + starts
    for i in range(12):
        moved.requires_grad_(True)
        means = smoothed_means(net, of, moved, 128, generator)
        lead = means[:, label] - means.masked_fill(torch.arange(means.shape[-1]) == label, -1.0).amax(-1)
        (gradient,) = torch.autograd.grad(lead.sum(), moved)
        step = moved.detach() - x - radius * 0.8**i * torch.nn.functional.normalize(gradient, dim=-1)
        moved = x + radius * torch.nn.functional.normalize(step, dim=-1)
    return moved.detach()


@pytest.mark.parametrize("maps", [VOTES, simplex_maps((0.5, 2.0, 8.0))], ids=["votes", "all maps"])
def test_no_attack_within_the_radius_changes_a_certified_choice(maps):
    generator = torch.Generator().manual_seed(0)
    net = MLP((3, 32, 4), generator=generator)
    with torch.no_grad():
        net.weights[0].mul_(4.0)
    x = torch.randn(INPUTS, 3, generator=generator)
    found = certify_inputs(net, x, SIGMA, n0=200, n=5_000, alpha=1e-4, maps=maps, generator=generator)
    certified = [i for i, each in enumerate(found) if each.label != ABSTAIN]
    assert len(certified) > INPUTS // 2
    beyond = 0
    for i in certified:
        label, of, radius = found[i].label, found[i].chosen, found[i].radius
        ends = [harmed(net, of, x[i], label, r, generator) for r in (radius, 3.0 * radius)]
        with torch.no_grad():
            inside, outside = (smoothed_means(net, of, end, DRAWS, generator) for end in ends)
        others = torch.arange(inside.shape[-1]) != label
        assert (inside[:, label] + 4.0 * 0.5 / DRAWS**0.5 * 2.0**0.5 >= inside[:, others].amax(-1)).all()
        beyond += bool((outside[:, label] < outside[:, others].amax(-1)).any())
    assert beyond > len(certified) // 4  # the attack is a real one: further out it changes choices
