"""SA-PPO: its regulariser by hand, by brute force and against bounds; PPO without it; resumes; and that it keeps policies smooth."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from surefoot.cli import main
from surefoot.data.batches import Segments
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.methods.online.sa_ppo import SAPPO, SAPPOConfig, departure, langevin
from surefoot.policies.families import Categorical, NormalPolicy
from surefoot.policies.loading import load_policy

torch.set_num_threads(1)

BOX, CHOICE = Continuous((-2.0, -1.0), (2.0, 1.0)), Discrete(3)
SMALL = SAPPOConfig(n_steps=16, n_envs=2, minibatch=8, epochs=2, hidden=(8, 8), radius=0.3, radius_length=0, radius_start=0)

spaces = pytest.mark.parametrize("space", [BOX, CHOICE], ids=["continuous", "discrete"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def segments(space, copies=(), seed=0, t=16, n=2, s=3) -> Segments:
    g, shape = generator(seed), (*copies, t, n)
    obs, next_obs = torch.randn(2, *shape, s, generator=g)
    action = torch.randn(*shape, 2, generator=g) if space is BOX else torch.randint(3, shape, generator=g)
    terminated = (torch.rand(shape, generator=g) < 0.1).float()
    ended = torch.maximum(terminated, (torch.rand(shape, generator=g) < 0.1).float())
    return Segments(obs, action, torch.randn(shape, generator=g), next_obs, terminated, ended)


def make(space, copies=(), seed=0, kind=SAPPO, config=SMALL, **changes) -> PPO:
    return kind(Spec((3,), space), replace(config, **changes), copies=copies, seed=seed)


def policy(space=BOX, hidden=(8,), seed=0, copies=(), s=3):
    family, how = (Categorical, {}) if isinstance(space, Discrete) else (NormalPolicy, {"squashed": False})
    return family(Spec((s,), space), hidden, copies, activation="tanh", generator=generator(seed), **how)


# --- the regulariser --------------------------------------------------------------------------------------------------


def test_departures_are_twice_the_divergence():
    obs, moved = torch.randn(2, 20, 3, generator=generator())
    normal = policy()
    with torch.no_grad():
        normal.log_std.copy_(torch.tensor([-0.5, 0.3]))
        a, b = normal.distribution(obs), normal.distribution(moved)
        kl = kl_divergence(TorchNormal(a.mu, normal.log_std.exp()), TorchNormal(b.mu, normal.log_std.exp())).sum(-1)
        torch.testing.assert_close(departure(b, a), 2.0 * kl)
        chooser = policy(CHOICE)
        a, b = chooser.distribution(obs), chooser.distribution(moved)
        kl = kl_divergence(TorchCategorical(logits=a.logprobs), TorchCategorical(logits=b.logprobs))
        torch.testing.assert_close(departure(b, a), 2.0 * kl)


def test_the_gradient_is_that_of_the_moved_mean_and_of_sigma():
    """d/dW of ((W s' - [W s]) / sigma)^2 with what is in brackets held fixed, and d/d log sigma = -2 R."""
    normal = policy(hidden=())
    obs, moved = torch.randn(2, 1, 3, generator=generator(1))
    r = departure(normal.distribution(moved), normal.distribution(obs)).sum()
    weight, log_std = torch.autograd.grad(r, [normal.net.weights[0], normal.log_std])
    difference = (moved - obs) @ normal.net.weights[0]
    torch.testing.assert_close(weight, 2.0 * moved.T @ difference)
    torch.testing.assert_close(log_std, -2.0 * difference.square().squeeze(0))


@pytest.mark.parametrize("copies", [(), (2,)])
def test_the_search_finds_the_corner_where_a_linear_policy_moves_most(copies):
    """R is convex in s' then, so brute force over the corners of the box is its maximum, and no search exceeds it."""
    eps, normal = 0.2, policy(Continuous((-1.0,), (1.0,)), hidden=(), copies=copies, seed=3, s=4)
    obs = torch.randn(*copies, 50, 4, generator=generator(2))
    with torch.no_grad():
        anchor = normal.distribution(obs)
        corners = [normal.distribution(obs + eps * torch.tensor(signs)) for signs in product((-1.0, 1.0), repeat=4)]
        most = torch.stack([departure(corner, anchor) for corner in corners]).max(0).values
        drawn = obs + eps * torch.randn(obs.shape, generator=generator(4)).sign()
        by_chance = (departure(normal.distribution(drawn), anchor) / most).mean()
    share = {}
    for steps in (2, 20):
        worst = langevin(normal, obs, anchor, eps, steps, generator(5))
        assert ((worst - obs).abs() <= eps + 1e-6).all() and not worst.requires_grad
        found = departure(normal.distribution(worst), anchor).detach() / most
        assert found.max() <= 1.0 + 1e-5
        share[steps] = found.mean()
    assert share[2] > by_chance + 0.2  # two half steps from a start half a radius away do not reach every corner
    assert share[20] > 0.94


def bounds(normal: NormalPolicy, obs: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Interval bounds of the mean over the box around `obs`, layer by layer."""
    low, high = obs - eps, obs + eps
    for i, (w, b) in enumerate(zip(normal.net.weights, normal.net.biases, strict=True)):
        centre, radius = 0.5 * (low + high) @ w + b, 0.5 * (high - low) @ w.abs()
        low, high = centre - radius, centre + radius
        if i + 1 < len(normal.net.weights):
            low, high = torch.tanh(low), torch.tanh(high)
    return low, high


@given(st.integers(0, 1000), st.floats(0.01, 0.5), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_the_search_stays_in_its_box_and_below_interval_bounds(seed, eps, steps):
    normal = policy(hidden=(8, 8), seed=seed)
    obs = torch.randn(30, 3, generator=generator(seed))
    with torch.no_grad():
        anchor, (low, high) = normal.distribution(obs), bounds(normal, obs, eps)
        most = (torch.maximum(high - anchor.mu, anchor.mu - low) / normal.log_std.exp()).square().sum(-1)
    worst = langevin(normal, obs, anchor, eps, steps, generator(seed))
    assert (worst - obs).abs().max() <= eps + 1e-6
    assert (departure(normal.distribution(worst), anchor) <= most + 1e-5).all()


# --- the method -------------------------------------------------------------------------------------------------------


@spaces
@pytest.mark.parametrize("off", [{"radius": 0.0}, {"kappa": 0.0}, {"radius_start": 50}])
def test_without_radius_or_weight_it_is_ppo(space, off):
    """Oracle 6 of PROTECTED's card, the victim's half: bit for bit."""
    ours, plain = make(space, **off), make(space, kind=PPO, config=PPOConfig(n_steps=16, n_envs=2, minibatch=8, epochs=2, hidden=(8, 8)))
    for i in range(2):
        metrics = ours.update(segments(space, seed=i))
        expected = plain.update(segments(space, seed=i))
        assert metrics.pop("radius") == (0.0 if "kappa" not in off else torch.tensor(0.3))
        assert all(torch.equal(value, metrics[name]) for name, value in expected.items())
    state = ours.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


@spaces
def test_the_loss_has_kappa_times_the_mean_departure(space):
    method = make(space, kappa=0.7)
    method.updates = 1
    obs = torch.randn(8, 3, generator=generator(1))
    state = method.generator.get_state()
    anchor = method.policy.distribution(obs)
    extra = method.regulariser(obs, anchor)
    again = torch.Generator()
    again.set_state(state)
    worst = langevin(method.policy, obs, anchor, 0.3, 2, again)
    torch.testing.assert_close(extra, 0.7 * departure(method.policy.distribution(worst), anchor).mean())
    assert all(p.grad is None for p in method.policy.parameters())  # the search leaves no gradients behind


def test_the_radius_rises_from_zero():
    config = SAPPOConfig(radius=0.1, radius_start=1, radius_length=4)
    assert [config.radius_at(t) for t in (1, 2, 3, 5, 9)] == pytest.approx([0.0, 0.025, 0.05, 0.1, 0.1])
    assert SAPPOConfig(radius=0.1, radius_length=0).radius_at(1) == 0.1
    assert SAPPOConfig(radius=0.1, radius_start=3, radius_length=0).radius_at(2) == 0.0
    method = make(BOX, radius_length=2, radius_start=1)
    assert [round(float(method.update(segments(BOX, seed=i))["radius"]), 6) for i in range(4)] == [0.0, 0.15, 0.3, 0.3]


@spaces
@pytest.mark.parametrize("copies", [(), (2,)])
def test_a_resumed_method_goes_on_bit_for_bit(space, copies):
    whole, first, second = (make(space, copies, seed=s, radius_length=3) for s in (0, 0, 9))
    batches = [segments(space, copies, seed=i) for i in range(4)]
    for batch in batches:
        whole.update(batch)
    for batch in batches[:2]:
        first.update(batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        second.update(batch)
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_an_update_never_waits_for_the_device(no_waiting):
    method, batch = make(BOX), segments(BOX)
    method.update(batch)
    with no_waiting():
        method.update(batch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radius": -0.1}, "radius is -0.1"),
        ({"kappa": float("inf")}, "kappa is inf"),
        ({"radius_length": -1}, "radius_length is -1"),
        ({"langevin_steps": 0}, "langevin_steps is 0: at least one is needed"),
        ({"minibatch": 1}, "minibatch is 1"),
    ],
)
def test_bad_settings_are_one_sentence(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **change)


# --- learning ---------------------------------------------------------------------------------------------------------


def test_it_learns_a_policy_that_is_smoother():
    """Rewarded for acting with the sign of what it sees: PPO's decisions jump there, with the regulariser they pass over gently."""
    config = SAPPOConfig(
        n_steps=16, n_envs=16, minibatch=64, epochs=4, learning_rate=1e-2, radius=0.3, radius_length=0, radius_start=0, kappa=1.0
    )
    moved, earned = {}, {}
    for kappa in (0.0, 1.0):
        method = SAPPO(Spec((1,), Continuous((-1.0,), (1.0,))), replace(config, kappa=kappa, raw_obs=True), seed=0)
        draws = generator(1)
        for _ in range(25):
            obs = torch.rand(256, 1, generator=draws) * 2.0 - 1.0
            action = method.policy.draw(obs, draws).detach()
            reward, over = -(action - obs.sign()).abs().view(16, 16), torch.ones(16, 16)
            method.update(Segments(obs.view(16, 16, 1), action.view(16, 16, 1), reward, obs.view(16, 16, 1), over, over))
        obs = torch.linspace(-1.0, 1.0, 101).unsqueeze(-1)
        with torch.no_grad():
            mu, near = method.policy.distribution(obs).mu, method.policy.distribution(obs + 0.1).mu
        moved[kappa], earned[kappa] = (near - mu).abs().max(), -(mu - obs.sign()).abs().mean()
    assert moved[1.0] < 0.7 * moved[0.0], moved
    assert earned[1.0] > -0.6, earned  # -1 for doing nothing


def test_it_is_trained_from_the_command_line(tmp_path):
    words = "train sa_ppo --env Pendulum-v1 --steps 128 --n-steps 32 --n-envs 2 --minibatch 16 --epochs 2 --radius 0.1 --radius-length 1"
    rest = f"--seeds 2 --eval-every 0 --episodes 1 --max-steps 10 --no-progress --out {tmp_path / 'run'}"
    assert main([*words.split(), *rest.split()]) == 0
    assert load_policy(str(tmp_path / "run")).copies == (2,)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"radius": [' in rows
