"""DQN: its equations by hand, Stable-Baselines3's steps, exploration, fleets, and CartPole."""

import pytest
import torch

from surefoot.data.batches import Transitions
from surefoot.data.replayed import Replayed
from surefoot.data.spec import Discrete, Spec
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError, EnvError
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.online import dqn
from surefoot.methods.online.dqn import DQN, DQNConfig, huber_loss, taken, td_target
from surefoot.policies.saving import read_policy, save_policy

SPEC = Spec((4,), Discrete(3))
SMALL = DQNConfig(hidden=(16, 16), target_every=3, lr=1e-2)


# --- equations ------------------------------------------------------------------------------------------------------


def test_bootstrapping_stops_at_terminated_alone():
    """Rewards 1, 2, 3 with next values 10: the second row is terminated; the third was cut off by a time limit, and goes on."""
    y = td_target(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0]), torch.tensor([10.0, 10.0, 10.0]), 0.9)
    assert y.tolist() == pytest.approx([10.0, 2.0, 12.0])


def test_huber_loss_by_hand():
    """Errors 0.5, -3 and 0: 0.125, 2.5 and 0, on average 0.875; the slope is the error clipped to [-1, 1]."""
    q, y = torch.tensor([1.0, 0.0, 2.0], requires_grad=True), torch.tensor([0.5, 3.0, 2.0])
    loss = huber_loss(q, y)
    assert loss.item() == pytest.approx(0.875)
    loss.backward()
    assert q.grad.tolist() == pytest.approx([0.5 / 3, -1 / 3, 0.0])
    assert huber_loss(torch.zeros(5, 7), torch.ones(5, 7)).shape == (5,)


def next_values(double):
    """Values of three actions at one next observation: the network says (1, 3, 2), its target (7, 4, 9)."""
    method = DQN(Spec((1,), Discrete(3)), DQNConfig(hidden=(), double=double))
    for net, values in ((method.policy.net, [1.0, 3.0, 2.0]), (method.target_net, [7.0, 4.0, 9.0])):
        net.weights[0].data.zero_()
        net.biases[0].data.copy_(torch.tensor(values))
    return method.next_value(torch.zeros(1, 1)).item()


def test_next_values_by_hand():
    assert next_values(double=False) == 9.0  # the target's largest
    assert next_values(double=True) == 4.0  # the target's value of the network's choice


def test_shapes_are_checked():
    x = torch.zeros(8)
    with pytest.raises(ValueError, match="must agree"):
        td_target(x, x, torch.zeros(8, 1), 0.9)
    with pytest.raises(ValueError, match=r"\[\.\.\., B, n\]"):
        taken(torch.zeros(8, 3), torch.zeros(8, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="one shape"):
        huber_loss(x, torch.zeros(8, 1))


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [10.0, 0.1])
def test_steps_equal_stable_baselines3(sb3_model, copy_net, random_batch, max_norm):
    spec = Spec((4,), Discrete(2))
    config = DQNConfig(hidden=(16, 16), lr=1e-2, gamma=0.9, target_every=1000, max_norm=max_norm)
    method = DQN(spec, config, seed=3)
    model = sb3_model(
        "DQN", "CartPole-v1", learning_rate=1e-2, gamma=0.9, max_grad_norm=max_norm, policy_kwargs={"net_arch": [16, 16]}, buffer_size=10
    )
    copy_net(method.policy.net, model.q_net.q_net)
    copy_net(method.target_net, model.q_net_target.q_net)
    model.batches = [random_batch(spec, n=32, seed=i) for i in range(5)]
    for batch in list(model.batches):
        loss = method.update(batch)["loss"]
        model.train(1, batch_size=32)
        assert loss.item() == pytest.approx(model.logger.name_to_value["train/loss"], rel=1e-4)
    obs = torch.randn(50, 4)
    torch.testing.assert_close(method.policy(obs), model.q_net(obs), rtol=1e-3, atol=1e-4)


def test_the_target_is_copied_every_so_many_updates(random_batch):
    method = DQN(SPEC, SMALL)
    obs = torch.randn(8, 4)
    start = method.target_net(obs)
    for step in range(1, 7):
        method.update(random_batch(SPEC, seed=step))
        if step % 3 == 0:
            assert torch.equal(method.target_net(obs), method.policy.net(obs))
            start = method.target_net(obs)
        else:
            assert torch.equal(method.target_net(obs), start)
            assert not torch.equal(method.target_net(obs), method.policy.net(obs))


def test_members_of_a_fleet_learn_as_lone_ones(random_batch):
    """A member's steps are those of a lone method with its weights and batches; others' large gradients do not clip its own."""
    fleet = DQN(SPEC, SMALL, copies=(3,))
    lone = DQN(SPEC, SMALL)
    for net, other in ((lone.policy.net, fleet.policy.net), (lone.target_net, fleet.target_net)):
        net.load_state_dict({k: v[1] for k, v in other.state_dict().items()})
    for step in range(5):
        batch = random_batch(SPEC, (3,), seed=step)
        batch.reward[0] *= 1e4
        own = Transitions(batch.obs[1], batch.action[1], batch.reward[1], batch.next_obs[1], batch.terminated[1])
        loss = fleet.update(batch)["loss"]
        torch.testing.assert_close(loss[1], lone.update(own)["loss"])
        assert loss[0] > 100 * loss[1]
    obs = torch.randn(10, 4)
    torch.testing.assert_close(fleet.policy(obs.expand(3, 10, 4))[1], lone.policy(obs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fleet.policy(obs.expand(3, 10, 4))[2], lone.policy(obs))


def test_nothing_waits_for_the_device_and_metrics_are_one_a_member(no_waiting, random_batch):
    method = DQN(SPEC, DQNConfig(hidden=(16,), double=True, target_every=2), copies=(2,))
    method.update(random_batch(SPEC, (2,)))
    with no_waiting():
        metrics = method.update(random_batch(SPEC, (2,)))
    assert set(metrics) == {"loss", "q_mean", "target_mean"}
    assert all(value.shape == (2,) and not value.requires_grad for value in metrics.values())


def test_images_are_learned_from_with_convolutions_and_signs_of_rewards(random_batch):
    spec = env_spaces("surefoot/Catch-v0")
    method = DQN(spec, DQNConfig(hidden=(8,), dueling=True, clip_rewards=True), copies=(2,))
    assert method.policy.network == "dueling_conv"
    assert DQN(spec, DQNConfig(hidden=(8,), network="mlp")).policy.network == "mlp"
    batch = random_batch(spec, (2,))
    batch.reward[:], batch.terminated[:] = 100.0, 1.0
    before = method.policy(batch.obs.view(2, 16, 2, 10, 10))
    assert method.update(batch)["target_mean"].tolist() == [1.0, 1.0]
    assert not torch.allclose(method.policy(batch.obs.view(2, 16, 2, 10, 10)), before)


# --- exploration ----------------------------------------------------------------------------------------------------


def test_epsilon_falls_linearly_with_the_updates():
    method = DQN(SPEC, DQNConfig(epsilon_start=0.9, epsilon_end=0.1, exploration_updates=100))
    epsilons = []
    for method.steps in (0, 50, 100, 1000):
        epsilons.append(method.epsilon)
    assert epsilons == pytest.approx([0.9, 0.5, 0.1, 0.1])
    assert DQN(SPEC, DQNConfig(epsilon_end=0.2, exploration_updates=0)).epsilon == pytest.approx(0.2)


def test_the_behaviour_explores_as_often_as_epsilon_says_and_follows_the_method():
    method = DQN(SPEC, DQNConfig(hidden=(8,), epsilon_start=1.0, epsilon_end=0.2, exploration_updates=10), copies=(2,))
    obs, generator = torch.randn(2, 4000, 4), torch.Generator().manual_seed(0)
    behaviour = method.behaviour
    best = method.policy.act(obs)[0]
    for method.steps, epsilon in ((0, 1.0), (10, 0.2)):
        action, _ = behaviour.act(obs, generator=generator, greedy=False)
        other = (action != best).float().mean(-1)  # a uniform draw is another action two times out of three
        assert other.tolist() == pytest.approx([epsilon * 2 / 3] * 2, abs=0.035)
    assert torch.equal(behaviour.act(obs)[0], best)
    torch.testing.assert_close(behaviour(obs), method.policy(obs))
    state = method.generator.get_state()
    behaviour.act(obs, generator=generator, greedy=False)
    assert torch.equal(method.generator.get_state(), state)  # the source's generator alone is used


# --- learning -------------------------------------------------------------------------------------------------------

CARTPOLE = DQNConfig(
    hidden=(64, 64), lr=1e-3, batch_size=64, target_every=100, exploration_updates=1500, epsilon_end=0.02, buffer_size=20_000, warmup=500
)


def learned_return(updates=4000, copies=(2,)):
    """Greedy return of each member after 8000 steps of CartPole, cut off at 200."""
    method = DQN(env_spaces("CartPole-v1"), CARTPOLE, copies=copies, seed=0)
    c = CARTPOLE
    source = Replayed(
        "CartPole-v1", method.behaviour, c.batch_size, copies=copies, capacity=c.buffer_size, warmup=c.warmup,
        env_steps=c.env_steps, updates=c.updates, n_envs=c.n_envs, max_steps=200, seed=0,
    )  # fmt: skip
    for _, batch in zip(range(updates), source, strict=False):
        method.update(batch)
    return method, rollout(method.policy, "CartPole-v1", 20, seed=1, max_steps=200).returns.mean(-1)


def test_it_learns_to_balance(tmp_path):
    method, returns = learned_return()
    assert returns.min() > 100  # random actions: about 22
    save_policy(method.policy, tmp_path / "policy")
    obs = torch.randn(2, 5, 4)
    assert torch.equal(read_policy(tmp_path / "policy").act(obs)[0], method.policy.act(obs)[0])


def test_without_bootstrapping_it_does_not(monkeypatch):
    """Every reward is 1: without the next value all actions are worth the same, and nothing can be learned."""
    monkeypatch.setattr(dqn, "td_target", lambda reward, terminated, next_value, gamma: reward)
    assert learned_return(copies=())[1].max() < 60


# --- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": 1.1}, {"epsilon_start": -0.1}, {"epsilon_end": 1.5}, {"exploration_updates": -1}, {"warmup": -1}, {"lr": 0.0},
        {"batch_size": 0}, {"target_every": 0}, {"max_norm": 0.0}, {"buffer_size": 0}, {"env_steps": 0}, {"updates": 0}, {"n_envs": 0},
    ],
)  # fmt: skip
def test_settings_outside_their_range(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        DQNConfig(**setting)


def test_continuous_actions_are_refused():
    with pytest.raises(EnvError, match="discrete actions"):
        DQN(env_spaces("Pendulum-v1"), DQNConfig())
