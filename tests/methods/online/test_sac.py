"""SAC: its equations by hand, its log-density, Stable-Baselines3's steps, fleets, and Pendulum."""

import copy
import math

import pytest
import torch
from torch import distributions as td

from surefoot.data.batches import Transitions
from surefoot.data.replayed import Replayed
from surefoot.data.spec import Continuous, Spec
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError, EnvError
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.online import sac
from surefoot.methods.online.sac import SAC, SACConfig, actor_loss, critic_loss, soft_target, temperature_loss
from surefoot.nn.distributions import TanhNormal
from surefoot.policies.saving import read_policy, save_policy

SPEC = Spec((5,), Continuous((-1.0, -2.0), (1.0, 4.0)))
SMALL = SACConfig(hidden=(16, 16), actor_lr=1e-2, critic_lr=1e-2, alpha_lr=1e-2, tau=0.1)


# --- equations ------------------------------------------------------------------------------------------------------


def test_the_target_takes_the_smaller_critic_adds_entropy_and_stops_at_terminated_alone():
    """min(10, 8) - 0.5 (-2) = 9 for all rows; the second is terminated; the third was cut off by a time limit, and goes on."""
    y = soft_target(
        reward=torch.tensor([1.0, 2.0, 3.0]),
        terminated=torch.tensor([0.0, 1.0, 0.0]),
        next_q=torch.tensor([[10.0, 10.0, 8.0], [8.0, 8.0, 10.0]]),
        next_logprob=torch.full((3,), -2.0),
        alpha=torch.tensor(0.5),
        gamma=0.9,
    )
    assert y.tolist() == pytest.approx([9.1, 2.0, 11.1])


def test_critic_loss_by_hand():
    """Errors (1, -1) and (2, 0): (1 + 1) / 4 + (4 + 0) / 4 = 1.5; the targets are constants."""
    q = torch.tensor([[3.0, 1.0], [4.0, 2.0]], requires_grad=True)
    loss = critic_loss(q, torch.tensor([2.0, 2.0]))
    assert loss.item() == pytest.approx(1.5)
    loss.backward()
    assert q.grad.tolist() == [[0.5, -0.5], [1.0, 0.0]]


def test_actor_loss_by_hand():
    """0.5 (-1) - min(4, 3) and 0.5 (-3) - min(1, 2), on average -3."""
    q = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    assert actor_loss(q, torch.tensor([-1.0, -3.0]), torch.tensor(0.5)).item() == pytest.approx(-3.0)


def test_the_temperature_grows_while_there_is_too_little_entropy():
    """Entropy 1 where 3 is wanted: the loss's slope in log alpha is 1 - 3, so a step down the slope raises alpha; and the reverse."""
    for entropy, slope in ((1.0, -2.0), (3.0, 0.0), (4.0, 1.0)):
        log_alpha = torch.tensor(0.7, requires_grad=True)
        logprob = torch.full((8,), -entropy, requires_grad=True)
        loss = temperature_loss(log_alpha, logprob, 3.0)
        assert loss.item() == pytest.approx(0.7 * slope)
        loss.backward()
        assert log_alpha.grad.item() == pytest.approx(slope)
        assert logprob.grad is None  # the policy is not pulled to the target entropy


def test_log_density_equals_torch_distributions():
    d = TanhNormal(torch.randn(64, 3), torch.randn(64, 3))
    unit, logprob = d.sample(torch.Generator().manual_seed(0))
    base = td.Normal(d.mu.double(), d.log_std.double().exp())
    reference = td.Independent(td.TransformedDistribution(base, [td.TanhTransform()]), 1)
    inside = unit.abs().amax(-1) < 0.999
    assert inside.sum() > 20
    torch.testing.assert_close(logprob[inside].double(), reference.log_prob(unit.double())[inside], rtol=1e-3, atol=1e-3)


def test_shapes_are_checked():
    b, alpha = torch.zeros(2, 8), torch.zeros(2)
    q = torch.zeros(2, 2, 8)
    with pytest.raises(ValueError, match=r"\[\.\.\., n, B\]"):
        soft_target(b, b, b, b, alpha, 0.9)
    with pytest.raises(ValueError, match="temperatures"):
        soft_target(b, b, q, b, torch.tensor(0.0), 0.9)
    with pytest.raises(ValueError, match=r"\[\.\.\., n, B\]"):
        critic_loss(b, b)
    with pytest.raises(ValueError, match="temperatures"):
        actor_loss(q, b, torch.zeros(3))
    with pytest.raises(ValueError, match="temperatures"):
        temperature_loss(torch.tensor(0.0), b, -1.0)


# --- steps ----------------------------------------------------------------------------------------------------------


def test_steps_equal_stable_baselines3(sb3_model, copy_net, random_batch):
    """Its own training code around a copy of our actor (whose log std is squashed otherwise), with the same draws."""
    spec = Spec((3,), Continuous((-1.0,), (1.0,)))
    config = SACConfig(hidden=(16, 16), gamma=0.9, tau=0.1, actor_lr=1e-2, critic_lr=1e-2, alpha_lr=1e-2, alpha_start=0.5)
    method = SAC(spec, config, seed=3)
    model = sb3_model(
        "SAC",
        "Pendulum-v1",
        learning_rate=1e-2,
        gamma=0.9,
        tau=0.1,
        ent_coef="auto_0.5",
        policy_kwargs={"net_arch": [16, 16]},
        buffer_size=10,
    )
    for critics in (model.critic, model.critic_target):
        for i, network in enumerate(critics.q_networks):
            copy_net(method.critic.net, network, i)
    actor, generator = copy.deepcopy(method.policy), torch.Generator()
    generator.set_state(method.generator.get_state())
    model.actor.action_log_prob = lambda obs: actor.distribution(obs).sample(generator)
    model.actor.optimizer = torch.optim.Adam(actor.net.parameters(), lr=1e-2)
    model.batches = [random_batch(spec, n=32, seed=i) for i in range(5)]
    for batch in list(model.batches):
        metrics = method.update(batch)
        model.train(1, batch_size=32)
        theirs = model.logger.name_to_value
        assert metrics["critic_loss"].item() == pytest.approx(theirs["train/critic_loss"], rel=1e-4)
        assert metrics["actor_loss"].item() == pytest.approx(theirs["train/actor_loss"], rel=1e-4)
        assert metrics["alpha"].item() == pytest.approx(theirs["train/ent_coef"], rel=1e-5)
    obs, action = torch.randn(50, 3), torch.rand(50, 1) * 2 - 1
    torch.testing.assert_close(method.policy(obs), actor(obs), rtol=1e-3, atol=1e-4)
    for ours, critics in ((method.critic, model.critic), (method.target_critic, model.critic_target)):
        torch.testing.assert_close(ours(obs, action), torch.cat(critics(obs, action), 1).T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(method.log_alpha.detach(), model.log_ent_coef.detach()[0], rtol=1e-4, atol=1e-5)


def member_of(batch, i):
    return Transitions(batch.obs[i], batch.action[i], batch.reward[i], batch.next_obs[i], batch.terminated[i])


def test_members_of_a_fleet_learn_as_lone_ones(monkeypatch, random_batch):
    """Without the noise, whose draws a fleet shares out otherwise, a member's steps are those of a lone method."""
    monkeypatch.setattr(TanhNormal, "sample", lambda d, generator=None: (d.mode(), d.log_prob(d.mode())))
    fleet, lone = SAC(SPEC, SMALL, copies=(3,)), SAC(SPEC, SMALL)
    for net, other in ((lone.policy.net, fleet.policy.net), (lone.critic, fleet.critic), (lone.target_critic, fleet.target_critic)):
        net.load_state_dict({k: v[1] for k, v in other.state_dict().items()})
    for step in range(5):
        batch = random_batch(SPEC, (3,), seed=step)
        ours, theirs = lone.update(member_of(batch, 1)), fleet.update(batch)
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name][1], rtol=1e-4, atol=1e-4)
    obs = torch.randn(10, 5)
    torch.testing.assert_close(fleet.policy(obs.expand(3, 10, 5))[1], lone.policy(obs), rtol=1e-3, atol=1e-4)


def test_members_of_a_fleet_do_not_see_each_other(random_batch):
    """Another batch for member 0 changes nothing for member 1, bit for bit; the temperatures are their own."""
    fleets = [SAC(SPEC, SMALL, copies=(2,)) for _ in range(2)]
    for step in range(6):
        batch = random_batch(SPEC, (2,), seed=step)
        fleets[0].update(batch)
        batch.obs[0], batch.reward[0] = 3.0 * batch.obs[0], batch.reward[0] - 5.0
        fleets[1].update(batch)
    obs = torch.randn(2, 10, 5)
    one, other = (fleet.policy(obs) for fleet in fleets)
    assert torch.equal(one[1], other[1])
    assert not torch.allclose(one[0], other[0])
    alphas = [fleet.log_alpha.detach() for fleet in fleets]
    assert alphas[0][1] == alphas[1][1]
    assert alphas[0][0] != alphas[0][1]


def test_nothing_waits_for_the_device_and_metrics_are_one_a_member(no_waiting, random_batch):
    spec = Spec((5,), SPEC.action, torch.zeros(5), torch.ones(5))
    method = SAC(spec, SMALL, copies=(2,))
    method.update(random_batch(spec, (2,)))
    with no_waiting():
        metrics = method.update(random_batch(spec, (2,)))
    assert set(metrics) == {"critic_loss", "actor_loss", "q_mean", "entropy", "alpha"}
    assert all(value.shape == (2,) and not value.requires_grad for value in metrics.values())


def test_defaults_and_settings():
    method = SAC(SPEC, SACConfig())
    assert method.target_entropy == -2.0
    assert SAC(SPEC, SACConfig(target_entropy=-0.5)).target_entropy == -0.5
    assert method.log_alpha.exp().item() == 1.0
    c = method.config
    assert (c.gamma, c.tau, c.actor_lr, c.critic_lr, c.alpha_lr) == (0.99, 0.005, 3e-4, 3e-4, 3e-4)
    assert (c.hidden, c.batch_size, c.buffer_size, c.env_steps, c.updates) == ((256, 256), 256, 1_000_000, 1, 1)


def test_a_fixed_temperature_stays(random_batch):
    method = SAC(SPEC, SACConfig(hidden=(8,), alpha_lr=0.0, alpha_start=0.2))
    for seed in range(3):
        assert method.update(random_batch(SPEC, seed=seed))["alpha"].item() == pytest.approx(0.2)


# --- learning -------------------------------------------------------------------------------------------------------


def test_the_entropy_meets_its_target():
    """Rewards that do not depend on the action: the best policy has the target entropy, here of a width well inside the box."""
    spec, target = Spec((1,), Continuous((-1.0,), (1.0,))), math.log(0.8)
    method = SAC(spec, SACConfig(hidden=(16,), actor_lr=1e-2, critic_lr=1e-2, alpha_lr=2e-2, target_entropy=target))
    g = torch.Generator().manual_seed(0)
    entropies = []
    for _ in range(800):
        action = torch.rand(64, 1, generator=g) * 2 - 1
        reward = -4.0 * action.squeeze(-1) ** 2
        entropies.append(method.update(Transitions(torch.ones(64, 1), action, reward, torch.ones(64, 1), torch.ones(64)))["entropy"])
    assert torch.stack(entropies[-300:]).mean().item() == pytest.approx(target, abs=0.1)


PENDULUM = SACConfig(
    hidden=(64, 64), actor_lr=3e-3, critic_lr=3e-3, alpha_lr=3e-3, batch_size=64, tau=0.02, gamma=0.95, buffer_size=10_000, warmup=500
)


def learned_return(updates=2000, copies=()):
    """Greedy return of each member after so many updates in Pendulum, one a step."""
    method = SAC(env_spaces("Pendulum-v1"), PENDULUM, copies=copies, seed=0)
    c = PENDULUM
    source = Replayed(
        "Pendulum-v1", method.behaviour, c.batch_size, copies=copies, capacity=c.buffer_size, warmup=c.warmup,
        env_steps=c.env_steps, updates=c.updates, n_envs=c.n_envs, seed=0,
    )  # fmt: skip
    for _, batch in zip(range(updates), source, strict=False):
        method.update(batch)
    return method, rollout(method.policy, "Pendulum-v1", 20, seed=1).returns.mean(-1)


def test_it_learns_to_swing_up(tmp_path):
    method, returns = learned_return()
    assert returns.min() > -400  # random actions: about -1240; the best there is: about -150
    save_policy(method.policy, tmp_path / "policy")
    obs = torch.randn(5, 3)
    assert torch.equal(read_policy(tmp_path / "policy").act(obs)[0], method.policy.act(obs)[0])


def test_without_the_critics_in_the_actors_loss_it_does_not(monkeypatch):
    monkeypatch.setattr(sac, "actor_loss", lambda q, logprob, alpha: actor_loss(0.0 * q, logprob, alpha))
    assert learned_return()[1].max() < -800


# --- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": -0.1}, {"tau": 0.0}, {"alpha_lr": -1.0}, {"warmup": -1}, {"actor_lr": 0.0}, {"critic_lr": 0.0}, {"alpha_start": 0.0},
        {"batch_size": 0}, {"buffer_size": 0}, {"env_steps": 0}, {"updates": 0}, {"n_envs": 0},
    ],
)  # fmt: skip
def test_settings_outside_their_range(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SACConfig(**setting)


def test_discrete_actions_are_refused():
    with pytest.raises(EnvError, match="continuous actions"):
        SAC(env_spaces("CartPole-v1"), SACConfig())
