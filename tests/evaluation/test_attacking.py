"""What all attacks share: no kind under any norm exceeds its budget, in whatever units, and the account that each gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attacking import Attack, project
from surefoot.evaluation.attacks import FGSM, PGD, RandomAttack
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.sarsa_attack import SarsaCritic
from surefoot.evaluation.suite import KINDS, LEARNED, Settings
from surefoot.evaluation.switching import Switching
from surefoot.methods.online.adversary import Adversary, adversary_ppo
from surefoot.policies.external import FunctionPolicy
from surefoot.policies.families import Categorical, Deterministic, NormalPolicy
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

DISCRETE, BOX = Spec((4,), Discrete(3)), Spec((4,), Continuous((-2.0, -1.0), (2.0, 1.0)))
SCALE = torch.tensor([0.5, 2.0, 0.1, 1.0])


def policies(seed: int):
    """One of each sort: discrete behind frames, a lone box, a fleet that does not squash its actions."""
    generator = torch.Generator().manual_seed(seed)
    stacked = Categorical(Spec((8,), DISCRETE.action), (16,), generator=generator)
    fleet = NormalPolicy(BOX, (16,), (2,), squashed=False, generator=generator)
    return {"frames": FrameStack(stacked, 2), "box": Deterministic(BOX, (16,), generator=generator), "fleet": fleet}


def attack_of(kind, policy, budget, norm, scale, seed):
    """The first variant of a kind, as the suite makes it, with a critic or an attacker that has not learned."""
    plain = Settings(norm=norm, horizon=6, scale=scale, samples=2, steps=2, step=0.4 if kind != "q" else 0.05, pairs=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    zeros = torch.zeros(*policy.copies, 4)
    critic = SarsaCritic(policy.spec, (8,), zeros, zeros + 1.0, generator)
    learned = None
    if kind in LEARNED:
        how = "linf" if norm == "linf" else "l2"
        method = adversary_ppo(policy, LEARNED[kind], seed=seed)
        with torch.no_grad():
            method.policy.net.weights[-1].mul_(300.0)  # outputs far outside the ball, too
        learned = {budget: Adversary.on(policy, method.policy, LEARNED[kind], budget, scale=torch.ones(4), norm=how)}
    (make, *_) = plain.makers(kind, critic=critic, learned=learned).values()
    return make(budget)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    norm=st.sampled_from(["total", "l2", "linf"]),
    which=st.sampled_from(["frames", "box", "fleet"]),
    budget=st.one_of(st.just(0.0), st.floats(1e-6, 3.0)),
    magnitude=st.sampled_from([1e-3, 1.0, 50.0, 1e5]),
    sigma=st.sampled_from([0.0, 0.2]),
    units=st.sampled_from([None, SCALE]),
    every=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 1000),
)
def test_no_kind_exceeds_its_budget_under_any_norm(kind, norm, which, budget, magnitude, sigma, units, every, seed):
    """Whatever is observed, in any units, switched on and off, while episodes end: 64-bit sums of what was really delivered."""
    if kind == "q" and (which != "frames" or norm != "total"):
        return  # refused, see the suite's tests
    policy = Smoothed(policies(seed)[which], sigma)
    attack = attack_of(kind, policy, budget, norm, units, seed)
    played = attack if every is None else Switching(attack, every)
    generator, copies = torch.Generator().manual_seed(seed), policy.copies
    played.start(3, policy)
    memory, total = policy.start(3), torch.zeros(*copies, 3, dtype=torch.float64)
    unit = torch.ones(4, dtype=torch.float64) if units is None else units.double()
    on = torch.tensor([True] * 3 if every is None else [True, False, True] if every == 1 else [True, True, False])
    for t in range(7):
        obs = magnitude * torch.randn(*copies, 3, 4, generator=generator)
        alive = torch.tensor([True, t < 3, t < 5]).expand(*copies, 3)
        with torch.no_grad():
            seen = played(obs, policy, memory, alive)
        assert torch.isfinite(seen).all()
        eps = (seen.double() - obs.double()) / unit
        assert (eps[~(alive & on)] == 0).all()
        total += eps.square().sum(-1)
        if norm != "total":
            size = eps.abs().amax(-1) if norm == "linf" else eps.norm(dim=-1)
            assert (size <= budget + 1e-9).all()
        memory = policy.remember(seen, memory)
    if norm == "total":
        assert (total <= budget**2 + 1e-6).all()
    np.testing.assert_allclose(played.spent**2, total.numpy(), rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["l2", "linf", "total"]), st.floats(0.0, 5.0), st.floats(0.0, 1e6), st.integers(0, 100))
def test_projection_is_into_the_ball_and_leaves_what_is_inside(norm, radius, magnitude, seed):
    eps = magnitude * torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    reach = torch.full((6,), radius, dtype=torch.float64)
    inside = project(eps, reach, norm)
    size = inside.double().abs().amax(-1) if norm == "linf" else inside.double().norm(dim=-1)
    assert (size <= radius * (1 + 1e-6) + 1e-9).all()
    torch.testing.assert_close(project(inside, reach, norm), inside, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(project(eps, torch.full((6,), 1e9, dtype=torch.float64), norm), eps)


# --- units ------------------------------------------------------------------------------------------------------------


def once(attack, policy, obs):
    attack.start(len(obs), policy)
    with torch.no_grad():
        return attack(obs, policy, policy.start(len(obs)), torch.ones(len(obs), dtype=torch.bool))


def test_a_budget_is_counted_in_units_of_scale():
    """The change divided by scale has the norm that was asked for, and so has what is reported."""
    policy, obs = Deterministic(BOX, (16,), generator=torch.Generator().manual_seed(0)), torch.zeros(20, 4)
    for norm in ("l2", "linf"):
        for attack in (RandomAttack(0.3, norm=norm, scale=SCALE), FGSM(0.3, norm=norm, scale=SCALE)):
            change = (once(attack, policy, obs) - obs) / SCALE
            size = change.abs().amax(-1) if norm == "linf" else change.norm(dim=-1)
            np.testing.assert_allclose(size.numpy(), 0.3, rtol=1e-4)
            np.testing.assert_allclose(attack.spent, change.norm(dim=-1).numpy(), rtol=1e-4)


def test_units_are_a_change_of_variables():
    """PGD in units of scale is PGD in the observation's own units on a policy that was rescaled by them, divided by scale."""
    policy, rescaled = (Deterministic(BOX, (16,), generator=torch.Generator().manual_seed(0)) for _ in range(2))
    with torch.no_grad():
        rescaled.net.weights[0].mul_(SCALE.unsqueeze(-1))
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    options = {"norm": "l2", "steps": 5, "seed": 3}
    own = once(PGD(0.5, scale=SCALE, **options), policy, x * SCALE) / SCALE
    torch.testing.assert_close(own, once(PGD(0.5, **options), rescaled, x), atol=1e-4, rtol=1e-4)


def test_members_may_have_units_of_their_own():
    fleet = NormalPolicy(BOX, (16,), (2,), squashed=False, generator=torch.Generator().manual_seed(0))
    scale = torch.stack([torch.ones(4), SCALE])
    attack, obs = RandomAttack(0.1, norm="linf", scale=scale), torch.zeros(2, 5, 4)
    attack.start(5, fleet)
    with torch.no_grad():
        seen = attack(obs, fleet, None, torch.ones(2, 5, dtype=torch.bool))
    np.testing.assert_allclose(seen.abs().numpy(), (0.1 * scale).unsqueeze(1).expand_as(seen).numpy(), rtol=1e-4)


@pytest.mark.parametrize("entry", [0.0, -1.0, float("inf"), float("nan")])
def test_units_without_a_size_are_refused(entry):
    with pytest.raises(ConfigError, match="not positive or not finite"):
        RandomAttack(0.1, norm="l2", scale=torch.tensor([1.0, entry]))


def test_units_of_another_observation_are_refused():
    with pytest.raises(PolicyError, match="scale has 2 entries, but observations have 4"):
        once(RandomAttack(0.1, norm="l2", scale=torch.ones(2)), Deterministic(BOX, (4,)), torch.zeros(1, 4))


# --- the account ------------------------------------------------------------------------------------------------------


class Wild(Attack):
    """Asks for what it may not: changes that are too large, or not numbers."""

    def __init__(self, budget, value, **options):
        super().__init__(budget, **options)
        self.value = value

    def change(self, near, decision, radius, columns):
        return torch.full_like(near, self.value)


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
def test_what_is_too_much_or_no_number_is_not_delivered(value):
    policy, obs = Deterministic(BOX, (4,)), torch.randn(3, 4)
    attack = Wild(0.1, value, norm="l2")
    assert torch.equal(once(attack, policy, obs), obs)
    assert (attack.spent == 0.0).all() and attack.changed == 0


def test_a_change_that_rounding_would_make_too_large_is_made_smaller():
    policy, obs = Deterministic(BOX, (4,)), torch.full((1, 4), 1.0)
    for budget in (1e-3, 1e-6, 6e-8, 1e-9):
        attack = Wild(budget, budget, norm="linf")
        change = (once(attack, policy, obs).double() - obs.double()).abs().max()
        assert change <= budget
        assert attack.spent[0] == pytest.approx(2.0 * float(change))


def test_chance_neither_looks_for_harm_nor_fails():
    function = FunctionPolicy(lambda obs: (obs[:, 2] > 0).astype(int), Spec((4,), Discrete(2)), "python:x")
    attack = RandomAttack(0.1, norm="l2")
    rollout(function, "CartPole-v1", 2, seed=0, max_steps=5, perturb=attack)
    assert not attack.needs_gradient and not attack.tried and not attack.failed
    assert attack.zero_share == 0.0 and attack.changed == attack.steps == 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomAttack(float("inf"), norm="l2"), "budget is inf"),
        (lambda: RandomAttack(-1.0, norm="l2"), "budget is -1"),
        (lambda: RandomAttack(0.1, norm="l0"), "'total', 'l2' or 'linf'"),
        (lambda: RandomAttack(0.1), "horizon"),
        (lambda: RandomAttack(0.1, norm="l2", samples=0), "samples is 0"),
    ],
)
def test_misuse_is_one_sentence(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
