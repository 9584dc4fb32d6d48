"""Robust Sarsa: bounds through the network, which action came next, and a critic that knows what an action costs later."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError
from surefoot.evaluation.attacks import PGD, RandomAttack
from surefoot.evaluation.decision import Decision
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.sarsa_attack import Exploring, SarsaConfig, SarsaCritic, Worth, collect, fit_sarsa, interval, smoothness
from surefoot.nn.mlp import MLP
from surefoot.policies.external import ModulePolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

GAMMA, P = 0.9, 1.0 / (1.0 - 0.9 * 0.7**2)


class Later(gym.Env):
    """x' = x / 2 + a + chance, reward -x^2 before the action: what an action costs is known a step later.

    Under a = 0.2 x: Q(x, a) = -x^2 - gamma P (x / 2 + a)^2 + const, P = 1 / (1 - gamma 0.7^2). The second number shown says nothing.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1.0, 1.0)
        return self.seen(), {}

    def step(self, action):
        reward = -(self.x**2)
        self.x = 0.5 * self.x + float(action[0]) + 0.4 * self.np_random.standard_normal()
        return self.seen(), reward, False, False, {}

    def seen(self):
        return np.array([self.x, self.np_random.standard_normal()], np.float32)


gym.register("test/Later-v0", entry_point=Later, max_episode_steps=20)


def calm() -> ModulePolicy:
    """a = 0.2 x."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[0.2, 0.0]]))
    return ModulePolicy(layer, Spec((2,), Continuous((-1.0,), (1.0,))), "calm")


def cartpole(copies: tuple[int, ...] = ()) -> Categorical:
    return Categorical(Spec((4,), Discrete(2)), (8,), copies, generator=torch.Generator().manual_seed(0))


def critic_of(spec: Spec, hidden=(16, 16), copies=(), seed=0) -> SarsaCritic:
    s = spec.obs_dim
    return SarsaCritic(spec, hidden, torch.zeros(*copies, s), torch.ones(*copies, s), torch.Generator().manual_seed(seed))


# --- bounds -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 2.0), st.sampled_from([(), (2,)]))
def test_interval_bounds_hold_at_every_point_of_the_box(seed, radius, copies):
    generator = torch.Generator().manual_seed(seed)
    net = MLP((3, 8, 8, 1), copies, generator=generator)
    x = torch.randn(*copies, 5, 3, generator=generator)
    reach = radius * torch.rand(*copies, 5, 3, generator=generator)
    with torch.no_grad():
        low, high = interval(net, x, reach)
        for _ in range(20):
            y = net(x + reach * (2.0 * torch.rand(x.shape, generator=generator) - 1.0))
            assert (y >= low - 1e-4).all() and (y <= high + 1e-4).all()


def test_interval_bounds_of_one_layer_are_attained():
    net = MLP((3, 1), generator=torch.Generator().manual_seed(0))
    x, reach, w = torch.randn(4, 3), torch.rand(4, 3), net.weights[0][:, 0]
    low, high = interval(net, x, reach)
    torch.testing.assert_close(high, net(x + reach * w.sign()))
    torch.testing.assert_close(low, net(x - reach * w.sign()))


def test_smoothness_bounds_what_q_does_when_the_action_moves():
    critic = critic_of(Spec((3,), Continuous((-1.0,) * 2, (1.0,) * 2)))
    generator = torch.Generator().manual_seed(1)
    obs, action = torch.randn(50, 3, generator=generator), torch.randn(50, 2, generator=generator)
    with torch.no_grad():
        q = critic.of(obs, action)
        bound = smoothness(critic, obs, action, q, 0.2)
        most = torch.zeros(50)
        for _ in range(100):
            b = action + 0.2 * (2.0 * torch.rand(50, 2, generator=generator) - 1.0)
            most = torch.maximum(most, (critic.of(obs, b) - q).square())
        assert (bound >= most - 1e-6).all()
        assert (smoothness(critic, obs, action, q, 0.0) < 1e-10).all()


# --- steps ------------------------------------------------------------------------------------------------------------


def test_every_pair_has_the_action_that_came_next():
    """Of a deterministic policy: the next action is that of the next observation; a row without one is not used."""
    policy = calm()
    pairs = collect(policy, "test/Later-v0", 200, seed=0)
    valid = pairs.valid
    assert 200 * 19 / 20 - 32 <= int(valid.sum()) < 200 + 32
    assert not pairs.terminated.any()
    with torch.no_grad():
        torch.testing.assert_close(pairs.next_action[valid], policy(pairs.next_obs[valid]))
        torch.testing.assert_close(pairs.action[valid], policy(pairs.obs[valid]))
    torch.testing.assert_close(pairs.reward, -pairs.obs[:, 0].square(), atol=1e-5, rtol=1e-4)


def test_pairs_of_a_fleet_stay_apart_and_ends_are_kept():
    fleet = cartpole((2,))
    pairs = collect(fleet, "CartPole-v1", 150, seed=0, max_steps=30)
    assert pairs.obs.shape[0] == 2 and pairs.action.dtype == torch.int64
    for i in range(2):
        valid, ended = pairs.valid[i], pairs.terminated[i]
        assert valid[ended & pairs.valid[i]].all() and ended.any()
        goes_on = valid & ~ended
        chosen = fleet.member(i).act(pairs.next_obs[i][goes_on])[0]
        assert torch.equal(pairs.next_action[i][goes_on], chosen)


def test_noise_is_on_what_the_policy_does():
    policy, obs, generator = calm(), torch.zeros(4000, 2), torch.Generator().manual_seed(0)
    with torch.no_grad():
        action, _ = Exploring(policy, 0.1).act(obs, generator=generator)
    assert float(action.std()) == pytest.approx(0.1, rel=0.1)
    assert (Exploring(policy, 5.0).act(obs, generator=generator)[0].abs() <= 1.0).all()
    assert torch.equal(Exploring(policy, 0.0).act(obs)[0], policy.act(obs)[0])
    chosen = cartpole().act(torch.ones(4000, 4))[0]
    moved, _ = Exploring(cartpole(), 0.2).act(torch.ones(4000, 4), generator=generator)
    assert float((moved != chosen).float().mean()) == pytest.approx(0.1, abs=0.03)  # half of the random ones are the same


# --- the critic -------------------------------------------------------------------------------------------------------

SIZE = 0.25 / (1.0 - 0.7**2)  # of x^2, where chance and noise move x by 0.4^2 + 0.3^2 a step
LEARNING = {"steps": 4_000, "updates": 800, "gamma": GAMMA, "noise": 0.3, "tau": 0.02, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def learned() -> SarsaCritic:
    return fit_sarsa(calm(), "test/Later-v0", SarsaConfig(**LEARNING), seed=1)


def slopes(critic: SarsaCritic) -> tuple[torch.Tensor, torch.Tensor]:
    """dQ/da along the policy's own choices, in the critic's units of reward, and that of the closed form."""
    x = torch.linspace(-1.0, 1.0, 41)
    obs = torch.stack([x, torch.zeros(41)], -1)
    action = (0.2 * x).unsqueeze(-1).requires_grad_()
    (slope,) = torch.autograd.grad(critic.of(critic.scaled(obs), action).sum(), action)
    truth = -2.0 * GAMMA * P * 0.7 * x
    return slope.squeeze(-1), truth


def test_the_critic_learns_what_an_action_costs_later_and_the_next_value_is_what_teaches_it(learned):
    slope, truth = slopes(learned)
    assert torch.corrcoef(torch.stack([slope, truth]))[0, 1] > 0.9
    of_value = SIZE / (1.0 - GAMMA)  # the critic's rewards are in units of mean |r| / (1 - gamma)
    assert float(of_value * (slope @ truth) / (truth @ truth)) == pytest.approx(1.0, abs=0.6)
    slope, _ = slopes(fit_sarsa(calm(), "test/Later-v0", SarsaConfig(**LEARNING | {"gamma": 0.0}), seed=1))  # the key term switched off
    assert SIZE * (slope @ truth).abs() / (truth @ truth) < 0.1


def test_the_attack_lowers_the_return_more_than_chance(learned):
    policy, play = calm(), {"env_id": "test/Later-v0", "episodes": 200, "seed": 3}
    plain = rollout(policy, **play).returns
    by_chance = rollout(policy, **play, perturb=RandomAttack(1.0, norm="linf")).returns
    attack = PGD(1.0, norm="linf", objective=Worth(learned))
    attacked = rollout(policy, **play, perturb=attack).returns
    assert not attack.failed and attack.tried
    apart = by_chance - attacked
    assert apart.mean() > 4 * apart.std(ddof=1) / np.sqrt(200)
    assert plain.mean() > by_chance.mean()


def test_worth_is_what_the_critic_thinks_of_the_decision_at_the_true_observation():
    spec = Spec((3,), Continuous((-2.0,), (2.0,)))
    policy, critic = Deterministic(spec, (8,)), critic_of(spec)
    unit = torch.tensor([0.5, 2.0, 1.0])
    decision, near = Decision(policy, None, unit=unit), torch.randn(5, 3)
    shown = decision(near)
    worth = Worth(critic)
    anchor = worth.anchor(near, shown, decision)
    torch.testing.assert_close(worth.harm(shown, anchor, decision), -critic.of(critic.scaled(near * unit), policy(near * unit) / 2.0))
    discrete = cartpole()
    critic = critic_of(discrete.spec)
    decision, near = Decision(discrete, None), torch.randn(5, 4)
    shown = decision(near)
    expected = -(torch.softmax(shown, -1) * critic.net(critic.scaled(near))).sum(-1)
    torch.testing.assert_close(Worth(critic).harm(shown, critic.scaled(near), decision), expected)


def test_a_critic_of_a_smoothed_frame_stack_sees_the_newest_frame():
    inner = Categorical(Spec((12,), Discrete(2)), (8,), (2,), generator=torch.Generator().manual_seed(0))
    policy = Smoothed(FrameStack(inner, 3), 0.1)
    critic = fit_sarsa(policy, "CartPole-v1", SarsaConfig(steps=200, updates=5), max_steps=20)
    attack = PGD(0.1, norm="l2", objective=Worth(critic), samples=3)
    assert rollout(policy, "CartPole-v1", 3, seed=0, max_steps=9, perturb=attack).returns.shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"updates": -1}, "updates is -1"),
        ({"tau": 0.0}, "tau is 0"),
        ({"penalty": -0.1}, "penalty is -0.1"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"gamma": 1.0}, "gamma is 1"),
        ({"noise": 1.5}, "noise 1.5"),
    ],
)
def test_settings_outside_their_range_are_one_sentence(options, words):
    with pytest.raises(ConfigError, match=words):
        SarsaConfig(**options)


def test_episodes_of_one_step_teach_nothing_and_say_so():
    with pytest.raises(ConfigError, match="no step is followed by another"):
        fit_sarsa(calm(), "test/Later-v0", SarsaConfig(steps=50), max_steps=1)
