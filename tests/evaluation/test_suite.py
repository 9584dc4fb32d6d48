"""The suite: which kinds fit which policy and norm, what each learns first, failures that are told, certificates that hold against all."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, EnvError, PolicyError
from surefoot.evaluation.attack_curve import worst_of
from surefoot.evaluation.certificates import certify
from surefoot.evaluation.learned_attacks import LearnedAttack
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.sarsa_attack import SarsaConfig, Worth
from surefoot.evaluation.suite import KINDS, WITHOUT_GRADIENT, Schedule, Settings, Suite, gives_gradient
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

CARTPOLE, PENDULUM = Spec((4,), Discrete(2)), Spec((3,), Continuous((-2.0,), (2.0,)))
QUICK = Settings(
    norm="linf", samples=3, steps=2, pairs=4, sarsa=SarsaConfig(steps=100, updates=3), attacker_steps=1, thresholds=(0.0,), step=0.1
)


def lean(copies: tuple[int, ...] = (), gain: float = 1.0, seed: int | None = None) -> Categorical:
    """CartPole policies set by hand: push the way the pole leans; with a seed, each member looks in a direction of its own."""
    policy = Categorical(CARTPOLE, (2,), copies)
    way = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(*copies, 4).clone()
    if seed is not None:
        way += 0.4 * torch.randn(*copies, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        policy.net.weights[0][..., 0], policy.net.weights[0][..., 1] = gain * way, -gain * way
        policy.net.weights[1][..., 0, 1] = policy.net.weights[1][..., 1, 0] = 1.0
    return policy


def named() -> FunctionPolicy:
    return FunctionPolicy(lambda obs: (obs[:, 2] + obs[:, 3] > 0).astype(int), CARTPOLE, "python:x")


class Flat(nn.Module):
    """Scores that do not depend on what is shown, though they are connected to it."""

    def forward(self, x):
        return torch.tensor([[1.0, 0.0]]) + 0.0 * x.sum(-1, keepdim=True)


# --- what fits ---------------------------------------------------------------------------------------------------------


def test_what_applies_depends_on_actions_gradients_and_norm():
    def kinds(policy, env="CartPole-v1", norm="total"):
        return set(Suite(policy, env, Settings(norm=norm)).applicable())

    assert kinds(lean()) == set(KINDS)
    assert kinds(lean(), norm="l2") == set(KINDS) - {"q"}
    assert kinds(Smoothed(Deterministic(PENDULUM, (4,)), 0.1), "Pendulum-v1") == set(KINDS) - {"q"}
    assert kinds(Smoothed(named(), 0.1)) == set(WITHOUT_GRADIENT)
    hard = ModulePolicy(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), CARTPOLE, "names a number")
    assert kinds(hard) == set(WITHOUT_GRADIENT)


def test_whether_there_is_a_gradient():
    class Cut(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot((x[:, 2] >= 0).long(), 2).float()

    assert gives_gradient(Smoothed(FrameStack(Categorical(Spec((8,), Discrete(2)), (4,), (2,)), 2), 0.1))
    assert gives_gradient(ModulePolicy(Flat(), CARTPOLE, "flat"))  # zero, but there
    assert not gives_gradient(ModulePolicy(Cut(), CARTPOLE, "cut"))
    assert not gives_gradient(Smoothed(named(), 0.1))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(WITHOUT_GRADIENT)))
def test_what_needs_a_gradient_is_refused_where_there_is_none(kind):
    suite = Suite(Smoothed(named(), 0.1), "CartPole-v1", Settings())
    with pytest.raises(PolicyError, match=f"the FunctionPolicy policy gives no gradient .* which {kind} needs"):
        suite.check(kind, [0.0, 0.1])


def test_the_q_attack_is_for_discrete_actions_and_total_budgets():
    with pytest.raises(PolicyError, match="discrete actions"):
        Suite(Deterministic(PENDULUM, (4,)), "Pendulum-v1", Settings()).check("q", [0.1])
    with pytest.raises(ConfigError, match="one budget for the whole episode"):
        Suite(lean(), "CartPole-v1", Settings(norm="l2")).check("q", [0.1])


def test_discrete_observations_are_refused():
    with pytest.raises(EnvError, match="cannot be changed by small amounts"):
        Suite(lean(), "FrozenLake-v1", Settings()).check("random", [0.1])


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (Settings(thresholds=()), "q", "no threshold"),
        (Settings(attacker_steps=0), "sa-rl", "attacker_steps is 0"),
        (Settings(steps=0), "mad", "steps is 0"),
        (Settings(pairs=0), "score", "pairs is 0"),
        (Settings(samples=0), "random", "samples is 0"),
        (Settings(scale=torch.tensor([0.0, 1.0, 1.0, 1.0])), "rs", "not positive"),
    ],
)
def test_settings_are_checked_before_the_first_step(settings, kind, words):
    with pytest.raises(ConfigError, match=words):
        Suite(lean(), "CartPole-v1", settings).check(kind, [0.1])


# --- playing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Smoothed(lean(), 0.05), named], ids=["smoothed", "function"])
def test_every_kind_that_applies_is_played_on_the_same_episodes_within_its_budget(make):
    policy, told = make(), []
    suite = Suite(policy, "CartPole-v1", replace(QUICK, norm="total"), max_steps=8, progress=told.append)
    curves = {kind: suite.play(kind, (0.0, 0.3), episodes=3) for kind in suite.applicable()}
    plain = rollout(policy, "CartPole-v1", 3, seed=3_000, max_steps=8).returns
    for curve in curves.values():
        assert (curve.returns[0] == plain).all()
        assert (curve.spent[0] == 0.0).all() and (curve.spent[1] <= 0.3 + 1e-9).all()
    worst = worst_of(curves)
    assert worst.variants == tuple(curves)
    trusted = np.stack([np.where(c.failed[1], np.inf, c.returns[1].mean(-1)) for c in curves.values()])
    assert (worst.returns[1].mean(-1) == trusted.min(0)).all()
    assert any(line.startswith("sa-rl: training") for line in told) and any(line.startswith("B = 0.3") for line in told)


def test_what_is_learned_is_of_this_policy_at_each_budget(monkeypatch):
    suite = Suite(lean(), "CartPole-v1", QUICK, max_steps=8)
    (make,) = suite.learn("sa-rl", [0.0, 0.1, 0.2]).values()
    assert isinstance(make(0.1), LearnedAttack) and make(0.1).adversary.eps == 0.1
    assert make(0.2).adversary is not make(0.1).adversary
    (make,) = suite.learn("rs", [0.0, 0.1]).values()
    assert isinstance(make(0.1).objective, Worth)
    monkeypatch.setattr("surefoot.evaluation.suite.fit_sarsa", None)  # nothing is learned where nothing is attacked
    monkeypatch.setattr("surefoot.evaluation.suite.learn_attack", None)
    for kind in ("rs", "pa-ad"):
        suite.learn(kind, [0.0])


def test_kinds_that_come_and_go_share_their_schedule():
    suite = Suite(lean(), "CartPole-v1", QUICK, max_steps=8, schedule=Schedule(1, 0.5))
    fgsm, chance = (suite.play(kind, (0.5,), episodes=12) for kind in ("fgsm", "random"))
    quiet = suite.play("random", (0.0,), episodes=12).returns[0, 0]
    assert fgsm.spent[0] > 0.0 and chance.spent[0] > 0.0
    always = Suite(lean(), "CartPole-v1", QUICK, max_steps=8).play("fgsm", (0.5,), episodes=12)
    assert 0.0 < fgsm.spent[0] < always.spent[0]
    assert quiet == 8.0


def test_kinds_that_failed_do_not_count_and_all_that_fail_is_a_failure():
    policy = ModulePolicy(Flat(), CARTPOLE, "flat")
    suite = Suite(policy, "CartPole-v1", QUICK, max_steps=8)
    curves = {kind: suite.play(kind, (0.0, 0.3), episodes=3) for kind in ("fgsm", "pgd", "mad", "rs", "score", "sa-rl", "pa-ad", "random")}
    for kind, curve in curves.items():
        assert bool(curve.failed[1]) == (kind != "random"), kind
        assert bool(curve.tried[1]) == (kind != "random"), kind
    worst = worst_of(curves)
    assert worst.failed.tolist() == [False, True]  # chance did not fail, but it is no proof that others could do no harm
    assert worst.to_json()["members"][0]["mean"][1] is None
    alive = worst_of(curves | {"fgsm": Suite(lean(), "CartPole-v1", QUICK, max_steps=8).play("fgsm", (0.0, 0.3), episodes=3)})
    assert not alive.failed.any()


def test_curves_of_other_episodes_are_not_compared():
    suite, other = (Suite(lean(), "CartPole-v1", replace(QUICK, seed=seed), max_steps=5) for seed in (1, 2))
    with pytest.raises(ConfigError, match="other budgets or on other episodes"):
        worst_of({"a": suite.play("random", (0.1,), episodes=2), "b": other.play("random", (0.1,), episodes=2)})


# --- certificates ------------------------------------------------------------------------------------------------------


class OneStep(gym.Env):
    """One step at the origin, reward 1 for action 0: where a bound by smoothing is attained."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), float(action == 0), True, False, {}


gym.register("test/OneStepOf3-v0", entry_point=OneStep, max_episode_steps=1)


def halfspaces(n: int) -> tuple[Categorical, np.ndarray]:
    """Policies that take action 0 where w.x <= c, |w| = 1, and their c."""
    rng = np.random.default_rng(0)
    w, c = rng.normal(size=(n, 3)), rng.uniform(0.1, 1.2, n)
    w /= np.linalg.norm(w, axis=-1, keepdims=True)
    policy = Categorical(Spec((3,), Discrete(2)), (), (n,))
    with torch.no_grad():
        policy.net.weights[0].copy_(torch.tensor(np.stack([-w, w], -1)))
        policy.net.biases[0].copy_(torch.tensor(np.stack([c, -c], -1)))
    return policy, c


def test_no_attack_on_many_policies_goes_below_their_certificates_and_the_best_attain_them():
    policy, c = halfspaces(12)
    sigma, budgets, n = 0.5, [0.0, 0.4], 400
    fleet = Smoothed(policy, sigma)
    certificate = certify(fleet, "test/OneStepOf3-v0", budgets, episodes=1_000, seed=1, bound="clopper", r_min=0, r_max=1)
    suite = Suite(fleet, "test/OneStepOf3-v0", Settings(samples=8, steps=4, step=0.4, pairs=16, horizon=1, seed=2))
    truth = stats.norm.cdf((c - np.array(budgets)[:, None]) / sigma)  # [K, 12] of the best attacker
    spread = np.sqrt(truth * (1.0 - truth) / n)
    for kind in ("fgsm", "pgd", "mad", "score", "random"):
        mean = suite.play(kind, budgets, episodes=n).returns.mean(-1)
        assert (mean + 4.0 * spread >= certificate.lower.T).all(), kind
        if kind in ("fgsm", "pgd"):
            assert (np.abs(mean - truth) <= 4.5 * spread).all(), kind
            unguarded = certificate.lower.T[0]  # without the term for the attacker the bound is broken: the test can fail
            assert (mean[1] + 4.0 * spread[1] < unguarded).mean() > 0.5


def test_no_attack_on_many_cartpole_policies_goes_below_their_certificates():
    """Eight policies that look in ways of their own, some good, some bad."""
    fleet, budgets, limit = Smoothed(lean((8,), gain=3.0, seed=0), 0.2), [0.3, 1.0], 50
    certificate = certify(fleet, "CartPole-v1", budgets, episodes=500, max_steps=limit, seed=1)
    suite = Suite(fleet, "CartPole-v1", Settings(samples=4, steps=3, horizon=20, thresholds=(0.0,), step=0.2, pairs=4), max_steps=limit)
    for kind in ("q", "pgd", "mad", "score"):
        returns = suite.play(kind, budgets, episodes=25).returns
        error = returns.std(-1, ddof=1) / np.sqrt(25)
        assert (returns.mean(-1) + 4.0 * error >= certificate.lower.T).all(), kind
    assert np.ptp(returns.mean(-1)) > 10.0 and certificate.lower.max() > 30.0
