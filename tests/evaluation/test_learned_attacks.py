"""Learned attackers as attacks: budgets, failure that is told, and that they learn to do more harm than chance or than no learning."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attacks import RandomAttack
from surefoot.evaluation.learned_attacks import Learned, LearnedAttack, learn_attack
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.online.adversary import Adversary, AttackedRollouts, adversary_ppo
from surefoot.methods.online.ppo import PPOConfig
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

CARTPOLE = Spec((4,), Discrete(2))
QUICK = PPOConfig(n_steps=64, n_envs=16, minibatch=256, learning_rate=3e-3, gamma=0.98, gae_lambda=0.9)
WAY = np.array([0.6, -0.8])
W = torch.tensor([[0.4, 0.1, -0.3, 0.2], [0.1, -0.3, 0.2, 0.4]])


class Aim(gym.Env):
    """Chance is shown, and an action is paid by how far it points along WAY."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (4,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action):
        return self.seen(), float(WAY @ action), False, False, {}

    def seen(self):
        return 0.3 * self.np_random.standard_normal(4).astype(np.float32)


gym.register("test/Aim-v0", entry_point=Aim, max_episode_steps=10)


def linear() -> ModulePolicy:
    """mu(s) = W s."""
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data.copy_(W)
    return ModulePolicy(layer, Spec((4,), Continuous((-1.0, -1.0), (1.0, 1.0))), "linear")


def lean(copies: tuple[int, ...] = ()) -> Categorical:
    """CartPole policies set by hand, all alike: push the way the pole leans."""
    policy = Categorical(CARTPOLE, (2,), copies)
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        way = torch.tensor([0.0, 0.0, 1.0, 1.0])
        policy.net.weights[0][..., 0], policy.net.weights[0][..., 1] = way, -way
        policy.net.weights[1][..., 0, 1] = policy.net.weights[1][..., 1, 0] = 1.0
    return policy


def untrained(victim, kind, eps=0.1, norm="linf") -> Adversary:
    adversary = Adversary.on(victim, adversary_ppo(victim, kind, seed=1).policy, kind, eps, scale=torch.ones(4), norm=norm)
    with torch.no_grad():
        for bias in adversary.policy.net.biases:
            bias.normal_(generator=torch.Generator().manual_seed(2))
    return adversary


def paid_for_the_return(monkeypatch) -> None:
    """Turn the attacker's reward round."""
    plain = AttackedRollouts.__next__

    def paid(self):
        duel = plain(self)
        return replace(duel, adversary=replace(duel.adversary, reward=-duel.adversary.reward))

    monkeypatch.setattr(AttackedRollouts, "__next__", paid)


# --- learning ---------------------------------------------------------------------------------------------------------

PLAYED = {"env_id": "CartPole-v1", "episodes": 20, "max_steps": 150, "seed": 1}
TRAINED = {"env_id": "CartPole-v1", "budget": 0.25, "steps": 10_000, "config": QUICK, "max_steps": 150, "check": 20}


def test_sa_rl_learns_more_harm_than_chance():
    """Three attackers of a fleet of three; untrained ones (outputs near 0) do none."""
    victim = lean((3,))
    learned = learn_attack(victim, kind="sa_rl", **TRAINED)
    attacked = rollout(victim, **PLAYED, perturb=LearnedAttack(0.25, learned)).returns
    by_chance = rollout(victim, **PLAYED, perturb=RandomAttack(0.25, norm="linf")).returns
    assert learned.lowered.all()
    assert attacked.mean() < 110 < 135 < by_chance.mean()


def test_sa_rl_that_is_paid_for_the_victims_return_does_no_harm_and_is_reported_as_failed(monkeypatch):
    """The key term: with the reward's sign wrong it learns to help."""
    paid_for_the_return(monkeypatch)
    victim = lean((3,))
    learned = learn_attack(victim, kind="sa_rl", **TRAINED | {"steps": 6_000})
    attack = LearnedAttack(0.25, learned)
    assert rollout(victim, **PLAYED, perturb=attack).returns.mean() > 140
    assert attack.failed.sum() >= 2 and attack.tried.all()


def drop(steps: int = 3_000, rate: float = 3e-3) -> tuple[float, Learned]:
    """What PA-AD takes from a linear victim's return, as a share of what the best change takes."""
    config = replace(QUICK, n_steps=32, minibatch=128, gamma=0.5, learning_rate=rate)
    learned = learn_attack(linear(), "test/Aim-v0", "pa_ad", 0.2, steps=steps, config=config)
    best = 10 * 0.2 * np.abs(W.numpy().T @ WAY).sum()
    return float((learned.clean - learned.attacked).mean() / best), learned


def test_pa_ad_learns_the_direction_that_costs_most(monkeypatch):
    share, learned = drop()
    assert share > 0.5 and learned.lowered
    share, _ = drop(steps=1, rate=1e-12)
    assert abs(share) < 0.3  # untrained
    paid_for_the_return(monkeypatch)  # the key term: with the reward's sign wrong it learns to help
    share, learned = drop()
    assert share < -0.5 and not learned.lowered
    assert LearnedAttack(0.2, learned).failed


def test_a_policy_that_only_names_actions_is_attacked_by_sa_rl():
    victim = FunctionPolicy(lambda obs: (obs[:, 2] + obs[:, 3] > 0).astype(int), CARTPOLE, "python:x")
    told = []
    learned = learn_attack(
        victim,
        "CartPole-v1",
        "sa_rl",
        0.3,
        norm="l2",
        steps=2_000,
        config=QUICK,
        max_steps=30,
        check=3,
        progress=lambda share, mean: told.append(share),
    )
    assert learned.clean.shape == learned.attacked.shape == (3,)
    assert told == sorted(told) and told[-1] == 1.0
    with pytest.raises(PolicyError, match="train SA-RL"):
        learn_attack(victim, "CartPole-v1", "pa_ad", 0.3, steps=10)


def test_learning_is_a_function_of_the_seed():
    config = replace(QUICK, n_steps=16, n_envs=4, minibatch=32)
    a, b, c = (learn_attack(linear(), "test/Aim-v0", "pa_ad", 0.2, steps=64, config=config, check=3, seed=s) for s in (1, 1, 2))
    assert (a.attacked == b.attacked).all() and (a.clean == b.clean).all()
    assert (a.clean != c.clean).any()


# --- playing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sa_rl", "pa_ad"])
@pytest.mark.parametrize("norm", ["total", "l2", "linf"])
def test_any_budget_may_be_played_with_an_attacker_and_is_kept(kind, norm):
    victim = Smoothed(FrameStack(Categorical(Spec((8,), Discrete(2)), (8,), generator=torch.Generator().manual_seed(0)), 2), 0.1)
    scale = torch.tensor([0.1, 2.0, 1.0, 0.5])
    attack = LearnedAttack(0.4, untrained(victim, kind), norm=norm, horizon=10, scale=scale)
    rollout(victim, "CartPole-v1", 5, seed=0, max_steps=10, perturb=attack)
    most = {"total": 0.4, "l2": 0.4 * 10**0.5, "linf": 0.4 * 40**0.5}[norm]
    assert (attack.spent <= most + 1e-6).all() and (attack.spent > 0.1).all()
    assert not attack.failed  # of an attacker that was not checked nothing is known against it
    assert bool(attack.gradients > 0) == (kind == "pa_ad")


def test_pa_ad_whose_gradients_all_vanish_has_failed():
    dead = Categorical(CARTPOLE, (4,))
    torch.nn.init.zeros_(dead.net.weights[1])
    attack = LearnedAttack(0.1, untrained(dead, "pa_ad"))
    rollout(dead, "CartPole-v1", 2, seed=0, max_steps=5, perturb=attack)
    assert attack.failed and attack.zero_share == 1.0


def test_an_attacker_that_did_not_lower_its_check_episodes_has_failed():
    victim = lean()
    rng = np.random.default_rng(0)
    clean = rng.normal(100.0, 10.0, 30)
    for attacked, lowered in ((clean, False), (clean - 5.0 + rng.normal(0.0, 1.0, 30), True), (clean + rng.normal(0.0, 10.0, 30), False)):
        learned = Learned(untrained(victim, "sa_rl"), clean, attacked)
        assert bool(learned.lowered) == lowered
        attack = LearnedAttack(0.1, learned)
        rollout(victim, "CartPole-v1", 2, seed=0, max_steps=5, perturb=attack)
        assert bool(attack.failed) != lowered


def test_an_attacker_of_another_policy_is_refused():
    with pytest.raises(PolicyError, match="train one on this policy"):
        rollout(lean((2,)), "CartPole-v1", 1, seed=0, perturb=LearnedAttack(0.1, untrained(lean(), "sa_rl")))


def test_a_policy_whose_actions_are_not_finite_is_told_so():
    broken = linear()
    broken.module.weight.data.fill_(float("nan"))
    with pytest.raises(PolicyError, match="not finite"):
        learn_attack(broken, "test/Aim-v0", "sa_rl", 0.1, steps=10, config=QUICK)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0.0}, "budget is 0"),
        ({"budget": float("inf")}, "budget is inf"),
        ({"steps": 0}, "steps 0"),
        ({"check": 1}, "check 1"),
        ({"norm": "total"}, "horizon"),
        ({"kind": "atla"}, "'sa_rl' or 'pa_ad'"),
    ],
)
def test_misuse_is_one_sentence(options, words):
    with pytest.raises(ConfigError, match=words):
        learn_attack(**{"policy": lean(), "env_id": "CartPole-v1", "kind": "sa_rl", "budget": 0.1} | options)
