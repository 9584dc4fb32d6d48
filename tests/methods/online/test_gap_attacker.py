"""The attacker's half of discovery: which side is raised (oracle 5), by hand, against the attacker of ATLA, in fleets and resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from surefoot.data.batches import Segments
from surefoot.data.spec import Continuous, Spec
from surefoot.methods.online.adversary import adversary_ppo
from surefoot.methods.online.gap_attacker import Clash, GapAttacker, side_by_side
from surefoot.methods.online.ppo import PPOConfig, gae
from surefoot.policies.families import NormalPolicy

torch.set_num_threads(1)

SMALL = PPOConfig(n_steps=8, n_envs=4, minibatch=8, epochs=2, hidden=(8, 8), learning_rate=1e-2)


def victim(copies: tuple[int, ...] = ()) -> NormalPolicy:
    return NormalPolicy(Spec((2,), Continuous((-1.0,), (1.0,))), (8,), copies, activation="tanh", squashed=False)


def make(copies: tuple[int, ...] = (), raises=True, seed=0, config=SMALL) -> GapAttacker:
    return GapAttacker(victim(copies), "sa_rl", config, 1e-3, raises=raises, seed=seed)


def plays(copies=(), seed=0, t=8, n=4) -> Segments:
    g, shape = torch.Generator().manual_seed(seed), (*copies, t, n)
    obs, action, next_obs = torch.randn(3, *shape, 2, generator=g)
    terminated = (torch.rand(shape, generator=g) < 0.1).float()
    ended = torch.maximum(terminated, (torch.rand(shape, generator=g) < 0.1).float())
    return Segments(obs, action, torch.randn(shape, generator=g), next_obs, terminated, ended)


def clash(copies=(), seed=0) -> Clash:
    return Clash(None, plays(copies, 2 * seed), plays(copies, 2 * seed + 1))


# --- oracle 5: who is raised ------------------------------------------------------------------------------------------


def choosing(raised, lowered) -> float:
    """Probability of b = 0 after learning in the one-step game whose rewards for b in (0, 1) are these; b is the sign of an output."""
    attacker = make(raises=raised is not None, config=replace(SMALL, learning_rate=3e-2))
    draws = torch.Generator().manual_seed(1)
    over = torch.ones(8, 4)

    def played(rewards) -> Segments | None:
        if rewards is None:
            return None
        obs = torch.zeros(8, 4, 2)
        action = attacker.policy.draw(obs.flatten(0, 1), draws).detach()
        b = (action[:, 0] > 0.0).long()
        return Segments(obs, action.view(8, 4, 2), -torch.tensor(rewards)[b].view(8, 4), obs, over, over)

    for _ in range(25):
        attacker.update(Clash(None, played(raised), played(lowered)))
    action = attacker.policy.draw(torch.zeros(2_000, 2), draws)
    return float((action[:, 0] <= 0.0).float().mean())


def test_the_attacker_raises_the_new_policy_and_lowers_the_old_one():
    """Oracle 5: the new one's rewards are (1, 0), the old one's (0, 1); with the merge turned round it chooses the other way."""
    assert choosing((1.0, 0.0), (0.0, 1.0)) > 0.95
    assert choosing((0.0, 1.0), (1.0, 0.0)) < 0.05


@pytest.mark.parametrize(("raised", "lowered"), [((1.0, 0.0), (0.0, 0.0)), ((0.0, 0.0), (0.0, 1.0)), (None, (0.0, 1.0))])
def test_each_side_counts_for_itself(raised, lowered):
    """Also where the other side does not depend on the attacker, or there is none (ATLA's)."""
    assert choosing(raised, lowered) > 0.95


# --- an update by hand ------------------------------------------------------------------------------------------------


def test_only_the_advantages_of_what_is_raised_are_negated(monkeypatch):
    """Advantages from each value's own bootstrap, the first half turned round; values learn returns that are not."""
    method, batch, seen = make(), clash(seed=3), []
    regressed = []
    monkeypatch.setattr(method, "_climb", lambda obs, action, old, advantage: seen.append((obs, advantage)) or torch.zeros(()))
    regress = method._regress
    monkeypatch.setattr(method, "_regress", lambda critic, o, obs, returns: regressed.append(returns) or regress(critic, o, obs, returns))
    expected, whole = {}, []
    with torch.no_grad():
        reward = make()._scaled(side_by_side([batch.raised, batch.lowered], 0))
        for sign, s, critic, own in (
            (-1.0, batch.raised, method.critic, reward[:, :4]),
            (1.0, batch.lowered, method.lowered_critic, reward[:, 4:]),
        ):
            value, after = (critic(x.flatten(0, 1)).view(8, 4) for x in (s.obs, s.next_obs))
            advantage = gae(own, value, after, s.terminated, s.ended, 0.99, 0.95)
            whole.append((advantage + value).flatten())
            expected |= {tuple(o.tolist()): sign * float(a) for o, a in zip(s.obs.flatten(0, 1), advantage.flatten(), strict=True)}
    method.update(batch)
    for mine, hand in zip(regressed, whole, strict=True):
        torch.testing.assert_close(mine, hand)
    rows = [(tuple(o.tolist()), float(a)) for obs, advantage in seen for o, a in zip(obs, advantage, strict=True)]
    assert len(rows) == 2 * 64  # every row in every epoch
    np.testing.assert_allclose([a for _, a in rows], [expected[o] for o, _ in rows], rtol=1e-5, atol=1e-6)


def test_the_two_values_learn_apart():
    """Plays whose returns are 5 and -5 everywhere: each value comes to its own."""
    method = make(config=replace(SMALL, raw_reward=True, epochs=10))
    method.value_rate = 3e-2
    over, obs = torch.ones(8, 4), torch.randn(8, 4, 2)
    for _ in range(6):
        action = torch.randn(2, 8, 4, 2)
        method.update(
            Clash(None, *(Segments(obs, a, torch.full((8, 4), r), obs, over, over) for a, r in zip(action, (5.0, -5.0), strict=True)))
        )
    assert method._values(method.critic, obs).mean() > 3.0 and method._values(method.lowered_critic, obs).mean() < -3.0


def test_segments_side_by_side_keep_their_columns():
    a, b = plays((2,), 0), plays((2,), 1)
    both = side_by_side([a, b], 1)
    assert both.obs.shape == (2, 8, 8, 2)
    assert torch.equal(both.reward[..., :4], a.reward) and torch.equal(both.ended[..., 4:], b.ended)


# --- as a method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [(), (2,)])
@pytest.mark.parametrize("raises", [True, False])
def test_a_resumed_attacker_goes_on_bit_for_bit(copies, raises):
    batches = [replace(clash(copies, i), raised=clash(copies, i).raised if raises else None) for i in range(4)]
    config = replace(SMALL, anneal=4 * 32)
    whole, first, second = (make(copies, raises, seed, config) for seed in (0, 0, 7))
    for batch in batches:
        whole.update(batch)
    for batch in batches[:2]:
        first.update(batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        second.update(batch)
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert whole.optimiser.param_groups[0]["lr"] == pytest.approx(0.25 * 1e-2)
    assert whole.lowered_optimiser.param_groups[0]["lr"] == pytest.approx(0.25 * 1e-3)


def test_members_learn_apart():
    """The second member's plays have no effect on the first."""
    batch = clash((2,), 1)
    other = Clash(None, *(replace(s, reward=torch.stack([s.reward[0], -s.reward[1]])) for s in (batch.raised, batch.lowered)))
    a, b = make((2,)), make((2,))
    a.update(batch), b.update(other)
    pairs = list(zip(a.policy.parameters(), b.policy.parameters(), strict=True))
    assert all(torch.equal(p[0], q[0]) for p, q in pairs) and not all(torch.equal(p[1], q[1]) for p, q in pairs)


def test_it_sees_the_true_observation_as_the_victim_scales_it():
    spec = Spec((2,), Continuous((-1.0,), (1.0,)), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.5]))
    of = NormalPolicy(spec, (8,), activation="tanh", squashed=False)
    method, plain = GapAttacker(of, "pa_ad", SMALL, 1e-3), adversary_ppo(of, "pa_ad", SMALL)
    obs = torch.randn(5, 2)
    assert torch.equal(method.normaliser(obs), plain.normaliser(obs))
    assert method.policy.spec.action.dim == 1  # a direction of the action
    assert torch.equal(method.normaliser(obs), of.normaliser(obs))


def test_an_update_never_waits_for_the_device(no_waiting):
    method, batch = make(), clash()
    method.update(batch)
    with no_waiting():
        method.update(batch)
