"""The TD3 core: losses by hand, target smoothing, the delay, and whole steps against the algorithm written out."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, Spec
from surefoot.errors import ConfigError
from surefoot.methods.offline.td3 import TD3, TD3Config, critic_loss, regulariser, td_target, value_loss

SPEC = Spec((3,), Continuous((-2.0, -1.0), (2.0, 1.0)), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5]))
TINY = {"hidden": (16, 16), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.1}


def batch(seed=0, size=32) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    action = (2.0 * torch.rand(size, 2, generator=g) - 1.0) * torch.tensor([2.0, 1.0])
    reward, ends = torch.randn(size, generator=g), (torch.rand(size, generator=g) < 0.2).float()
    return Transitions(torch.randn(size, 3, generator=g), action, reward, torch.randn(size, 3, generator=g), ends)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_target_of_the_card():
    next_q = torch.tensor([[3.0, 3.0], [2.5, 2.5]])
    assert td_target(torch.ones(2), torch.tensor([0.0, 1.0]), next_q, 0.99).tolist() == pytest.approx([3.475, 1.0])


def test_critic_loss_by_hand():
    q, y = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([1.0, 3.0])
    assert critic_loss(q, y).item() == pytest.approx((0.0 + 1.0) / 2 + (1.0 + 1.0) / 2)


def test_value_loss_of_the_cards():
    assert value_loss(torch.tensor([10.0, -20.0, 30.0, -40.0]), 2.5).item() == pytest.approx(0.5)  # lambda 0.1
    assert value_loss(torch.tensor([4.0, -1.0, -7.0]), 40.0).item() == pytest.approx(13.333333)  # lambda 10
    assert value_loss(torch.zeros(4), 2.5).item() == 0.0  # finite where all rewards are 0


def test_lambda_carries_no_gradient():
    q = torch.tensor([1.0, 3.0], requires_grad=True)
    value_loss(q, 2.0).backward()
    assert q.grad.tolist() == pytest.approx([-0.5, -0.5])  # -lambda / B with lambda = 1


def test_regulariser_by_hand():
    p, target = torch.tensor([[0.5, 0.0], [-1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    assert regulariser(p, target).item() == pytest.approx((0.25 + 4.25) / 4)
    assert regulariser(p, target, torch.tensor([1.0, 0.5])).item() == pytest.approx((0.25 + 0.5 * 4.25) / 4)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(0, 50), st.floats(0.01, 100))
def test_the_value_term_has_no_unit(q, alpha, scale):
    q = torch.tensor(q, dtype=torch.float64) + 0.1
    loss = value_loss(q, alpha).item()
    assert abs(loss) <= alpha * (1.0 + 1e-9)
    assert value_loss(scale * q, alpha).item() == pytest.approx(loss, rel=1e-3, abs=1e-3)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3), st.floats(0, 1), st.booleans())
def test_the_target_is_the_most_pessimistic_critics(values, gamma, terminated):
    reward, next_q = torch.tensor([1.0]), torch.tensor(values).unsqueeze(-1)
    ends = torch.tensor([float(terminated)])
    each = [td_target(reward, ends, next_q[i : i + 1], gamma).item() for i in range(3)]
    assert td_target(reward, ends, next_q, gamma).item() == min(each)
    assert not terminated or each == [1.0] * 3


def test_losses_check_shapes():
    with pytest.raises(ValueError, match=r"\[\.\.\., n, B\]"):
        td_target(torch.zeros(4), torch.zeros(4), torch.zeros(4), 0.9)
    with pytest.raises(ValueError, match=r"\[\.\.\., n, B\]"):
        critic_loss(torch.zeros(2, 4), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="must agree"):
        regulariser(torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="must agree"):
        regulariser(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("gamma", 1.5), ("gamma", -0.1), ("tau", 0.0), ("alpha", -1.0), ("target_noise", -0.1), ("policy_freq", 0), ("critic_lr", 0.0)],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ConfigError, match=field):
        TD3Config(**{field: value})


# --- steps ----------------------------------------------------------------------------------------------------------


def test_target_smoothing():
    method = TD3(SPEC, TD3Config(hidden=(16,), target_noise=1.0, noise_clip=0.3))
    t = method.in_units(batch(size=4000))
    clean = torch.tanh(method.target_actor(t.next_obs))
    noise = method.next_action(t) - clean
    assert noise.abs().max() <= 0.3 + 1e-6 and (noise.abs() > 0.299).float().mean() > 0.5  # most draws of sigma 1 are clipped
    method.config = TD3Config(hidden=(16,), target_noise=0.2)
    inside = clean.abs() < 0.4
    assert (method.next_action(t) - clean)[inside].std().item() == pytest.approx(0.2, rel=0.05)
    with torch.no_grad():
        method.target_actor.biases[-1].fill_(10.0)
    assert method.next_action(t).amax() == 1.0 and method.next_action(t).amin() >= 0.5 - 1e-6


def test_units_of_the_networks():
    t = TD3(SPEC, TD3Config(hidden=(16,))).in_units(batch())
    raw = batch()
    torch.testing.assert_close(t.action, raw.action / torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(t.obs, (raw.obs - SPEC.obs_mean) / SPEC.obs_std)
    torch.testing.assert_close(t.next_obs, (raw.next_obs - SPEC.obs_mean) / SPEC.obs_std)


def test_actor_and_targets_wait_for_their_turn():
    method = TD3(SPEC, TD3Config(**TINY, policy_freq=3))
    slow = [*method.policy.net.parameters(), *method.target_actor.parameters(), *method.target_critic.parameters()]
    for step in range(1, 7):
        before = [p.detach().clone() for p in slow]
        metrics = method.update(batch(step))
        moved = [not torch.equal(p, b) for p, b in zip(slow, before, strict=True)]
        assert all(moved) if step % 3 == 0 else not any(moved)
        assert ("actor_loss" in metrics) == (step % 3 == 0)


def test_the_actors_step_leaves_the_critics_alone():
    method = TD3(SPEC, TD3Config(**TINY))
    before = copy.deepcopy(method.critic.state_dict())
    method.learn_actor(method.in_units(batch()))
    assert all(torch.equal(v, before[k]) for k, v in method.critic.state_dict().items())
    assert all(p.grad is None for p in method.critic.parameters())


def test_steps_equal_the_algorithm_written_out(forward):
    method = TD3(SPEC, TD3Config(**TINY))
    other = copy.deepcopy(method)  # its networks are stepped below by torch's plain Adam
    noise = torch.Generator()
    noise.set_state(method.generator.get_state())
    actor_optimiser = torch.optim.Adam(other.policy.net.parameters(), lr=3e-3)
    critic_optimiser = torch.optim.Adam(other.critic.parameters(), lr=3e-3)

    def q(critic, s, a, i):
        return forward(critic.net, torch.cat((s, a), -1), i).squeeze(-1)

    for step in range(1, 7):
        b = batch(step)
        method.update(b)
        s, next_s = ((x - SPEC.obs_mean) / SPEC.obs_std for x in (b.obs, b.next_obs))
        a = b.action / torch.tensor([2.0, 1.0])
        with torch.no_grad():
            eps = (0.2 * torch.empty(32, 2).normal_(generator=noise)).clamp(-0.5, 0.5)
            next_a = (forward(other.target_actor, next_s).tanh() + eps).clamp(-1.0, 1.0)
            next_q = torch.minimum(*(q(other.target_critic, next_s, next_a, i) for i in range(2)))
            y = b.reward + 0.99 * (1.0 - b.terminated) * next_q
        loss = sum((q(other.critic, s, a, i) - y).square().mean() for i in range(2))
        critic_optimiser.zero_grad()
        loss.backward()
        critic_optimiser.step()
        if step % 2 == 0:
            values = q(other.critic, s, forward(other.policy.net, s).tanh(), 0)
            actor_optimiser.zero_grad()
            (-2.5 / values.detach().abs().mean() * values.mean()).backward()
            actor_optimiser.step()
            for online, target in ((other.critic, other.target_critic), (other.policy.net, other.target_actor)):
                for p, t in zip(online.parameters(), target.parameters(), strict=True):
                    t.data.copy_(0.1 * p.data + 0.9 * t.data)
    for name in ("policy", "critic", "target_actor", "target_critic"):
        expected = getattr(other, name).state_dict()
        for key, value in getattr(method, name).state_dict().items():
            torch.testing.assert_close(value, expected[key])


def test_finds_the_best_action_of_a_bandit():
    """r = -(a - s)^2: the policy must learn a = s, although the log's actions are uniform."""
    rng = np.random.default_rng(0)
    s, a = rng.uniform(-0.8, 0.8, (4000, 1)), rng.uniform(-1, 1, (4000, 1))
    log = Log.from_arrays(s, a, -((a - s) ** 2).ravel(), s, np.ones(4000), action_space=Continuous((-1.0,), (1.0,)))
    method = TD3(log.spec(), TD3Config(hidden=(32, 32), actor_lr=1e-3, critic_lr=3e-3))
    source = Logged(log, 128)
    for _ in range(800):
        method.update(next(source))
    grid = torch.linspace(-0.7, 0.7, 15)[:, None]
    assert (method.policy(grid) - grid).abs().max() < 0.2
