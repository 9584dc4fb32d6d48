"""Smoothing: noise once for each new frame, from the caller's generator, part of the policy; and nothing at sigma 0."""

import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError
from surefoot.evaluation.rollouts import play, rollout
from surefoot.policies.external import FunctionPolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.saving import read_policy, save_policy
from surefoot.steering.smoothed import Smoothed

CARTPOLE, PENDULUM = Spec((4,), Discrete(2)), Spec((3,), Continuous((-2.0,), (2.0,)))


class Mirror(Deterministic):
    """Acts with what it observes."""

    def __init__(self, copies=()):
        super().__init__(Spec((2,), Continuous((-100.0,) * 2, (100.0,) * 2)), (), copies)
        self.seen = []

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        self.seen.append(obs)
        return obs, memory


def test_sigma_zero_is_the_policy_itself_and_draws_nothing():
    inner = FrameStack(Categorical(Spec((12,), Discrete(2)), (16,)), 3)
    plain, wrapped = (list(play(p, "CartPole-v1", 6, seed=0, greedy=False, max_steps=40)) for p in (inner, Smoothed(inner, 0.0)))
    for a, b in zip(plain, wrapped, strict=True):
        assert (a.obs == b.obs).all()
        assert (a.action == b.action).all()
    obs, generator = torch.randn(5, 2), torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(Smoothed(Mirror(), 0.0).act(obs, generator=generator)[0], obs)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("greedy", [True, False])
def test_noise_has_the_standard_deviation_and_is_drawn_from_the_given_generator(greedy):
    policy, obs = Smoothed(Mirror(), 0.3), torch.randn(20_000, 2)
    draws = [policy.act(obs, generator=torch.Generator().manual_seed(s), greedy=greedy)[0] - obs for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    np.testing.assert_allclose(draws[0].std(0), 0.3, rtol=0.03)
    np.testing.assert_allclose(draws[0].mean(0), 0.0, atol=0.01)


def test_members_get_noise_of_their_own():
    noise = Smoothed(Mirror((3,)), 1.0).act(torch.zeros(3, 4, 2))[0]
    assert len(noise.reshape(-1, 2).unique(dim=0)) == 12


def test_noise_is_drawn_once_for_each_frame_and_kept_while_it_is_stale():
    inner = FrameStack(Categorical(Spec((6,), Discrete(2)), ()), 3)
    policy, generator, again = Smoothed(inner, 0.5), *(torch.Generator().manual_seed(7) for _ in range(2))
    memory, shown = policy.start(4), []
    for t in range(5):
        obs = torch.randn(4, 2)
        _, memory = policy.act(obs, memory, generator=generator)
        shown.append(obs + 0.5 * torch.empty(4, 2).normal_(generator=again))
        first = [shown[0]] * (3 - len(shown)) + shown[-3:]  # the first frame is repeated with one and the same noise
        assert torch.equal(memory["frames"], torch.stack(first, 1)), t


def test_decide_and_remember_are_without_noise():
    inner = FrameStack(Categorical(Spec((6,), Discrete(2)), (8,)), 3)
    policy, obs = Smoothed(inner, 0.5), torch.randn(4, 2)
    assert torch.equal(policy.decide(obs, policy.start(4)), inner.decide(obs, inner.start(4)))
    assert torch.equal(policy.remember(obs, policy.start(4))["frames"], inner.remember(obs, inner.start(4))["frames"])
    plain = Categorical(CARTPOLE, (8,))
    assert torch.equal(Smoothed(plain, 0.5)(torch.ones(2, 4)), plain(torch.ones(2, 4)))


def test_noise_costs_return_and_more_of_it_costs_more():
    lean = Categorical(CARTPOLE, ())
    torch.nn.init.zeros_(lean.net.biases[0])
    lean.net.weights[0].data.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    means = [rollout(Smoothed(lean, sigma), "CartPole-v1", 60, seed=0, max_steps=200).returns.mean() for sigma in (0.0, 0.5, 2.0)]
    assert means[0] == 200
    assert means[0] > means[1] > means[2]


def test_members_files_and_policies_without_a_gradient(tmp_path):
    fleet = Smoothed(Deterministic(PENDULUM, (8,), (2,)), 0.1)
    lone = fleet.member(1)
    obs = torch.randn(5, 3)
    assert (lone.copies, lone.sigma) == ((), 0.1)
    torch.testing.assert_close(lone.decide(obs), fleet.decide(obs.expand(2, 5, 3))[1])
    save_policy(fleet, tmp_path / "p")
    again = read_policy(tmp_path / "p")
    assert isinstance(again, Smoothed)
    draws = [p.act(obs.expand(2, 5, 3), generator=torch.Generator().manual_seed(0))[0] for p in (fleet, again)]
    assert torch.equal(*draws)
    function = FunctionPolicy(lambda x: (x[:, 0] > 0).astype(int), CARTPOLE, "python:x")
    assert not Smoothed(function, 0.1).differentiable
    assert rollout(Smoothed(function, 0.1), "CartPole-v1", 2, seed=0).returns.shape == (2,)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_sigma_must_be_finite_and_not_negative(sigma):
    with pytest.raises(ConfigError, match=f"sigma is {sigma}"):
        Smoothed(Deterministic(PENDULUM, (4,)), sigma)
