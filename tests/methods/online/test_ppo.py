"""PPO by hand, against Stable-Baselines3's and TorchRL-like formulas, in resumes, in fleets, and learning with its key terms on and off."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from surefoot.data.batches import Segments
from surefoot.data.rollouts import Rollouts
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.online import ppo
from surefoot.methods.online.ppo import PPO, PPOConfig, clipped_surrogate, gae, minibatches
from surefoot.nn.running import RunningMoments
from surefoot.policies.saving import read_policy, save_policy

BOX, CHOICE = Continuous((-2.0, -1.0), (2.0, 1.0)), Discrete(3)
SMALL = PPOConfig(n_steps=16, n_envs=2, minibatch=8, epochs=2, hidden=(8, 8))


def segments(space, copies=(), seed=0, t=16, n=2, s=3) -> Segments:
    g = torch.Generator().manual_seed(seed)
    shape = (*copies, t, n)
    obs = torch.randn(*shape, s, generator=g) * 3.0 + 1.0
    action = torch.randn(*shape, 2, generator=g) if space is BOX else torch.randint(3, shape, generator=g)
    terminated = (torch.rand(shape, generator=g) < 0.1).float()
    ended = torch.maximum(terminated, (torch.rand(shape, generator=g) < 0.1).float())
    reward = torch.randn(shape, generator=g)
    return Segments(obs, action, reward, torch.randn(*shape, s, generator=g), terminated, ended)


def make(space, copies=(), seed=0, **changes) -> PPO:
    return PPO(Spec((3,), space), replace(SMALL, **changes), copies=copies, seed=seed)


spaces = pytest.mark.parametrize("space", [BOX, CHOICE], ids=["continuous", "discrete"])


# --- advantages -------------------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    """Three steps, the second truncated: its own bootstrap counts, but nothing flows over it."""
    column = lambda *x: torch.tensor(x).unsqueeze(-1)  # noqa: E731
    reward, value, next_value = column(1.0, 2.0, 3.0), column(0.5, 1.0, 2.0), column(1.0, 4.0, 8.0)
    terminated, ended = column(0.0, 0.0, 1.0), column(0.0, 1.0, 1.0)
    got = gae(reward, value, next_value, terminated, ended, 0.5, 0.8).squeeze(-1)
    # deltas 1 + .5 - .5 = 1; 2 + 2 - 1 = 3; 3 + 0 - 2 = 1
    torch.testing.assert_close(got, torch.tensor([1.0 + 0.4 * 3.0, 3.0, 1.0]))


@given(st.integers(0, 1000), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_advantages_are_those_of_stable_baselines3(seed, gamma, lam):
    rng, t, n = np.random.default_rng(seed), 12, 3
    space = env_space()
    buffer = RolloutBuffer(t, space.observation_space, space.action_space, gae_lambda=lam, gamma=gamma, n_envs=n)
    values, starts = rng.standard_normal((t + 1, n)).astype(np.float32), rng.random((t + 1, n)) < 0.2
    rewards = rng.standard_normal((t, n)).astype(np.float32)
    for i in range(t):
        buffer.add(np.zeros((n, 4)), np.zeros((n, 1)), rewards[i], starts[i], torch.tensor(values[i]), torch.zeros(n))
    buffer.compute_returns_and_advantage(torch.tensor(values[-1]), starts[-1])
    ended = torch.tensor(starts[1:]).float()  # there every end is a termination
    ours = gae(torch.tensor(rewards), torch.tensor(values[:-1]), torch.tensor(values[1:]), ended, ended, gamma, lam)
    torch.testing.assert_close(ours, torch.tensor(buffer.advantages), rtol=1e-4, atol=1e-5)


def env_space():
    return gym.make("CartPole-v1")


def test_lambda_one_is_the_sum_of_rewards_and_zero_one_step():
    s = segments(CHOICE)
    value, next_value = torch.randn(16, 2), torch.randn(16, 2)
    one_step = s.reward + 0.9 * (1 - s.terminated) * next_value - value
    torch.testing.assert_close(gae(s.reward, value, next_value, s.terminated, s.ended, 0.9, 0.0), one_step)
    nothing_ends = torch.zeros(16, 2)
    following = torch.cat([value[1:], next_value[-1:]])
    whole = gae(s.reward, value, following, nothing_ends, nothing_ends, 1.0, 1.0) + value
    torch.testing.assert_close(whole, s.reward.flip(0).cumsum(0).flip(0) + next_value[-1], rtol=1e-4, atol=1e-5)


# --- losses and statistics --------------------------------------------------------------------------------------------


def test_the_surrogate_by_hand():
    ratio, advantage = torch.tensor([1.5, 0.5, 1.1, 0.5]), torch.tensor([1.0, -1.0, 2.0, 1.0])
    expected = -(1.2 * 1.0 - 0.8 * 1.0 + 1.1 * 2.0 + 0.5 * 1.0) / 4
    assert clipped_surrogate(ratio.log(), torch.zeros(4), advantage, 0.2).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="must all be"):
        clipped_surrogate(ratio, torch.zeros(3), advantage, 0.2)


def test_nothing_is_gained_beyond_the_clip():
    for sign in (1.0, -1.0):
        logprob = torch.tensor([sign * 1.0], requires_grad=True)
        loss = clipped_surrogate(logprob, torch.zeros(1), torch.tensor([sign]), 0.2)
        assert torch.autograd.grad(loss, logprob)[0].item() == 0.0
        loss = clipped_surrogate(logprob, torch.zeros(1), torch.tensor([-sign]), 0.2)  # and nothing keeps it from coming back
        assert torch.autograd.grad(loss, logprob)[0].item() != 0.0


@given(st.floats(-5.0, 5.0), st.floats(-3.0, 3.0), st.floats(0.01, 0.9))
def test_the_surrogate_is_that_of_equation_7(advantage, log_ratio, clip):
    a, log_ratio = torch.tensor([advantage]), torch.tensor([log_ratio])
    ratio = log_ratio.exp()
    expected = -torch.minimum(ratio * a, ratio.clamp(1.0 - clip, 1.0 + clip) * a).item()
    assert clipped_surrogate(log_ratio, torch.zeros(1), a, clip).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("lead", [0, 1])
def test_minibatches_are_rows_in_order_and_whole(lead):
    x, order = torch.arange(33.0).expand(*(2,) * lead, 33), torch.randperm(33, generator=torch.Generator().manual_seed(0))
    pieces = list(minibatches((x, x.unsqueeze(-1)), order, 8, lead))
    assert len(pieces) == 4
    torch.testing.assert_close(torch.cat([first for first, _ in pieces], lead), order[:32].float().expand(*(2,) * lead, 32))
    assert all(torch.equal(first, second.squeeze(-1)) for first, second in pieces)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_moments_do_not_depend_on_the_cuts(sizes, seed):
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, n, 3, generator=g) * 5.0 + 100.0 for n in sizes]
    moments = RunningMoments((2, 3))
    torch.testing.assert_close(moments.std(), torch.ones(2, 3))
    for part in parts:
        moments.add(part)
    rows = torch.cat(parts, 1).double()
    torch.testing.assert_close(moments.mean, rows.mean(1))
    torch.testing.assert_close(moments.std(), (rows.var(1, correction=0) + 1e-8).sqrt().float())


def test_scaling_is_that_of_vecnormalize():
    """Of rewards (by the same discounted sums) and observations; theirs moves step by step, ours batch by batch, so compare after each."""
    method, venv = make(CHOICE), VecNormalize(DummyVecEnv([env_space, env_space]), gamma=SMALL.gamma)
    venv.ret_rms, venv.obs_rms = RunningMeanStd(epsilon=0.0, shape=()), RunningMeanStd(epsilon=0.0, shape=(3,))
    for seed in range(3):
        s = segments(CHOICE, seed=seed)
        for t in range(16):
            venv._update_reward(s.reward[t].numpy())
            venv.returns[s.ended[t].numpy().astype(bool)] = 0.0
            venv.obs_rms.update(s.obs[t].numpy())
        torch.testing.assert_close(method._scaled(s), torch.tensor(venv.normalize_reward(s.reward.numpy())), rtol=1e-4, atol=1e-5)
        method._refresh(s.obs)
        theirs = torch.tensor(venv.normalize_obs(s.obs.flatten(0, 1).numpy()))
        torch.testing.assert_close(method.normaliser(s.obs.flatten(0, 1)), theirs, rtol=1e-4, atol=1e-4)


@spaces
def test_the_policy_scales_by_what_it_has_seen(space):
    method, batches = make(space), [segments(space, seed=i) for i in range(3)]
    for batch in batches:
        method.update(batch)
    seen = torch.cat([batch.obs.flatten(0, 1) for batch in batches])
    torch.testing.assert_close(method.policy.normaliser.mean, seen.mean(0))
    torch.testing.assert_close(method.policy.normaliser.std, seen.std(0, correction=0), rtol=1e-4, atol=1e-4)
    plain = make(space, raw_obs=True)
    plain.update(batches[0])
    assert not plain.policy.normaliser.active


def test_the_first_batch_is_learned_from_under_its_own_scaling(monkeypatch):
    method, seen = make(BOX, epochs=1, minibatch=32), []
    monkeypatch.setattr(method, "_descend", lambda obs, *rest: (seen.append(obs), rest[-1].mean(), rest[-1].mean())[1:])
    batches = [segments(BOX, seed=i) for i in range(2)]
    for batch in batches:
        method.update(batch)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    first, second = (batch.obs.flatten(0, 1) for batch in batches)
    expected = (second - first.mean(0)) / first.std(0, correction=0)  # as it was played
    torch.testing.assert_close(seen[1].sort(0).values, expected.sort(0).values, atol=1e-4, rtol=1e-4)


# --- the method -------------------------------------------------------------------------------------------------------


class Shaped(gym.Env):
    """Spaces alone: what a Stable-Baselines3 model is built for, which is then given our batches."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, space):
        box = gym.spaces.Box(-np.ones(2, np.float32), np.ones(2, np.float32))
        self.action_space = box if space is BOX else gym.spaces.Discrete(3)


def peer_of(method, space, sb3_model, copy_net, **options):
    """Stable-Baselines3's PPO with our settings and our weights."""
    c = method.config
    sizes = {
        "n_steps": c.n_steps * c.n_envs,
        "batch_size": c.minibatch,
        "n_epochs": c.epochs,
        "policy_kwargs": {"net_arch": list(c.hidden)},
    }
    peer = sb3_model("PPO", Shaped(space), **sizes, **options)
    copy_net(method.policy.net, [*peer.policy.mlp_extractor.policy_net, peer.policy.action_net])
    copy_net(method.critic, [*peer.policy.mlp_extractor.value_net, peer.policy.value_net])
    return peer


def let_it_collect(peer, method, batch):
    """The peer's buffer as its `collect_rollouts` fills it: bootstrapped where a time limit cut off, in our order of rows."""
    c, policy = method.config, peer.policy
    scaled = [method.normaliser(x.flatten(0, 1)) for x in (batch.obs, batch.next_obs)]
    action = batch.action.flatten(0, 1)
    with torch.no_grad():
        value, logprob, _ = policy.evaluate_actions(scaled[0], action)
        next_value = policy.predict_values(scaled[1]).view(batch.reward.shape)
    cut_off = batch.ended - batch.terminated
    value = value.view(batch.reward.shape)
    buffer = RolloutBuffer(c.n_steps, peer.observation_space, peer.action_space, gae_lambda=c.gae_lambda, gamma=c.gamma, n_envs=c.n_envs)
    buffer.rewards, buffer.values = (batch.reward + c.gamma * cut_off * next_value).numpy(), value.numpy()
    buffer.episode_starts = np.concatenate([np.ones((1, c.n_envs)), batch.ended[:-1].numpy()])
    buffer.compute_returns_and_advantage(next_value[-1], batch.ended[-1].numpy())
    for name in ("values", "advantages", "returns"):
        setattr(buffer, name, getattr(buffer, name).reshape(-1, 1))
    buffer.observations, buffer.actions, buffer.log_probs = (
        scaled[0].numpy(),
        action.view(len(action), -1).numpy(),
        logprob[:, None].numpy(),
    )
    buffer.full = buffer.generator_ready = True
    peer.rollout_buffer = buffer


@spaces
def test_updates_are_those_of_stable_baselines3(space, sb3_model, copy_net, monkeypatch):
    """The same weights, data and minibatches in both: the same weights after three updates, each under a new scaling."""
    method = make(space, raw_reward=True, entropy_weight=0.01, learning_rate=1e-2)
    peer = peer_of(method, space, sb3_model, copy_net, ent_coef=0.01, learning_rate=1e-2)
    orders, clipped = torch.Generator(), []
    monkeypatch.setattr(np.random, "permutation", lambda n: torch.randperm(n, generator=orders).numpy())
    for seed in range(3):
        batch = segments(space, seed=seed)
        goes_on = (batch.ended[:-1] == 0.0).unsqueeze(-1)
        batch = replace(batch, next_obs=torch.cat([torch.where(goes_on, batch.obs[1:], batch.next_obs[:-1]), batch.next_obs[-1:]]))
        if method.steps == 0:  # what it will find itself
            method.normaliser.mean.copy_(batch.obs.mean((0, 1)))
            method.normaliser.std.copy_(batch.obs.std((0, 1), correction=0))
        let_it_collect(peer, method, batch)
        orders.set_state(method.generator.get_state())
        clipped.append(method.update(batch)["clipped"].item())
        peer.train()
    assert max(clipped) > 0.0
    pairs = [
        (method.policy.net, [*peer.policy.mlp_extractor.policy_net, peer.policy.action_net]),
        (method.critic, [*peer.policy.mlp_extractor.value_net, peer.policy.value_net]),
    ]
    for net, layers in pairs:
        for layer, w, b in zip([x for x in layers if isinstance(x, torch.nn.Linear)], net.weights, net.biases, strict=True):
            torch.testing.assert_close(w.T, layer.weight, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(b, layer.bias, rtol=1e-3, atol=1e-5)
    if space is BOX:
        torch.testing.assert_close(method.policy.log_std, peer.policy.log_std, rtol=1e-3, atol=1e-5)
        assert method.policy.log_std.abs().max() > 1e-3


@spaces
@pytest.mark.parametrize("copies", [(), (2,)], ids=["lone", "fleet"])
def test_a_resumed_run_equals_the_uninterrupted_one(space, copies):
    method = make(space, copies)
    for i in range(2):
        method.update(segments(space, copies, i))
    saved = {k: v.clone() for k, v in method.state_dict().items()}
    again = make(space, copies, seed=9)
    again.load_state_dict(saved)
    for i in range(2, 4):
        expected, got = (m.update(segments(space, copies, i)) for m in (method, again))
    assert again.steps == method.steps == 4 * 32
    assert all(torch.equal(expected[k], got[k]) for k in expected)
    assert [k for k, v in method.state_dict().items() if not torch.equal(v, again.state_dict()[k])] == []


@spaces
def test_a_member_of_a_fleet_learns_as_a_lone_run(space):
    fleet, lone = make(space, (3,)), make(space)
    own = fleet.policy.member(1)
    lone.policy.load_state_dict(own.state_dict())
    lone.critic.load_state_dict({k: v[1] for k, v in fleet.critic.state_dict().items()})
    fleet.generator.manual_seed(5), lone.generator.manual_seed(5)
    for i in range(3):
        batch = segments(space, (3,), i)
        alone = Segments(**{k: v[1] for k, v in vars(batch).items()})
        theirs, ours = fleet.update(batch), lone.update(alone)
        for name in ours:
            torch.testing.assert_close(theirs[name][1], ours[name], rtol=1e-3, atol=1e-4)
    obs = torch.randn(5, 3)
    torch.testing.assert_close(fleet.policy.member(1)(obs), lone.policy(obs), rtol=1e-3, atol=1e-4)


@spaces
def test_nothing_waits_for_the_device(no_waiting, space):
    method = make(space, (2,))
    method.update(segments(space, (2,)))
    with no_waiting():
        metrics = method.update(segments(space, (2,), 1))
    assert all(value.shape == (2,) and not value.requires_grad for value in metrics.values())
    assert set(metrics) == {"policy_loss", "value_loss", "entropy", "approx_kl", "clipped", "explained_variance"}


def test_the_first_minibatch_starts_from_the_policy_that_played(monkeypatch):
    """Its ratio is 1 whatever the normaliser has seen since: scaling changes between updates, not within one."""
    method, seen = make(BOX, epochs=1), []
    real = ppo.clipped_surrogate
    monkeypatch.setattr(
        ppo, "clipped_surrogate", lambda new, old, *rest: seen.append((new - old).abs().max().item()) or real(new, old, *rest)
    )
    for i in range(3):
        method.update(segments(BOX, seed=i))
    per_update = SMALL.n_steps * SMALL.n_envs // SMALL.minibatch
    assert max(seen[::per_update]) < 1e-5 < max(seen)


def test_the_learning_rate_falls_to_nothing():
    method = make(CHOICE, anneal=64)
    rates = []
    for i in range(3):
        method.update(segments(CHOICE, seed=i))
        rates.append(method.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([3e-4, 1.5e-4, 0.0])


def test_its_start_is_orthogonal_and_nearly_uniform():
    method = PPO(Spec((4,), Discrete(2)), PPOConfig(), copies=(2,))
    w = method.policy.net.weights[1][0]
    torch.testing.assert_close(w @ w.T, 2.0 * torch.eye(64), atol=1e-4, rtol=0)
    assert method.policy(torch.randn(2, 100, 4)).abs().max() < 0.1
    assert not torch.equal(method.policy.net.weights[0][0], method.policy.net.weights[0][1])


# --- learning ---------------------------------------------------------------------------------------------------------

CARTPOLE = PPOConfig(n_steps=256, n_envs=4, minibatch=128, epochs=6, learning_rate=1e-3)


def learned(steps=14_000, copies=(), config=CARTPOLE):
    method = PPO(env_spaces("CartPole-v1"), config, copies=copies, seed=0)
    source = Rollouts("CartPole-v1", method.policy, config.n_steps, copies=copies, n_envs=config.n_envs, seed=0)
    while method.steps < steps:
        method.update(next(source))
    return method, rollout(method.policy, "CartPole-v1", 20, seed=1).returns.mean(-1)


def test_it_learns_to_balance(tmp_path):
    method, returns = learned()
    assert returns.min() > 300  # random actions: about 22
    save_policy(method.policy, tmp_path / "policy")
    obs = torch.randn(5, 4)
    assert torch.equal(read_policy(tmp_path / "policy")(obs), method.policy(obs))  # with its scaling


def test_without_advantages_it_does_not(monkeypatch):
    monkeypatch.setattr(ppo, "gae", lambda reward, *rest: torch.zeros_like(reward))
    assert learned()[1].max() < 150


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": 1.5}, {"gae_lambda": -0.1}, {"n_steps": 0}, {"n_envs": 0}, {"epochs": 0}, {"minibatch": 1}, {"minibatch": 4096},
        {"clip": 0.0}, {"learning_rate": 0.0}, {"eps": 0.0}, {"max_norm": 0.0}, {"anneal": -1}, {"value_weight": -1.0},
        {"entropy_weight": -0.1},
    ],
)  # fmt: skip
def test_settings_outside_their_range(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        PPOConfig(**setting)
