"""PROTECTED: its settings, an iteration without attack (oracle 6), budgets (oracle 7), resumes, fleets, and what its attacker looks for."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from surefoot.data.rollouts import Rollouts
from surefoot.data.spec import Continuous, Spec
from surefoot.envs.making import env_spaces
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.methods.online.adversary import Adversary
from surefoot.methods.online.opponents import mean_returns
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.methods.online.protected import PRESETS, ProtectedConfig, attack_on, check_first, discovery
from surefoot.methods.online.sa_ppo import SAPPO
from surefoot.policies.families import Categorical, Gaussian, NormalPolicy
from surefoot.policies.frame_stack import FrameStack

torch.set_num_threads(1)

SMALL = ProtectedConfig(n_steps=16, n_envs=2, minibatches=4, epochs=2, train_steps=4, radius_length=0, judge_every=2, judge_episodes=2)


def first(env="Pendulum-v1", copies=(), seed=0, updates=1) -> NormalPolicy | Categorical:
    """A policy that PPO has begun to learn: its scaling is that of what it saw."""
    config = PPOConfig(n_steps=64, n_envs=2, minibatch=64, epochs=1, hidden=(8, 8))
    method = PPO(env_spaces(env), config, copies, seed=seed)
    source = Rollouts(env, method.policy, 64, copies=copies, n_envs=2, seed=seed)
    for _ in range(updates):
        method.update(next(source))
    source.close()
    method.policy.zero_grad()
    return method.policy.requires_grad_(False)


def iteration(start, past, config=SMALL, updates=1, **where):
    method, source = discovery(start, past, where.pop("env", "Pendulum-v1"), config, seed=5, max_steps=20, **where)
    batches = []
    for _ in range(updates):
        batches.append(next(source))
        method.update(batches[-1])
    source.close()
    return method, batches


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_settings_of_the_card():
    hopper = PRESETS["Hopper"]
    policy, attacker = hopper.policy_ppo, hopper.attacker_ppo
    assert hopper == ProtectedConfig() and (hopper.radius, hopper.train_steps, hopper.steps) == (0.075, 2441, 2441 * 2048)
    assert (policy.learning_rate, policy.entropy_weight, policy.kappa, policy.radius_length, policy.langevin_steps) == (
        3e-4,
        0.01,
        0.3,
        1831,
        2,
    )
    assert (attacker.learning_rate, hopper.attacker_value_rate, attacker.entropy_weight, attacker.clip) == (1e-2, 1e-3, 3e-4, 0.4)
    for each in (policy, attacker):
        assert (each.n_steps * each.n_envs, each.epochs, each.minibatch, each.gamma, each.gae_lambda) == (2048, 10, 64, 0.99, 0.95)
        assert (each.eps, each.hidden, each.raw_obs, each.anneal) == (1e-5, (64, 64), True, hopper.steps)
    walker, cheetah, ant = (PRESETS[name] for name in ("Walker2d", "HalfCheetah", "Ant"))
    assert (walker.radius, walker.kappa, walker.learning_rate, walker.attacker_rate, walker.attacker_clip) == (0.05, 0.1, 4e-4, 1e-3, 0.2)
    assert (cheetah.radius, cheetah.kappa, cheetah.learning_rate, cheetah.attacker_value_rate) == (0.15, 0.03, 1e-3, 1e-2)
    assert (ant.radius, ant.kappa, ant.train_steps, ant.radius_length, ant.attacker_entropy) == (0.15, 0.1, 4882, 3662, 1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_steps": 0}, "train_steps is 0: it must be positive"),
        ({"iterations": -1}, "iterations is -1"),
        ({"attack": "fgsm"}, "attack is 'fgsm': it must be 'pa_ad' or 'sa_rl'"),
        ({"opponent": "best"}, "opponent is 'best'"),
        ({"minibatches": 20}, "minibatches is 20: an update has 32 steps"),
        ({"radius": -1.0}, "radius is -1.0"),
        ({"attacker_rate": 0.0}, "learning_rate is 0.0"),
        ({"langevin_steps": 0}, "langevin_steps is 0"),
        ({"attacker_value_rate": 0.0}, "attacker_value_rate is 0.0"),
    ],
)
def test_bad_settings_are_one_sentence(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    "policy",
    [
        Gaussian(env_spaces("Pendulum-v1"), (8,)),
        NormalPolicy(env_spaces("Pendulum-v1"), (8,)),
        Categorical(env_spaces("CartPole-v1"), (8,)),
        FrameStack(first("CartPole-v1"), 1),
    ],
    ids=["sac", "iql", "relu", "stacked"],
)
def test_policies_that_ppo_cannot_go_on_with_say_so(policy):
    with pytest.raises(PolicyError, match="cannot be learned on: start from one that ppo or sa_ppo learned"):
        check_first(policy)


# --- an iteration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["pa_ad", "sa_rl"])
def test_without_a_radius_the_policy_is_that_of_ppo(attack):
    """Oracle 6: attackers show the state itself, R is 0, and the policy's steps are PPO's at the same seed, bit for bit."""
    start = first()
    config = replace(SMALL, radius=0.0, attack=attack)
    method, batches = iteration(start, [start], config, updates=3)
    plain = PPO(
        start.spec, PPOConfig(**{k: getattr(config.policy_ppo, k) for k in PPOConfig.__dataclass_fields__} | {"hidden": (8, 8)}), seed=0
    )
    plain.load_state_dict(fresh(start, config).state_dict())
    for batch in batches:
        plain.update(batch.learning)
    for mine, theirs in zip(method.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(batches[0].learning.obs, fresh_plays(start, config))


def fresh(start, config) -> PPO:
    """The learner of an iteration before its first update."""
    method, source = discovery(start, [start], "Pendulum-v1", config, seed=5, max_steps=20)
    source.close()
    state = method.victim.state_dict()
    state.pop("updates")
    out = PPO(start.spec, replace(PPOConfig(n_steps=16, n_envs=2, minibatch=8, epochs=2, raw_obs=True, anneal=config.steps), hidden=(8, 8)))
    out.load_state_dict(state)
    return out


def fresh_plays(start, config) -> torch.Tensor:
    """What PPO's own source shows at the seed of the iteration's."""
    method, source = discovery(start, [start], "Pendulum-v1", config, seed=5, max_steps=20)
    plain = Rollouts("Pendulum-v1", method.policy, 16, n_envs=2, seed=derive_seed(5, 2), max_steps=20)
    obs = next(plain).obs
    plain.close(), source.close()
    return obs


@pytest.mark.parametrize("attack", ["pa_ad", "sa_rl"])
@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_what_is_shown_stays_in_its_box(env, attack):
    """Oracle 7: at most eps in each scaled observation; and the attacker learns from the truth."""
    start = first(env)
    config = replace(SMALL, attack=attack, radius=0.2)
    method, source = discovery(start, [start], env, config, seed=2, max_steps=20)
    adversary, pairs = method.adversary, []
    perturbed = Adversary.perturbed

    def spying(self, victim, obs, drawn, **options):
        pairs.append((obs, perturbed(self, victim, obs, drawn, **options)))
        return pairs[-1][1]

    Adversary.perturbed = spying
    try:
        clash = next(source)
    finally:
        Adversary.perturbed = perturbed
        source.close()
    unit = start.normaliser.std
    for obs, shown in pairs:
        assert ((shown - obs) / unit).abs().max() <= 0.2 + 1e-6
    assert adversary.eps == 0.2 and any((shown != obs).any() for obs, shown in pairs)
    seen = {tuple(row.tolist()) for obs, _ in pairs for row in obs}
    for part in (clash.raised, clash.lowered):
        assert all(tuple(row.tolist()) in seen for row in part.obs.flatten(0, 1))
    shown = {tuple(row.tolist()) for _, each in pairs for row in each}
    assert all(tuple(row.tolist()) in shown for row in clash.learning.obs.flatten(0, 1))


def test_the_policy_starts_as_a_copy_and_keeps_its_scaling():
    start = first(copies=(2,))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    method, _ = iteration(start, [start, start], updates=2)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert torch.equal(method.policy.normaliser.mean, start.normaliser.mean)
    assert torch.equal(method.attacking.normaliser.std, start.normaliser.std)
    assert not torch.equal(method.policy.net.weights[0], start.net.weights[0])
    assert method.steps == 2 * 32 and isinstance(method.victim, SAPPO)
    assert all(p.grad is None for p in start.parameters())  # nothing flows from attackers to policies


@pytest.mark.parametrize(("past", "rule"), [(0, "argmax"), (2, "argmax"), (2, "exp3")])
def test_a_resumed_iteration_goes_on_bit_for_bit(past, rule):
    start = first()
    config = replace(SMALL, opponent=rule)

    def begun():
        return discovery(start, [start] * past, "Pendulum-v1", config, seed=5, max_steps=20)

    (whole, whole_source), (part, part_source), (again, again_source) = begun(), begun(), begun()
    for _ in range(4):
        whole.update(next(whole_source))
    for _ in range(2):
        part.update(next(part_source))
    again.load_state_dict({k: v.clone() for k, v in part.state_dict().items()})
    again_source.load_state_dict(part_source.state_dict())
    for _ in range(2):
        again.update(next(again_source))
    for a, b in ((whole, again), (whole_source, again_source)):
        ours, state = a.state_dict(), b.state_dict()
        assert ours.keys() == state.keys()
        assert all(torch.equal(ours[name].nan_to_num(), state[name].nan_to_num()) for name in ours)


# --- discovering ------------------------------------------------------------------------------------------------------


class Sides(gym.Env):
    """One step: a side is shown, -1 or 1, and the reward is that of acting on that side, from 0 to 1."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side = float(self.np_random.choice([-1.0, 1.0]))
        return np.array([self.side], np.float32), {}

    def step(self, action):
        return np.array([self.side], np.float32), 0.5 + 0.5 * float(action[0]) * self.side, True, False, {}


gym.register("tests/Sides-v0", Sides, max_episode_steps=1)

SPEC = Spec((1,), Continuous((-1.0,), (1.0,)))
FLIPPING = ProtectedConfig(
    radius=2.0, attack="sa_rl", train_steps=15, n_steps=8, n_envs=16, minibatches=4, kappa=0.0, radius_length=0, learning_rate=1e-9,
    entropy_weight=0.0, attacker_rate=1e-2, attacker_value_rate=1e-2, epochs=4,
)  # fmt: skip


def sided(sign: float) -> NormalPolicy:
    """Acts on the side that it is shown, which is the best there is without attack, or (sign -1) on the other."""
    policy = NormalPolicy(SPEC, (8,), activation="tanh", squashed=False)
    with torch.no_grad():
        policy.net.weights[0].fill_(1.0), policy.net.biases[0].zero_()
        policy.net.weights[1].fill_(0.2 * sign), policy.net.biases[1].zero_()
        policy.log_std.fill_(-0.5)
    return policy.requires_grad_(False)


def earned(policy: NormalPolicy, adversary: Adversary) -> float:
    return float(mean_returns(policy, adversary, "tests/Sides-v0", 50, seed=1))


def test_the_attacker_looks_for_a_world_in_which_the_new_policy_is_the_best():
    """The new policy acts on the other side (and hardly learns here): the attacker turns sides round, so that it earns all and the old
    one nothing. Without the old one in the game (ATLA) the attacker leaves things as they are, which is the worst for the new one.
    """
    old, new = sided(1.0), sided(-1.0)
    for past, ours, theirs in (([old], 1.0, 0.0), ([], 0.0, 1.0)):
        method, source = discovery(new, past, "tests/Sides-v0", FLIPPING, seed=3)
        for _ in range(FLIPPING.train_steps):
            method.update(next(source))
        source.close()
        for policy, expected in ((method.policy, ours), (old, theirs)):
            assert abs(earned(policy, method.adversary) - expected) < 0.1


def test_an_attacker_on_a_set_meets_its_best_answer():
    """A policy that acts on the side shown loses all; beside one that acts on the other side, one of the two always does well."""
    right, wrong = sided(1.0), sided(-1.0)
    for policies, low, high in (([right], 0.0, 0.2), ([right, wrong], 0.4, 1.0)):
        adversary = attack_on(policies, "tests/Sides-v0", replace(FLIPPING, train_steps=30, attacker_rate=5e-3), seed=0)
        assert low <= max(earned(policy, adversary) for policy in policies) <= high
