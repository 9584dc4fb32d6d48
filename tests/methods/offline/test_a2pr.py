"""A2PR: the card's oracles, the official code's step written out, and a bandit on which only good actions may be imitated."""

import copy
from dataclasses import replace

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
from surefoot.methods.offline import a2pr
from surefoot.methods.offline.a2pr import A2PR, A2PRConfig, better_action, masked_reconstruction
from surefoot.methods.offline.td3 import TD3, TD3Config, regulariser, td_target, value_loss
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig
from surefoot.nn.cvae import gaussian_kl

SPEC = Spec((3,), Continuous((-1.0, -1.0), (1.0, 1.0)))
TINY = {"hidden": (16, 16), "critic_hidden": (16, 16), "vae_hidden": (16, 16), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.1}


def batch(seed=0, size=32) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    reward, ends = torch.randn(size, generator=g), (torch.rand(size, generator=g) < 0.2).float()
    action = 2.0 * torch.rand(size, 2, generator=g) - 1.0
    return Transitions(torch.randn(size, 3, generator=g), action, reward, torch.randn(size, 3, generator=g), ends)


# --- losses ---------------------------------------------------------------------------------------------------------

Q_VAE, Q_DATA, V = torch.tensor([2.0, 0.5, -1.0, 1.0]), torch.tensor([1.0, 0.8, -2.0, 1.0]), torch.tensor([1.5, 0.0, 0.0, 1.0])
A_VAE, A, P = (torch.tensor(x).unsqueeze(-1) for x in ([0.3, -0.2, 0.7, 0.5], [-0.5, 0.4, 0.1, -0.9], [0.0, 0.1, 0.2, -0.3]))


def test_vae_loss_of_the_card():
    mu, sigma = torch.tensor([[0.5, -1.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.5], [0.1, 1.5]])
    a, rec = torch.tensor([[0.2, -0.4], [0.9, 0.1]]), torch.tensor([[0.1, 0.0], [0.5, 0.3]])
    advantage = torch.tensor([1.5, 0.2]) - torch.tensor([1.0, 0.5])
    error = masked_reconstruction(rec, a, advantage, 1.5)
    assert error.item() == pytest.approx(0.063750, abs=1e-6)
    assert (error + 0.5 * gaussian_kl(mu, sigma.log())).item() == pytest.approx(0.685033, abs=1e-6)


def test_selection_of_the_card():
    a_bar, g = better_action(A, A_VAE, Q_DATA, Q_VAE, V, 1.0)
    assert a_bar.squeeze(-1).tolist() == pytest.approx([0.3, 0.4, 0.7, 0.5])
    assert g.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert regulariser(P, a_bar, g).item() == pytest.approx(0.205)
    assert regulariser(P, *better_action(A, A_VAE, Q_DATA, Q_VAE, V, 0.4)).item() == pytest.approx(0.082)


def test_actor_loss_of_the_card():
    loss = value_loss(torch.tensor([10.0, -20.0, 30.0, -40.0]), 2.5)
    assert loss.item() == pytest.approx(0.5)
    assert (loss + regulariser(P, *better_action(A, A_VAE, Q_DATA, Q_VAE, V, 0.4))).item() == pytest.approx(0.582)


def test_targets_of_the_card():
    r, going, ended = torch.ones(1), torch.zeros(1), torch.ones(1)
    target, online = torch.tensor([[3.0], [2.5]]), torch.tensor([[2.2], [2.6]])
    y, y2 = td_target(r, going, target, 0.99), td_target(r, going, online, 0.99)
    assert y.item() == pytest.approx(3.475) and torch.minimum(y, y2).item() == pytest.approx(3.178)
    assert td_target(r, ended, target, 0.99).item() == td_target(r, ended, online, 0.99).item() == 1.0


values = st.floats(-100, 100, width=32)


@given(values, values, values, st.floats(0, 2))
def test_the_choice_is_never_worse_and_the_weight_is_mask_or_nothing(q_data, q_vae, v, mask):
    q_data, q_vae, v = (torch.tensor([x]) for x in (q_data, q_vae, v))
    a_bar, g = better_action(torch.tensor([[0.0]]), torch.tensor([[1.0]]), q_data, q_vae, v, mask)
    chosen = q_vae if a_bar.item() == 1.0 else q_data
    assert chosen == torch.maximum(q_data, q_vae)
    assert g.item() == pytest.approx(mask if (q_vae >= v or q_data > v) else 0.0)


def test_losses_check_shapes():
    with pytest.raises(ValueError, match=r"\[\.\.\., B, A\]"):
        better_action(A, A_VAE, Q_DATA, Q_VAE, V.unsqueeze(-1), 1.0)
    with pytest.raises(ValueError, match="must agree"):
        masked_reconstruction(A, A_VAE, Q_DATA.unsqueeze(-1), 1.0)


@pytest.mark.parametrize(
    ("field", "value"), [("mask", -1.0), ("vae_weight", -1.0), ("kl_weight", -1.0), ("vae_lr", 0.0), ("gamma", 2.0), ("critic_lr", 0.0)]
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ConfigError, match=field):
        A2PRConfig(**{field: value})


def test_paper_defaults():
    c = A2PRConfig()
    assert (c.hidden, c.critic_widths, c.vae_hidden) == ((256,) * 3, (256,) * 4, (750, 750))
    assert (c.alpha, c.gamma, c.tau, c.policy_freq, c.target_noise, c.noise_clip) == (2.5, 0.99, 0.005, 2, 0.2, 0.5)
    assert (c.actor_lr, c.critic_lr, c.vae_lr, c.batch_size) == (3e-4, 3e-4, 1e-3, 256)
    assert (c.mask, c.vae_weight, c.kl_weight, c.detach_target) == (1.0, 1.0, 0.5, False)
    assert A2PR(SPEC, A2PRConfig(vae_hidden=(8,))).vae.latent_dim == 4


def test_improvement_of_the_augmented_behaviour():
    """The card's two-state chain: imitating the actions of positive advantage alone is at least as good everywhere."""
    transition = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]]], dtype=torch.float64)  # [s, a, s']
    reward, beta = torch.tensor([[0.0, 0.5], [0.2, 1.0]]).double(), torch.tensor([[0.8, 0.2], [0.5, 0.5]]).double()

    def state_values(policy):
        step, gain = torch.einsum("sa,sat->st", policy, transition), (policy * reward).sum(-1)
        return torch.linalg.solve(torch.eye(2, dtype=torch.float64) - 0.9 * step, gain)

    v = state_values(beta)
    advantage = reward + 0.9 * transition @ v - v.unsqueeze(-1)
    assert v.tolist() == pytest.approx([2.597633, 3.337278], abs=1e-6)
    assert advantage.flatten().tolist() == pytest.approx([-0.193195, 0.772781, -0.599704, 0.599704], abs=1e-6)
    good = beta * (advantage > 0.0)
    v_plus = state_values(good / good.sum(-1, keepdim=True))
    assert v_plus.tolist() == pytest.approx([8.956044, 9.505495], abs=1e-6) and (v_plus >= v).all()


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [False, True])
def test_steps_equal_the_official_order_written_out(detach, forward):
    settings = {"alpha": 1.5, "mask": 0.7, "vae_weight": 1.3, "vae_lr": 2e-3}
    method = A2PR(SPEC, A2PRConfig(**TINY, **settings, detach_target=detach))
    with torch.no_grad():  # V as large as Q, so that advantages have both signs
        method.value.net.biases[-1].add_(method.critic.first(batch().obs, batch().action).mean() - method.value(batch().obs).mean())
    other = copy.deepcopy(method)  # its networks are stepped below by torch's plain Adam
    noise = torch.Generator()
    noise.set_state(method.generator.get_state())
    optimisers = {
        name: torch.optim.Adam(module.parameters(), lr=lr)
        for name, module, lr in (
            ("actor", other.policy.net, 3e-3),
            ("critic", other.critic, 3e-3),
            ("value", other.value, 3e-3),
            ("vae", other.vae, 2e-3),
        )
    }

    def step(name, loss):
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        loss.backward()
        optimisers[name].step()

    def q(critic, s, a, i):
        return forward(critic.net, torch.cat((s, a), -1), i).squeeze(-1)

    def vae(s, a):
        mu, log_sigma = forward(other.vae.encoder, torch.cat((s, a), -1)).chunk(2, -1)
        sigma = log_sigma.clamp(-4.0, 15.0).exp()
        z = mu + sigma * torch.empty_like(mu).normal_(generator=noise)
        return forward(other.vae.decoder, torch.cat((s, z), -1)).tanh(), mu, sigma

    seen = set()
    for i in range(1, 9):
        b = batch(i)
        method.update(b)
        s, a, next_s, left = b.obs, b.action, b.next_obs, 1.0 - b.terminated
        with torch.no_grad():
            eps = (0.2 * torch.empty_like(a).normal_(generator=noise)).clamp(-0.5, 0.5)
            next_a = (forward(other.target_actor, next_s).tanh() + eps).clamp(-1.0, 1.0)
            y = b.reward + left * 0.99 * torch.minimum(*(q(other.target_critic, next_s, next_a, j) for j in range(2)))
        step("critic", sum((q(other.critic, s, a, j) - y).square().mean() for j in range(2)))

        with torch.no_grad():
            y2 = b.reward + left * 0.99 * torch.minimum(*(q(other.critic, next_s, next_a, j) for j in range(2)))
        v = forward(other.value.net, s, 0).squeeze(-1)
        step("value", (v - torch.minimum(y, y2)).square().mean())
        v = v.detach()  # the number from before the step, from here on

        rec, mu, sigma = vae(s, a)
        good = (q(other.critic, s, a, 0) > v).float()
        kl = -0.5 * (1.0 + sigma.square().log() - mu.square() - sigma.square()).mean()
        step("vae", (1.3 * good[:, None] * (rec - a).square()).mean() + 0.5 * kl)

        if i % 2 == 0:
            p = forward(other.policy.net, s).tanh()
            value = q(other.critic, s, p, 0)
            a_vae, _, _ = vae(s, p)
            a_vae = a_vae.detach() if detach else a_vae
            q_data, q_vae = q(other.critic, s, a, 0).detach(), q(other.critic, s, a_vae, 0).detach()
            take = (q_vae - v >= q_data - v)[:, None]
            a_bar = a_vae * take + a * ~take
            g = 0.7 * ((q_vae >= v) | (q_data > v)).float()
            seen |= {*zip(take.flatten().tolist(), (g > 0).tolist(), strict=True)}
            step("actor", -1.5 / value.detach().abs().mean() * value.mean() + (g[:, None] * (p - a_bar).square()).mean())
            for online, target in ((other.critic, other.target_critic), (other.policy.net, other.target_actor)):
                for x, t in zip(online.parameters(), target.parameters(), strict=True):
                    t.data.copy_(0.1 * x.data + 0.9 * t.data)
    assert len(seen) == 4  # both choices, pulled and not pulled
    for name in ("policy", "critic", "value", "vae", "target_actor", "target_critic"):
        expected = getattr(other, name).state_dict()
        for key, tensor in getattr(method, name).state_dict().items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=2e-5)


def test_v_is_taken_before_its_step():
    method = A2PR(SPEC, A2PRConfig(**TINY))
    before = method.value(batch().obs).squeeze(-2).detach()
    method.learn_values(batch())
    torch.testing.assert_close(method.judged.v, before)
    assert not torch.allclose(method.value(batch().obs).squeeze(-2), before)
    torch.testing.assert_close(method.judged.q_data, method.critic.first(batch().obs, batch().action).detach())


def test_the_actors_step_leaves_all_else_alone():
    method = A2PR(SPEC, A2PRConfig(**TINY))
    method.learn_values(batch())
    before = {name: copy.deepcopy(getattr(method, name).state_dict()) for name in ("critic", "value", "vae")}
    method.learn_actor(batch())
    for name, state in before.items():
        assert all(torch.equal(v, state[k]) for k, v in getattr(method, name).state_dict().items())


def test_the_gradient_flows_through_the_proposal_unless_told_otherwise():
    for detach in (False, True):
        method = A2PR(SPEC, A2PRConfig(**TINY, detach_target=detach))
        method.learn_values(batch())
        method.judged = a2pr.Judged(torch.full((32,), -1e9), torch.full((32,), -1e9))  # the proposal is better everywhere
        p = method.policy.unit(batch().obs)
        target, _ = method.reg_target(batch().obs, p, batch().action)
        assert target.requires_grad is not detach


def like(method: TD3, cls: type[TD3], config: TD3Config) -> TD3:
    """A method of another class with the same actor, critics and noise."""
    twin = cls(method.spec, config)
    for name in ("policy", "critic", "target_actor", "target_critic"):
        getattr(twin, name).load_state_dict(getattr(method, name).state_dict())
    twin.generator.manual_seed(5)
    method.generator.manual_seed(5)
    return twin


def constant(critic, value: float) -> None:
    with torch.no_grad():
        critic.net.weights[-1].zero_()
        critic.net.biases[-1].fill_(value)


CORE = {k: v for k, v in TINY.items() if k != "vae_hidden"} | {"policy_freq": 1}


def test_limit_of_imitating_all_is_td3_bc():
    """V = -1e9 and proposals that are worse than the logged actions: TD3+BC's step, to the last bit."""
    method = A2PR(SPEC, A2PRConfig(**CORE, vae_hidden=(8,)))
    with torch.no_grad():
        for p in (*method.critic.parameters(), *method.vae.decoder.parameters()):
            p.zero_()  # proposals are about 0
        first, second, last = method.critic.net.weights
        first[:, 3:, 0], second[:, 0, 0], last[:, 0, 0] = 1.0, 1.0, -10.0
        method.critic.net.biases[0][:, 0] = 4.0  # Q = -10 relu(a_1 + a_2 + 4)
    constant(method.value, -1e9)
    twin = like(method, TD3BC, TD3BCConfig(**CORE))
    b = replace(batch(), action=torch.full((32, 2), -0.9))
    ours, theirs = method.update(b), twin.update(b)
    assert ours["positive_advantage"].item() == 1.0 and theirs["regulariser"].item() > 0.1
    assert torch.equal(ours["actor_loss"], theirs["actor_loss"]) and torch.equal(ours["regulariser"], theirs["regulariser"])
    assert all(torch.equal(p, q) for p, q in zip(method.policy.parameters(), twin.policy.parameters(), strict=True))


def test_limit_of_imitating_nothing_is_td3():
    """V = 1e9: no pull, so a plain TD3 actor; and nothing to reconstruct, so the CVAE collapses to its prior."""
    method = A2PR(SPEC, A2PRConfig(**CORE, vae_hidden=(16,), vae_lr=1e-2))
    twin = like(method, TD3, TD3Config(**CORE))
    constant(method.value, 1e9)
    ours, theirs = method.update(batch()), twin.update(batch())
    assert ours["regulariser"].item() == 0.0 and ours["positive_advantage"].item() == 0.0
    assert torch.equal(ours["actor_loss"], theirs["actor_loss"])
    assert all(torch.equal(p, q) for p, q in zip(method.policy.parameters(), twin.policy.parameters(), strict=True))
    for i in range(200):
        constant(method.value, 1e9)
        loss = method.update(batch(i))["vae_loss"]
    assert loss.item() < 0.02  # the KL term alone


def test_mask_zero_is_td3():
    method = A2PR(SPEC, A2PRConfig(**CORE, vae_hidden=(8,), mask=0.0))
    twin = like(method, TD3, TD3Config(**CORE))
    method.update(batch())
    twin.update(batch())
    assert all(torch.equal(p, q) for p, q in zip(method.policy.parameters(), twin.policy.parameters(), strict=True))


# --- learning -------------------------------------------------------------------------------------------------------


def bandit(seed=0, n=4000) -> Log:
    """3 in 10 actions are about +0.8 and pay 1, the others about -0.8 and pay nothing, whatever the state."""
    rng = np.random.default_rng(seed)
    s, good = rng.uniform(-1, 1, (n, 1)), rng.random(n) < 0.3
    a = np.clip(np.where(good, 0.8, -0.8) + 0.05 * rng.standard_normal(n), -1, 1)[:, None]
    return Log.from_arrays(s, a, good.astype(float), s, np.zeros(n), action_space=Continuous((-1.0,), (1.0,)))


def policy_range(cls, config, steps) -> tuple[float, float]:
    """Least and greatest action over the states."""
    log = bandit()
    method, source = cls(log.spec(), config, seed=1), Logged(log, 256)
    for _ in range(steps):
        method.update(next(source))
    actions = method.policy(torch.linspace(-1.0, 1.0, 41)[:, None])
    return actions.min().item(), actions.max().item()


PURE = {"gamma": 0.0, "alpha": 0.0, "hidden": (32, 32)}  # the regulariser alone
SMALL = {"critic_hidden": (32, 32), "vae_hidden": (32, 32)}


def test_only_good_actions_are_imitated(monkeypatch):
    low, high = policy_range(A2PR, A2PRConfig(**PURE, **SMALL), 1500)
    assert low > 0.6 and high < 0.95
    low, high = policy_range(TD3BC, TD3BCConfig(**PURE), 1500)
    assert low > -0.45 and high < -0.2  # the mean action, 0.3 * 0.8 - 0.7 * 0.8 = -0.32
    everything = lambda a, a_vae, q_data, q_vae, v, mask: (a, torch.full_like(v, mask))  # noqa: E731
    monkeypatch.setattr(a2pr, "better_action", everything)  # without the choice and the indicator
    low, high = policy_range(A2PR, A2PRConfig(**PURE, **SMALL), 1000)
    assert high < 0.0
