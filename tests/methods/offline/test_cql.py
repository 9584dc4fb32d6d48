"""CQL against hand-worked numbers, numerical integration, d3rlpy, and a bandit whose log leaves out the bad actions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, EnvError
from surefoot.methods.offline.cql import CQL, CQLConfig, cloning_loss, conservative_gap, multiplier_loss
from surefoot.methods.online.sac import actor_loss
from surefoot.nn.distributions import LOG_STD_MAX, LOG_STD_MIN, TanhNormal

FIXTURE = Path(__file__).parents[2] / "fixtures" / "d3rlpy_iql_cql.npz"
SPEC = Spec((3,), Continuous((-1.0, -1.0), (1.0, 1.0)))


def random_batch(seed, size=16, copies=()):
    g = torch.Generator().manual_seed(seed)
    lead = (*copies, size)
    return Transitions(
        torch.randn(*lead, 3, generator=g),
        torch.rand(*lead, 2, generator=g) * 1.8 - 0.9,
        torch.randn(*lead, generator=g),
        torch.randn(*lead, 3, generator=g),
        (torch.rand(*lead, generator=g) < 0.2).float(),
    )


# --- losses -----------------------------------------------------------------------------------------------------------


def test_conservative_gap_by_hand():
    q = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])  # one critic, two samples, two states
    logdensity = torch.log(torch.tensor([[0.5, 1.0], [0.25, 1.0]]))
    q_data = torch.tensor([[2.0, -1.0]])
    first = np.log(np.exp(1.0) / 0.5 + np.exp(3.0) / 0.25) - 2.0
    second = np.log(np.exp(0.0) + np.exp(2.0)) + 1.0
    assert conservative_gap(q, logdensity, q_data).tolist() == pytest.approx([(first + second) / 2])


def test_gap_falls_where_logged_values_rise_and_proposed_ones_fall():
    q, q_data = torch.zeros(2, 3, 4, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
    down, up = torch.autograd.grad(conservative_gap(q, torch.zeros(3, 4), q_data).sum(), (q, q_data))
    torch.testing.assert_close(down, torch.full((2, 3, 4), 1 / 12))  # a softmax over the three, averaged over four states
    torch.testing.assert_close(up, torch.full((2, 4), -1 / 4))


def test_cloning_and_multiplier_losses_by_hand():
    loss = cloning_loss(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0]), torch.tensor(0.2))
    assert loss.item() == pytest.approx((0.2 - 0.5 - 0.2 - 2.0) / 2)
    log_multiplier = torch.tensor(np.log(3.0), requires_grad=True)
    loss = multiplier_loss(log_multiplier, torch.tensor([2.0, 1.0]))
    assert loss.item() == pytest.approx(-4.5)
    assert torch.autograd.grad(loss, log_multiplier)[0] < 0.0  # a gap beyond the threshold makes the multiplier grow
    assert multiplier_loss(torch.tensor(50.0), torch.tensor([1.0])).item() == -1e6


def test_losses_check_shapes():
    with pytest.raises(ValueError, match="must be"):
        conservative_gap(torch.zeros(2, 3, 4), torch.zeros(3, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must be"):
        conservative_gap(torch.zeros(2, 3, 4), torch.zeros(3, 4), torch.zeros(4))
    with pytest.raises(ValueError, match="agree"):
        cloning_loss(torch.zeros(4), torch.zeros(4), torch.zeros(2))
    with pytest.raises(ValueError, match="must be"):
        multiplier_loss(torch.zeros(()), torch.zeros(2, 2))


def test_proposals_estimate_the_integral_of_exp_q():
    """log int exp Q(a) da of a two-humped Q, by quadrature and from the method's own proposals and their densities."""
    method = CQL(Spec((3,), Continuous((-1.0,), (1.0,))), CQLConfig(hidden=(8,), n_actions=20_000))
    with torch.no_grad():  # standard deviations of 1: those at the start are so small that the weights 1/p have no variance
        method.policy.net.weights[-1].zero_()
        method.policy.net.biases[-1].copy_(torch.tensor([0.2, 0.458]))
    policy, following = (method.policy.distribution(torch.randn(2, 3)) for _ in range(2))
    actions, logdensity = method.proposals(policy, following)
    assert actions.shape == (60_000, 2, 1) and logdensity.shape == (60_000, 2)

    def value(a):
        return 2.0 * np.cos(4.0 * a) + a

    q = value(actions.squeeze(-1)).unsqueeze(0).float()  # one critic
    estimate = conservative_gap(q, logdensity, torch.zeros(1, 2)) - np.log(60_000)
    exact = np.log(quad(lambda a: np.exp(value(a)), -1.0, 1.0)[0])
    assert estimate.item() == pytest.approx(exact, abs=0.02)


# --- against d3rlpy ---------------------------------------------------------------------------------------------------


def recorded_policy(stored, name):
    """The recorded squashed normal, through our own smooth bounds on log std."""
    mu, log_std = (torch.from_numpy(stored[f"cql.{name}.{part}"]) for part in ("mu", "logstd"))
    return TanhNormal(mu, torch.atanh(2.0 * (log_std - LOG_STD_MIN) / (LOG_STD_MAX - LOG_STD_MIN) - 1.0))


def test_losses_equal_d3rlpy():
    stored = np.load(FIXTURE, allow_pickle=False)
    obs, action = (torch.from_numpy(stored[f"batch.{k}"]) for k in ("obs", "action"))
    method = CQL(SPEC, CQLConfig(hidden=(8, 8)))
    with torch.no_grad():
        for i in range(2):
            for k, (w, b) in enumerate(zip(method.critic.net.weights, method.critic.net.biases, strict=True)):
                w[i].copy_(torch.from_numpy(stored[f"cql.critic{i}.weight.{k}"]))
                b[i].copy_(torch.from_numpy(stored[f"cql.critic{i}.bias.{k}"]))
        drawn = [torch.from_numpy(stored[f"cql.{name}"]).transpose(0, 1) for name in ("uniform", "following", "here")]  # [n, B, A]
        uniform = torch.full(drawn[0].shape[:-1], 2 * np.log(0.5))
        densities = [uniform] + [recorded_policy(stored, k).log_prob(a) for k, a in zip(("following", "here"), drawn[1:], strict=True)]
        actions, logdensity = torch.cat(drawn).float(), torch.cat(densities).float()
        q = torch.stack([method.critic(obs, a) for a in actions], -2)  # [2, N, B]
        gap = conservative_gap(q, logdensity, method.critic(obs, action))
        torch.testing.assert_close(5.0 * (gap - 0.7), torch.from_numpy(stored["cql.conservative_loss"]), rtol=1e-4, atol=1e-4)

        a = torch.from_numpy(stored["cql.actor_action"])
        loss = actor_loss(method.critic(obs, a), recorded_policy(stored, "here").log_prob(a), torch.tensor(0.4))
        assert loss.item() == pytest.approx(stored["cql.actor_loss"].item(), abs=1e-4)


def test_update_uses_the_gap_of_its_own_proposals():
    """The critics' step in one forward pass gives the same numbers as the losses one by one."""
    method = CQL(SPEC, CQLConfig(hidden=(8, 8), n_actions=3, min_q_weight=2.0), copies=(2,))
    t = method.in_units(random_batch(0, copies=(2,)))
    policy, following = method.policy.distribution(t.obs), method.policy.distribution(t.next_obs)
    y = method.target(t, following, torch.ones(2))
    actions, logdensity = method.proposals(policy, following)
    with torch.no_grad():
        q = torch.stack([method.critic(t.obs, actions[:, i]) for i in range(9)], -2)
        q_data = method.critic(t.obs, t.action)
        gap = conservative_gap(q, logdensity, q_data)
    metrics = method.learn_critic(t, y, actions, logdensity)
    torch.testing.assert_close(metrics["conservative_loss"], 2.0 * gap.sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["critic_loss"], (q_data - y.unsqueeze(-2)).square().mean(-1).sum(-1), rtol=1e-4, atol=1e-5)


# --- the method -------------------------------------------------------------------------------------------------------


def bandit():
    """One-step episodes; the reward rises with the action up to 0.2 and falls steeply beyond, where the log has nothing."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.8, 0.2, (2000, 1))
    obs = np.zeros((2000, 1), np.float32)
    return Log.from_arrays(obs, action, action[:, 0], obs, np.ones(2000), action_space=Continuous((-1.0,), (1.0,)))


@pytest.mark.parametrize("weight", [5.0, 0.0])
def test_conservative_term_keeps_the_policy_with_the_log(weight):
    log = bandit()
    rates = {"actor_lr": 3e-3, "critic_lr": 3e-3, "alpha_lr": 3e-3, "tau": 0.05, "alpha_start": 0.1}
    method = CQL(log.spec(scale_obs=False), CQLConfig(min_q_weight=weight, bc_steps=0, hidden=(32, 32), **rates))
    source = Logged(log, 64)
    for _ in range(500):
        method.update(next(source))
    obs = torch.zeros(1, 1)
    chosen = method.policy(obs).item()
    with torch.no_grad():
        unseen, logged = (method.critic(obs, torch.full((1, 1), a)).amin().item() for a in (0.9, 0.1))
    if weight:
        assert unseen < logged and chosen < 0.35
    else:  # without the term the critics extrapolate, and the policy follows them out of the log
        assert unseen > logged and chosen > 0.6


def test_actor_clones_the_log_at_first():
    log = bandit()
    method = CQL(log.spec(scale_obs=False), CQLConfig(bc_steps=10**6, hidden=(32, 32), actor_lr=1e-2, alpha_lr=0.0, alpha_start=1e-3))
    source = Logged(log, 64)
    for _ in range(200):
        method.update(next(source))
    actions, _ = method.policy.act(torch.zeros(2000, 1), greedy=False)
    assert actions.mean().item() == pytest.approx(-0.3, abs=0.1)  # the mean of the logged actions
    assert actions.std().item() == pytest.approx(1.0 / np.sqrt(12.0), abs=0.1)


@pytest.mark.parametrize(("threshold", "grows"), [(-1e3, True), (1e3, False)])
def test_multiplier_moves_towards_the_threshold(threshold, grows):
    method = CQL(SPEC, CQLConfig(hidden=(8,), n_actions=2, lagrange_threshold=threshold, critic_lr=0.1), copies=(2,))
    for i in range(3):
        method.update(random_batch(i, copies=(2,)))
    assert ((method.log_multiplier > 0.2) if grows else (method.log_multiplier < -0.2)).all()
    fixed = CQL(SPEC, CQLConfig(hidden=(8,), n_actions=2))
    fixed.update(random_batch(0))
    assert fixed.log_multiplier.item() == 0.0


def test_entropy_is_in_the_target_only_if_asked_for():
    def target(alpha, **settings):
        method = CQL(SPEC, CQLConfig(hidden=(8,), **settings))
        t = method.in_units(random_batch(0))
        return method.target(t, method.policy.distribution(t.next_obs), torch.tensor(alpha))

    assert torch.equal(target(0.0), target(5.0))
    torch.testing.assert_close(target(0.0), target(0.0, backup_entropy=True))
    assert not torch.allclose(target(0.0), target(5.0, backup_entropy=True))


@pytest.mark.parametrize("copies", [(), (3,)])
def test_metrics_have_one_entry_a_copy(copies):
    method = CQL(SPEC, CQLConfig(hidden=(8,), n_actions=2, bc_steps=1), copies=copies)
    for i in range(2):  # cloning, then climbing
        metrics = method.update(random_batch(i, copies=copies))
        assert {tuple(value.shape) for value in metrics.values()} == {copies}
        assert all(not value.requires_grad and torch.isfinite(value).all() for value in metrics.values())


def test_resume_is_bit_for_bit():
    config = CQLConfig(hidden=(8,), n_actions=2, bc_steps=4, lagrange_threshold=1.0)
    whole, part = CQL(SPEC, config), CQL(SPEC, config)
    for i in range(6):
        whole.update(random_batch(i))
    for i in range(3):
        part.update(random_batch(i))
    resumed = CQL(SPEC, config, seed=7)
    resumed.load_state_dict({name: value.clone() for name, value in part.state_dict().items()})
    for i in range(3, 6):
        resumed.update(random_batch(i))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_discrete_actions_are_refused():
    with pytest.raises(EnvError, match="continuous actions"):
        CQL(Spec((3,), Discrete(2)), CQLConfig())


@pytest.mark.parametrize(
    "wrong", [{"min_q_weight": -1.0}, {"n_actions": 0}, {"gamma": -0.1}, {"tau": 2.0}, {"bc_steps": -1}, {"actor_lr": 0.0}]
)
def test_settings_outside_their_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CQLConfig(**wrong)
