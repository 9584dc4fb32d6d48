"""IQL against hand-worked numbers, d3rlpy, the official order of steps, and a chain whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, DataError
from surefoot.methods.offline.iql import IQL, IQLConfig, advantage_weights, expectile_loss, weighted_regression
from surefoot.methods.offline.td3 import critic_loss, td_target
from surefoot.policies.families import Categorical, NormalPolicy

FIXTURE = Path(__file__).parents[2] / "fixtures" / "d3rlpy_iql_cql.npz"
SPEC = Spec((3,), Continuous((-1.0, -1.0), (1.0, 1.0)))


def random_batch(seed, size=16, copies=(), spec=SPEC):
    g = torch.Generator().manual_seed(seed)
    lead = (*copies, size)
    action = torch.rand(*lead, 2, generator=g) * 1.8 - 0.9
    if isinstance(spec.action, Discrete):
        action = torch.randint(spec.n_actions, lead, generator=g)
    return Transitions(
        torch.randn(*lead, 3, generator=g),
        action,
        torch.randn(*lead, generator=g),
        torch.randn(*lead, 3, generator=g),
        (torch.rand(*lead, generator=g) < 0.2).float(),
    )


# --- losses -----------------------------------------------------------------------------------------------------------


def test_expectile_loss_by_hand():
    q, v = torch.tensor([3.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])  # u = 2, -1, 0
    assert expectile_loss(q, v, 0.7).item() == pytest.approx((0.7 * 4.0 + 0.3 * 1.0) / 3)
    assert expectile_loss(q, v, 0.5).item() == pytest.approx(0.5 * (4.0 + 1.0) / 3)
    both = expectile_loss(torch.stack((q, -q)), torch.stack((v, v)), 0.9)  # one loss a copy
    assert both.tolist() == pytest.approx([(0.9 * 4.0 + 0.1) / 3, (0.1 * 16.0 + 0.1 * 1.0 + 0.1 * 4.0) / 3])


def test_weights_by_hand_and_their_bound():
    w = advantage_weights(torch.tensor([-1.0, 0.0, 1.0, 2.0, 1000.0]), 3.0, 100.0)
    assert w.tolist() == pytest.approx([0.049787, 1.0, 20.085537, 100.0, 100.0], rel=1e-5)
    assert advantage_weights(torch.tensor([-7.0, 7.0]), 0.0, 100.0).tolist() == [1.0, 1.0]  # behaviour cloning


def test_weighted_regression_by_hand():
    assert weighted_regression(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 0.5])).item() == pytest.approx(1.0)


def test_losses_check_shapes():
    with pytest.raises(ValueError, match="one shape"):
        expectile_loss(torch.zeros(4), torch.zeros(1, 4), 0.7)
    with pytest.raises(ValueError, match="one shape"):
        weighted_regression(torch.zeros(4), torch.zeros(4, 1))


values = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


def expectile(q, tau):
    """The v at which the loss is least: its derivative's root, by bisection."""
    q = torch.tensor(q, dtype=torch.float64)
    low, high = q.min().item() - 1.0, q.max().item() + 1.0
    for _ in range(60):
        v = torch.full_like(q, (low + high) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(expectile_loss(q, v, tau), v)
        low, high = (v[0].item(), high) if slope.sum() < 0 else (low, v[0].item())
    return (low + high) / 2


@given(values, st.floats(0.01, 0.99))
def test_expectile_lies_between_least_and_greatest(q, tau):
    assert min(q) - 1e-6 <= expectile(q, tau) <= max(q) + 1e-6


@given(values)
def test_expectile_of_one_half_is_the_mean(q):
    assert expectile(q, 0.5) == pytest.approx(sum(q) / len(q), abs=1e-6)


@given(values, st.floats(0.01, 0.98), st.floats(0.001, 0.5))
def test_expectile_grows_with_tau(q, tau, more):
    assert expectile(q, tau) <= expectile(q, min(tau + more, 0.99)) + 1e-6


# --- against other implementations ------------------------------------------------------------------------------------


def load_layers(net, stored, prefix, index=()):
    """Copy recorded layers into an MLP (or into one of its copies)."""
    with torch.no_grad():
        for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            w[index].copy_(torch.from_numpy(stored[f"{prefix}.weight.{i}"]))
            b[index].copy_(torch.from_numpy(stored[f"{prefix}.bias.{i}"]))


def test_losses_equal_d3rlpy():
    stored = np.load(FIXTURE, allow_pickle=False)
    obs, action, reward, next_obs, terminated = (
        torch.from_numpy(stored[f"batch.{k}"]) for k in ("obs", "action", "reward", "next_obs", "terminated")
    )
    method = IQL(SPEC, IQLConfig(hidden=(8, 8)))
    load_layers(method.policy.net, stored, "iql.policy")
    load_layers(method.value.net, stored, "iql.value", 0)
    for i in range(2):
        load_layers(method.critic.net, stored, f"iql.critic{i}", i)
        load_layers(method.target_critic.net, stored, f"iql.target{i}", i)
    with torch.no_grad():
        method.policy.log_std.copy_(torch.from_numpy(stored["iql.logstd"]))
        q, v = method.target_critic(obs, action).amin(-2), method.value(obs).squeeze(-2)
        y = td_target(reward.squeeze(-1), terminated.squeeze(-1), method.value(next_obs), 0.95)
        weight = advantage_weights(q - v, 3.0, 2.0)
        assert 0 < (weight == 2.0).sum() < 16  # some are bounded, some are not
        assert expectile_loss(q, v, 0.8).item() == pytest.approx(stored["iql.v_loss"].item(), rel=1e-5)
        assert critic_loss(method.critic(obs, action), y).item() == pytest.approx(stored["iql.q_loss"].item(), rel=1e-5)
        torch.testing.assert_close(weight, torch.from_numpy(stored["iql.weight"]))
        loss = weighted_regression(method.logprob(obs, action), weight)
        assert loss.item() == pytest.approx(stored["iql.actor_loss"].item(), rel=1e-4)


def reference_step(method, batch, optimisers):
    """The official code's step, written out: V; actor with the new V; critics with the new V; target critics."""

    def forward(net, x, index=None):
        for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            w, b = (w, b) if index is None else (w[index], b[index])
            x = x @ w + b
            x = x.relu() if i < len(net.weights) - 1 else x
        return x

    def step(name, loss):
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    sa = torch.cat((batch.obs, batch.action), -1)
    q = torch.minimum(*(forward(method.target_critic.net, sa, i)[:, 0] for i in range(2))).detach()
    u = q - forward(method.value.net, batch.obs, 0)[:, 0]
    step("value", ((0.7 - (u < 0).float()).abs() * u**2).mean())
    weight = ((q - forward(method.value.net, batch.obs, 0)[:, 0]) * 3.0).exp().clamp(max=100.0).detach()
    normal = torch.distributions.Normal(forward(method.policy.net, batch.obs).tanh(), method.policy.log_std.exp())
    step("actor", -(weight * normal.log_prob(batch.action).sum(-1)).mean())
    y = (batch.reward + 0.99 * (1 - batch.terminated) * forward(method.value.net, batch.next_obs, 0)[:, 0]).detach()
    step("critic", sum(((forward(method.critic.net, sa, i)[:, 0] - y) ** 2).mean() for i in range(2)))
    with torch.no_grad():
        for target, online in zip(method.target_critic.parameters(), method.critic.parameters(), strict=True):
            target.copy_(0.995 * target + 0.005 * online)


def test_steps_are_those_of_the_official_code():
    """Several steps in float64, where another order of the steps or another network in a target would show."""
    config = IQLConfig(hidden=(8, 8), actor_lr_steps=None, actor_lr=1e-2, critic_lr=1e-2, value_lr=1e-2)
    ours, theirs = IQL(SPEC, config, seed=1), IQL(SPEC, config, seed=1)
    for method in (ours, theirs):
        for name in ("policy", "critic", "value", "target_critic"):
            getattr(method, name).double()
    optimisers = {
        "value": torch.optim.Adam(theirs.value.parameters(), 1e-2),
        "actor": torch.optim.Adam(theirs.policy.parameters(), 1e-2),
        "critic": torch.optim.Adam(theirs.critic.parameters(), 1e-2),
    }
    for i in range(5):
        batch = Transitions(*(x.double() for x in vars(random_batch(i)).values()))
        ours.update(batch)
        reference_step(theirs, batch, optimisers)
    for name in ("policy", "critic", "value", "target_critic"):
        for a, b in zip(getattr(ours, name).parameters(), getattr(theirs, name).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


# --- the method -------------------------------------------------------------------------------------------------------


def chain(discrete=False, n=2000):
    """Two states: any action leads from the first to the second; there half of the logged actions earn 1, the others 0."""
    rng = np.random.default_rng(0)
    second = np.arange(n) % 2 == 1
    good = rng.random(n) < 0.5
    obs = np.stack([~second, second], 1).astype(np.float32)
    action = good.astype(np.float32)[:, None] if discrete else np.where(good, 0.6, -0.6)[:, None]
    space = Discrete(2) if discrete else Continuous((-1.0,), (1.0,))
    next_obs = np.tile(np.array([0.0, 1.0], np.float32), (n, 1))
    return Log.from_arrays(obs, action, (second & good).astype(np.float32), next_obs, second, action_space=space)


def learned(log, steps=500, **settings):
    rates = {"actor_lr": 1e-2, "critic_lr": 1e-2, "value_lr": 1e-2, "tau": 0.1, "gamma": 0.9}
    method = IQL(log.spec(scale_obs=False), IQLConfig(hidden=(32, 32), **rates, **settings))
    source = Logged(log, 64)
    for _ in range(steps):
        method.update(next(source))
    return method


FIRST, SECOND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


@pytest.mark.parametrize(("tau", "temperature", "action"), [(0.9, 5.0, 0.6), (0.5, 0.0, 0.0)])
def test_values_are_expectiles_and_the_policy_prefers_good_actions(tau, temperature, action):
    """Of values 0 and 1 in equal parts the expectile is tau itself: 0.9 backs up nearly the best action, 0.5 the mean.

    At temperature 5 the policy takes the good action; at 0 it clones the mean of both.
    """
    method = learned(chain(), expectile=tau, temperature=temperature)
    assert method.value(SECOND).item() == pytest.approx(tau, abs=0.08)
    assert method.value(FIRST).item() == pytest.approx(0.9 * tau, abs=0.08)
    assert method.policy(SECOND).item() == pytest.approx(action, abs=0.15)


@pytest.mark.parametrize(("temperature", "low", "high"), [(5.0, 0.95, 1.0), (0.0, 0.4, 0.6)])
def test_discrete_actions(temperature, low, high):
    method = learned(chain(discrete=True), temperature=temperature)
    assert isinstance(method.policy, Categorical)
    assert low <= torch.softmax(method.policy(SECOND), -1)[0, 1].item() <= high


@pytest.mark.parametrize("space", [SPEC.action, Discrete(3)])
def test_fleet_members_equal_lone_runs(space):
    """The update draws nothing, so a fleet that starts from lone runs' weights must stay with them."""
    spec = Spec((3,), space)
    config = IQLConfig(hidden=(8, 8))
    fleet, lone = IQL(spec, config, copies=(2,)), [IQL(spec, config, seed=i) for i in range(2)]
    names = ("policy", "critic", "value", "target_critic")
    with torch.no_grad():
        for name in names:
            members = [dict(getattr(m, name).named_parameters()) for m in lone]
            for key, p in getattr(fleet, name).named_parameters():
                p.copy_(torch.stack([m[key] for m in members]))
    for i in range(4):
        batch = random_batch(i, copies=(2,), spec=spec)
        metrics = fleet.update(batch)
        for member, method in enumerate(lone):
            parts = (batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminated)
            own = method.update(Transitions(*(x[member] for x in parts)))
            for name, value in own.items():
                torch.testing.assert_close(metrics[name][member], value, rtol=1e-4, atol=1e-5)
    obs = torch.randn(5, 3)
    for member, method in enumerate(lone):
        torch.testing.assert_close(fleet.policy.member(member)(obs), method.policy(obs), rtol=1e-4, atol=1e-5)


def test_actor_learning_rate_falls_along_a_cosine_to_zero():
    method = IQL(SPEC, IQLConfig(hidden=(8,), actor_lr=1.0, actor_lr_steps=4))
    rates = []
    for i in range(6):
        method.update(random_batch(i))
        rates.append(method.actor_optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0], abs=1e-6)  # 0.5 (1 + cos(pi k / 4))
    constant = IQL(SPEC, IQLConfig(hidden=(8,), actor_lr=1.0, actor_lr_steps=None))
    constant.update(random_batch(0))
    assert constant.actor_optimiser.param_groups[0]["lr"] == 1.0


def episodes(returns):
    n = 2 * len(returns)
    reward = np.repeat(np.asarray(returns, np.float32) / 2, 2)
    zeros = np.zeros((n, 3), np.float32)
    ends = np.arange(n) % 2 == 1
    return Log.from_arrays(zeros, np.zeros((n, 2)), reward, zeros, np.zeros(n), ends, action_space=SPEC.action)


def test_rewards_are_scaled_by_the_range_of_returns_if_asked_for():
    batch = random_batch(0)
    plain = IQL(SPEC, IQLConfig(hidden=(8,)))
    plain.prepare([episodes([0.0, 0.0])])  # not asked for: nothing is looked at
    assert torch.equal(plain.in_units(batch).reward, batch.reward)
    scaled = IQL(SPEC, IQLConfig(hidden=(8,), scale_rewards=True))
    with pytest.raises(ConfigError, match="call `prepare"):
        scaled.update(batch)
    scaled.prepare([episodes([-20.0, 30.0, 10.0])])
    torch.testing.assert_close(scaled.in_units(batch).reward, 20.0 * batch.reward)
    with pytest.raises(DataError, match="one return"):
        scaled.prepare([episodes([4.0, 4.0])])
    fleet = IQL(SPEC, IQLConfig(hidden=(8,), scale_rewards=True), copies=(2,))
    fleet.prepare([episodes([0.0, 10.0]), episodes([0.0, 1000.0])])
    batch = random_batch(0, copies=(2,))
    torch.testing.assert_close(fleet.in_units(batch).reward, batch.reward * torch.tensor([[100.0], [1.0]]))
    with pytest.raises(ConfigError, match="3 logs"):
        fleet.prepare([episodes([0.0, 1.0])] * 3)


def test_resume_is_bit_for_bit():
    config = IQLConfig(hidden=(8,), actor_lr_steps=10)
    whole, part = IQL(SPEC, config), IQL(SPEC, config)
    for i in range(6):
        whole.update(random_batch(i))
    for i in range(3):
        part.update(random_batch(i))
    resumed = IQL(SPEC, config, seed=7)
    resumed.load_state_dict({name: value.clone() for name, value in part.state_dict().items()})
    for i in range(3, 6):
        resumed.update(random_batch(i))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_policy_is_normal_in_a_box_of_any_size():
    method = IQL(Spec((3,), Continuous((0.0, -2.0), (10.0, 2.0))), IQLConfig(hidden=(8,)))
    assert isinstance(method.policy, NormalPolicy)
    action, _ = method.policy.act(torch.randn(100, 3), greedy=False)
    assert (action >= torch.tensor([0.0, -2.0])).all() and (action <= torch.tensor([10.0, 2.0])).all()


@pytest.mark.parametrize(
    "wrong",
    [{"expectile": 1.0}, {"expectile": 0.0}, {"gamma": 1.1}, {"tau": 0.0}, {"temperature": -1.0}, {"actor_lr": 0.0}, {"actor_lr_steps": 0}],
)
def test_settings_outside_their_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        IQLConfig(**wrong)
