"""Learned attackers: the card's oracles 6 and 7, units, and what victim and attacker each see (how they learn: test_learned_attacks)."""

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.data.rollouts import Rollouts
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError, PolicyError
from surefoot.methods.online.adversary import (
    Adversary,
    AttackedRollouts,
    adversary_ppo,
    adversary_spec,
    directed,
    in_ball,
    response,
    steepest,
)
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical, NormalPolicy
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

CARTPOLE = Spec((4,), Discrete(2))
SCALE = torch.tensor([0.5, 2.0, 0.1])


def lean() -> Categorical:
    """A CartPole policy set by hand: pushes the way the pole leans."""
    policy = Categorical(CARTPOLE, (16,))
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        way = torch.tensor([0.0, 0.0, 1.0, 1.0])
        policy.net.weights[0][:, 0], policy.net.weights[0][:, 1] = way, -way
        policy.net.weights[1][0, 1] = policy.net.weights[1][1, 0] = 1.0
    return policy


def normal(actions: int = 2, copies: tuple[int, ...] = (), seed: int = 0) -> NormalPolicy:
    """A Gaussian policy that scales its three numbers by `SCALE`."""
    box = Continuous((-1.0,) * actions, (1.0,) * actions)
    spec = Spec((3,), box, torch.zeros(*copies, 3), SCALE.expand(*copies, 3).clone())
    return NormalPolicy(spec, (16,), copies, activation="tanh", squashed=False, generator=torch.Generator().manual_seed(seed))


def linear(w: torch.Tensor) -> ModulePolicy:
    """mu(s) = W s, in half ranges."""
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data.copy_(w)
    box = Continuous((-1.0,) * len(w), (1.0,) * len(w))
    return ModulePolicy(layer, Spec((w.shape[1],), box), "linear")


def attacker(victim, kind, eps, **options) -> Adversary:
    return Adversary.on(victim, adversary_ppo(victim, kind, seed=1).policy, kind, eps, **options)


# --- oracle 6: without a budget nothing changes -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sa_rl", "pa_ad"])
def test_without_a_budget_the_victim_sees_the_state_itself(kind):
    victim = normal()
    obs = torch.randn(6, 3)
    idle = attacker(victim, kind, 0.0)
    assert idle.perturbed(victim, obs, idle.draw(obs)) is obs


@pytest.mark.parametrize("kind", ["sa_rl", "pa_ad"])
def test_without_a_budget_the_victims_step_is_that_of_plain_ppo(kind):
    """Same seed, same segments, same update, bit for bit; and the attacker's reward is the victim's, negated."""
    config = PPOConfig(n_steps=40, n_envs=3, minibatch=40, epochs=2, raw_obs=True)
    plain, attacked = (PPO(env_spaces("CartPole-v1"), config, seed=4) for _ in range(2))
    source = Rollouts("CartPole-v1", plain.policy, 40, n_envs=3, seed=9, max_steps=15)
    duels = AttackedRollouts(
        "CartPole-v1", attacked.policy, attacker(attacked.policy, kind, 0.0), 40, learning=True, n_envs=3, seed=9, max_steps=15
    )
    for _ in range(3):
        batch, duel = next(source), next(duels)
        for name in ("obs", "action", "reward", "next_obs", "terminated", "ended"):
            assert torch.equal(getattr(batch, name), getattr(duel.victim, name)), name
        assert torch.equal(duel.adversary.reward, -batch.reward)
        assert torch.equal(duel.adversary.obs, batch.obs) and torch.equal(duel.adversary.next_obs, batch.next_obs)
        plain.update(batch)
        attacked.update(duel.victim)
    for a, b in zip(plain.policy.parameters(), attacked.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert source.metrics() == duels.metrics()


# --- oracle 7: the budget, and the direction --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sa_rl", "pa_ad"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_changes_stay_within_eps_in_the_victims_own_units(kind, norm):
    victim = normal()
    mine = attacker(victim, kind, 0.3, norm=norm)
    obs = 0.1 * torch.randn(200, 3, generator=torch.Generator().manual_seed(1))  # small: float32 rounds obs + change by 1e-8
    drawn = 3.0 * mine.draw(obs).detach()
    for eps in (0.3, 0.15):
        seen = mine.perturbed(victim, obs, drawn, generator=torch.Generator().manual_seed(0), eps=eps)
        change = (seen - obs) / SCALE
        size = change.abs().amax(-1) if norm == "linf" else change.norm(dim=-1)
        assert (size <= eps + 1e-6).all()
        if kind == "pa_ad":  # FGSM goes to the edge, in every coordinate that matters
            np.testing.assert_allclose(size.numpy(), eps, atol=1e-5)


def test_sa_rl_is_hardtanh():
    victim = normal()
    mine = attacker(victim, "sa_rl", 0.2)
    obs, out = torch.zeros(2, 3), torch.tensor([[0.5, -3.0, 2.0], [0.0, 1.0, -0.25]])
    torch.testing.assert_close(mine.perturbed(victim, obs, out), 0.2 * SCALE * torch.tensor([[0.5, -1.0, 1.0], [0.0, 1.0, -0.25]]))
    torch.testing.assert_close(in_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), "l2"), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_pa_ads_gradient_of_a_linear_victim_is_the_closed_form():
    """dL/dz = W^T [(u - cos m) / |Wz| + m], u and m = Wz / |Wz| of length 1."""
    w = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    victim, generator = linear(w), torch.Generator().manual_seed(1)
    obs, z, u = (torch.randn(50, n, generator=generator) for n in (5, 5, 3))
    value, gradient = directed(victim, obs, 0.01 * z, u)
    moved = 0.01 * z @ w.T
    size = moved.norm(dim=-1, keepdim=True)
    m, unit = moved / size, u / u.norm(dim=-1, keepdim=True)
    cosine = (m * unit).sum(-1, keepdim=True)
    torch.testing.assert_close(value, (cosine + size).squeeze(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, ((unit - cosine * m) / size + m) @ w, atol=2e-2, rtol=2e-3)


def test_pa_ad_moves_a_linear_victim_towards_the_direction_not_away():
    """delta = eps sign(W^T ...) has cos(W delta, u) above that of -delta: in 500 draws nearly always, and by far in the mean."""
    w = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    victim, generator = linear(w), torch.Generator().manual_seed(1)
    mine = Adversary.on(victim, normal(), "pa_ad", 0.3)
    obs, u = torch.zeros(500, 8), torch.randn(500, 3, generator=generator)
    delta = mine.perturbed(victim, obs, u, generator=generator)
    cosine = torch.cosine_similarity(delta @ w.T, u, -1)
    assert (cosine > -cosine).float().mean() > 0.9
    assert cosine.mean() > 0.5


@pytest.mark.parametrize("discrete", [False, True])
def test_on_a_line_the_step_follows_the_sign_of_the_output(discrete):
    """A cosine of +-1 has no gradient: with one action dimension, or two actions, the decision goes where u points, whatever z is."""
    victim = lean() if discrete else normal(1)
    mine = attacker(victim, "pa_ad", 0.05)
    obs = 0.02 * torch.randn(64, victim.spec.obs_dim, generator=torch.Generator().manual_seed(0))
    obs = obs + torch.tensor([0.0, 0.0, 0.1, 0.1]) if discrete else obs
    u = torch.tensor([0.4, -0.4]).repeat(64, 1) if discrete else torch.full((64, 1), 0.4)
    for sign in (1.0, -1.0):
        seen = mine.perturbed(victim, obs, sign * u, generator=torch.Generator().manual_seed(3))
        moved = response(victim, seen) - response(victim, obs)
        assert (sign * moved[:, 0] > 0).all()


def test_pa_ad_knows_of_scores_only_what_softmax_does():
    """A number added to all scores, or to all of u, changes nothing."""
    victim = Categorical(Spec((4,), Discrete(3)), (8,), generator=torch.Generator().manual_seed(0))
    obs, z, u = torch.randn(5, 4), 0.1 * torch.randn(5, 4), torch.randn(5, 3)
    plain = directed(victim, obs, z, u)
    with torch.no_grad():
        victim.net.biases[-1].add_(7.0)
    for a, b in zip(plain, directed(victim, obs, z, u + 2.0), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_no_gradient_reaches_the_victim():
    victim = normal()
    directed(victim, torch.randn(4, 3), 0.1 * torch.randn(4, 3), torch.randn(4, 2))
    assert all(p.grad is None for p in victim.parameters())


def test_a_gradient_that_is_zero_or_not_finite_moves_nothing():
    g = torch.tensor([[0.0, 0.0], [float("nan"), 1.0], [3.0, -4.0]])
    torch.testing.assert_close(steepest(g, "linf"), torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]]))
    torch.testing.assert_close(steepest(g, "l2"), torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.6, -0.8]]))


# --- what each side sees ----------------------------------------------------------------------------------------------


def test_the_attacker_sees_what_the_victims_scaling_makes_of_the_truth():
    victim = normal()
    method = adversary_ppo(victim, "sa_rl")
    assert method.policy.spec.obs_dim == method.policy.spec.box.dim == 3
    assert torch.equal(method.policy.normaliser.std, SCALE)
    method.update(next(AttackedRollouts("Pendulum-v1", pendulum(), attacker(pendulum(), "sa_rl", 0.1), 32, n_envs=2)).adversary)
    assert torch.equal(method.policy.normaliser.std, SCALE)  # frozen
    assert adversary_spec(victim, "pa_ad").box.dim == 2
    assert adversary_spec(lean(), "pa_ad").box.dim == 2
    own = adversary_ppo(lean(), "sa_rl")  # a victim that does not say how it scales: statistics of the attacker's own
    assert own.policy.normaliser.active and not own.config.raw_obs


def pendulum() -> NormalPolicy:
    spec = Spec((3,), Continuous((-2.0,), (2.0,)), torch.zeros(3), SCALE)
    return NormalPolicy(spec, (16,), squashed=False, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["sa_rl", "pa_ad"])
def test_both_sides_of_a_duel(kind):
    """The victim's rows are the attacker's, changed by its draws; what it is shown next is the next row, or what would have been."""
    victim = pendulum()
    mine = attacker(victim, kind, 0.2)
    source = AttackedRollouts("Pendulum-v1", victim, mine, 25, learning=True, n_envs=3, seed=2, max_steps=10)
    duel = next(source)
    a, v = duel.adversary, duel.victim
    assert a.action.shape == (25, 3, 3 if kind == "sa_rl" else 1) and v.action.shape == (25, 3, 1)
    assert torch.equal(a.reward, -v.reward) and torch.equal(a.ended, v.ended)
    change = (v.obs - a.obs).abs() / SCALE
    assert (change <= 0.2 + 1e-5).all() and (change.amax(-1) > 0).all()
    if kind == "sa_rl":
        torch.testing.assert_close(v.obs, a.obs + 0.2 * SCALE * a.action.clamp(-1, 1))
    goes_on = v.ended[:-1] == 0
    assert torch.equal(v.next_obs[:-1][goes_on], v.obs[1:][goes_on])
    assert a.ended[9].all() and not a.terminated.any()
    cut = (v.next_obs - a.next_obs)[a.ended.bool()].abs() / SCALE  # after a time limit: changed too, from the true last observation
    assert (cut <= 0.2 + 1e-5).all() and (cut.amax(-1) > 0).all()
    last = (v.next_obs[-1] - a.next_obs[-1]).abs() / SCALE
    assert (last <= 0.2 + 1e-5).all()


def test_a_victim_with_memory_begins_each_episode_without_it():
    """What a frame stack does under attack is what it does when its episodes are played one by one on what it was shown."""
    inner = Categorical(Spec((12,), Discrete(2)), (16,), generator=torch.Generator().manual_seed(0))
    victim = FrameStack(inner, 3)
    mine = Adversary.on(victim, adversary_ppo(victim, "sa_rl", seed=3).policy, "sa_rl", 0.05)
    seen, act = [], victim.act
    victim.act = lambda obs, memory, **how: (seen.append(obs.clone()), act(obs, memory, **how))[1]
    source = AttackedRollouts("CartPole-v1", victim, mine, 60, n_envs=2, seed=0, max_steps=20)
    duel = next(source)
    memory, chosen = victim.start(2), []
    for t, obs in enumerate(seen):
        action, memory = act(obs, memory)
        chosen.append(action)
        for i in np.flatnonzero(duel.adversary.ended[t].numpy()):
            fresh = victim.start(1)
            memory = {k: torch.cat([v[:i], fresh[k], v[i + 1 :]]) for k, v in memory.items()}
    assert duel.victim is None and duel.adversary.ended.sum() >= 4
    pushed = source.running.actions  # of the running episodes
    for i in range(2):
        age = int(source.running.ages[i])
        assert [int(c[i]) for c in chosen[len(chosen) - age :]] == pushed[i, :age].tolist()


def test_a_resumed_duel_goes_on_bit_for_bit():
    victim = FrameStack(Categorical(Spec((8,), Discrete(2)), (8,)), 2)
    mine = Adversary.on(victim, adversary_ppo(victim, "pa_ad", seed=3).policy, "pa_ad", 0.05)
    source, other = (AttackedRollouts("CartPole-v1", victim, mine, 17, n_envs=2, seed=0) for _ in range(2))
    next(source)
    other.load_state_dict({name: value.clone() for name, value in source.state_dict().items()})
    a, b = next(source).adversary, next(other).adversary
    assert torch.equal(a.action, b.action) and torch.equal(a.obs, b.obs) and torch.equal(a.reward, b.reward)


def test_a_fleet_has_one_attacker_each():
    fleet = normal(copies=(2,))
    mine = attacker(fleet, "pa_ad", 0.2)
    assert mine.policy.copies == (2,)
    obs, u = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    seen = mine.perturbed(fleet, obs, u, generator=torch.Generator().manual_seed(0))
    assert seen.shape == obs.shape
    for i in range(2):
        member = fleet.member(i)
        z = torch.empty(2, 5, 3).uniform_(-0.02, 0.02, generator=torch.Generator().manual_seed(0))[i]
        _, gradient = directed(member, obs[i], SCALE * z, u[i])
        torch.testing.assert_close(seen[i], obs[i] + 0.2 * SCALE * gradient.sign(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: attacker(normal(), "sa_rl", -0.1), ConfigError, "eps is -0.1"),
        (lambda: attacker(normal(), "sa_rl", float("nan")), ConfigError, "eps is nan"),
        (lambda: attacker(normal(), "sa_rl", 0.1, norm="l1"), ConfigError, "'linf' or 'l2'"),
        (lambda: adversary_spec(normal(), "atla"), ConfigError, "'sa_rl' or 'pa_ad'"),
        (lambda: adversary_spec(FunctionPolicy(len, CARTPOLE, "python:x"), "pa_ad"), PolicyError, "train SA-RL"),
        (
            lambda: AttackedRollouts("CartPole-v1", Smoothed(lean(), 0.1), attacker(lean(), "sa_rl", 0.1), 8, learning=True),
            ConfigError,
            "draw",
        ),
    ],
)
def test_misuse_is_one_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make()
