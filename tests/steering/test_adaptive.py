"""Adaptive sets: EXP3 with implicit exploration (oracle 1, its inequality, its regret), and what plays, remembers, learns and is saved."""

from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attacks import PGD
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.external import FunctionPolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.saving import read_policy, save_policy
from surefoot.steering.adaptive import UNDRAWN, Adaptive, Exp3IX

LINE = Spec((2,), Continuous((-1.0,), (1.0,)))
CARTPOLE = Spec((4,), Discrete(2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- EXP3 with implicit exploration -----------------------------------------------------------------------------------


def test_the_updates_of_the_card():
    """Oracle 1."""
    bandit = Exp3IX(3, rounds=200, c=2.0)
    assert bandit.eta == pytest.approx(0.085581, abs=5e-7) and bandit.exploration == pytest.approx(0.042790, abs=5e-7)
    for arm, gain in ((0, 0.9), (1, 0.2), (0, 0.8), (2, 0.5)):
        bandit.update(torch.tensor([arm]), torch.tensor([gain]))
    np.testing.assert_allclose(bandit.log_weights.exp(), [1.446067, 1.049733, 1.138968], atol=5e-7)
    np.testing.assert_allclose(bandit.probabilities(), [0.397843, 0.288803, 0.313354], atol=5.1e-7)
    assert Exp3IX(7, rounds=2000, c=5.0).eta == pytest.approx(0.058948, abs=5e-7)


def test_draws_follow_the_weights_of_each_copy():
    bandit = Exp3IX(3, copies=(2,))
    with torch.no_grad():
        bandit.log_weights.copy_(torch.tensor([[1.0, 2.0, 5.0], [0.5, 0.3, 0.2]]).log())
    share = torch.nn.functional.one_hot(bandit.draw(40_000, generator()), 3).double().mean(1)
    expected = torch.tensor([[1.0, 2.0, 5.0], [4.0, 2.4, 1.6]]) / 8.0
    assert (share - expected).abs().max() < 4.5 * sqrt(0.25 / 40_000)


def test_long_runs_do_not_overflow_and_a_commitment_is_kept():
    bandit = Exp3IX(2, rounds=10, c=5.0)
    for _ in range(3_000):
        bandit.update(torch.tensor([1]), torch.tensor([1.0]))
    assert bandit.log_weights.max() > 1_000.0  # beyond what a weight itself could be
    assert torch.equal(bandit.probabilities(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    bandit.commit(torch.tensor(0))
    assert bandit.draw(50, generator()).eq(0).all()
    assert Exp3IX(1).draw(3).eq(0).all()


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.5, 5.0))
@settings(max_examples=15, deadline=None)
def test_the_inequality_of_exponential_weights_on_every_path(seed, k, c):
    """sum_t sum_i p_i x_i >= max_j sum_t x_j - log K / eta - 1.1 eta sum_t sum_i p_i x_i^2 for the estimates x, whatever the gains are.

    exp(y) <= 1 + y + 1.1 y^2 up to y = 2, and eta x <= eta / g = 2.
    """
    rounds = 60
    bandit, gains, draws = Exp3IX(k, rounds=rounds, c=c), np.random.default_rng(seed).uniform(size=(rounds, k)), generator(seed)
    assert exp(2.0) <= 1.0 + 2.0 + 1.1 * 4.0
    played, square, total = 0.0, 0.0, np.zeros(k)
    for t in range(rounds):
        p, arm = bandit.probabilities().numpy(), bandit.draw(1, draws)
        x = np.zeros(k)
        x[arm] = gains[t, arm] / (p[arm] + bandit.exploration)
        played, square, total = played + p @ x, square + p @ x**2, total + x
        bandit.update(arm, torch.from_numpy(gains[t])[arm])
        np.testing.assert_allclose(bandit.log_weights, bandit.eta * total, rtol=1e-9, atol=1e-12)
    assert played >= total.max() - log(k) / bandit.eta - 1.1 * bandit.eta * square


@pytest.mark.parametrize("kind", ["apart", "one good", "coming and going"])
def test_the_regret_stays_below_that_of_the_paper(kind):
    """At most 2 sqrt(2 K T log K) against the best fixed arm, in the mean over 100 bandits that are given coins."""
    k, rounds, n = 4, 1_000, 100
    chance = torch.tensor([0.8, 0.6, 0.4, 0.2] if kind == "apart" else [0.9, 0.5, 0.5, 0.5], dtype=torch.float64)
    other = torch.tensor([0.1, 0.7, 0.3, 0.5], dtype=torch.float64)
    bandit, coins = Exp3IX(k, rounds=rounds, c=2.0, copies=(n,)), generator(1)
    earned, fixed = torch.zeros(n, dtype=torch.float64), torch.zeros(n, k, dtype=torch.float64)
    for t in range(rounds):
        now = other if kind == "coming and going" and (t // 100) % 2 else chance
        gains = torch.bernoulli(now.expand(n, k), generator=coins)
        arm = bandit.draw(1, coins)
        bandit.update(arm, gains.gather(-1, arm))
        earned, fixed = earned + gains.gather(-1, arm).squeeze(-1), fixed + gains
    regret = (fixed.max(-1).values - earned).numpy()
    assert regret.mean() + 4.0 * regret.std() / sqrt(n) < 2.0 * sqrt(2.0 * k * rounds * log(k))
    uniform = (fixed.max(-1).values - fixed.mean(-1)).mean().item()
    if kind != "coming and going":
        assert regret.mean() < 0.6 * uniform


@pytest.mark.parametrize("settings", [{"arms": 0}, {"arms": 2, "rounds": 0}, {"arms": 2, "c": 0.0}, {"arms": 2, "c": float("inf")}])
def test_what_is_no_bandit_is_refused(settings):
    with pytest.raises(ConfigError, match="EXP3 was given"):
        Exp3IX(**settings)


# --- the set as a policy ----------------------------------------------------------------------------------------------


def constant(value: float, copies: tuple[int, ...] = ()) -> Deterministic:
    """Acts with tanh(value) wherever it is, plus a tenth of the first number that it sees."""
    policy = Deterministic(LINE, (), copies)
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        policy.net.biases[0].fill_(value)
        policy.net.weights[0][..., 0, 0] = 0.1
    return policy.requires_grad_(False)


def trio(copies: tuple[int, ...] = (), **options) -> Adaptive:
    return Adaptive([constant(v, copies) for v in (-1.0, 0.0, 1.0)], low=0.0, high=10.0, **options)


@pytest.mark.parametrize("copies", [(), (2,)])
def test_one_policy_plays_each_episode_and_is_drawn_at_its_first_step(copies):
    chosen = trio(copies)
    memory, draws = chosen.start(400), generator()
    assert memory["chosen"].eq(UNDRAWN).all()
    zero = torch.zeros(*copies, 400, 2)
    first, memory = chosen.act(zero, memory, generator=draws)
    assert torch.equal(first.squeeze(-1), torch.tanh(torch.tensor([-1.0, 0.0, 1.0]))[memory["chosen"]])
    counts = torch.bincount(memory["chosen"].flatten(), minlength=3).double() / memory["chosen"].numel()
    assert (counts - 1 / 3).abs().max() < 4.5 * sqrt(2 / 9 / 400)
    state = draws.get_state()
    again, later = chosen.act(zero + 1.0, memory, generator=draws)
    assert torch.equal(later["chosen"], memory["chosen"]) and torch.equal(draws.get_state(), state)
    assert torch.equal(again, chosen.decide(zero + 1.0, memory))


def test_before_the_draw_an_attacker_meets_the_likeliest_policy():
    chosen, obs = trio(), torch.randn(5, 2)
    chosen.selector.log_weights.copy_(torch.tensor([0.0, 1.0, 0.5]))
    for output in (chosen(obs), chosen.decide(obs, chosen.start(5))):
        assert torch.equal(output, constant(0.0)(obs))


def test_it_learns_from_returns_between_low_and_high():
    chosen = trio(rounds=60, c=2.0)
    memory = chosen.act(torch.zeros(6, 2), chosen.start(6), generator=generator(3))[1]
    by_hand = Exp3IX(3, rounds=60, c=2.0)
    by_hand.update(memory["chosen"], torch.tensor([0.0, 0.1, 1.0, 1.0, 0.25, 0.0]))
    chosen.observe(torch.tensor([-4.0, 1.0, 10.0, 99.0, 2.5, 0.0]), memory)
    assert torch.equal(chosen.selector.log_weights, by_hand.log_weights)
    before = chosen.probabilities.clone()
    for of, returns, words in (
        (None, [1.0, 1.0], "not of episodes"),
        (chosen.start(2), [1.0, 1.0], "not of episodes"),
        (memory, [1.0] * 5, "not of episodes"),
        (memory, [1.0] * 5 + [torch.nan], "not finite"),
    ):
        with pytest.raises(PolicyError, match=words):
            chosen.observe(torch.tensor(returns), of)
    assert torch.equal(chosen.probabilities, before)


def test_members_are_taken_out_with_their_weights():
    fleet = trio((2,), rounds=50, c=1.0)
    fleet.selector.log_weights.copy_(torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]))
    obs = torch.randn(2, 4, 2)
    for i in range(2):
        lone = fleet.member(i)
        assert torch.equal(lone.selector.log_weights, fleet.selector.log_weights[i])
        assert lone.config() == fleet.config() and torch.equal(lone.decide(obs[i]), fleet.decide(obs)[i])
    with pytest.raises(PolicyError, match="no member 2"):
        fleet.member(2)


def test_it_is_saved_with_what_it_has_learned(tmp_path):
    chosen = trio((2,), rounds=7, c=3.0)
    chosen.selector.log_weights.copy_(torch.randn(2, 3, generator=generator()))
    save_policy(chosen, tmp_path / "set")
    again = read_policy(tmp_path / "set")
    assert isinstance(again, Adaptive) and again.config() == chosen.config() and again.selector.eta == chosen.selector.eta
    assert torch.equal(again.selector.log_weights, chosen.selector.log_weights)
    obs = torch.randn(2, 4, 2)
    for a, b in zip(*(policy.act(obs, generator=generator(5)) for policy in (chosen, again)), strict=True):
        assert torch.equal(a["chosen"], b["chosen"]) if isinstance(a, dict) else torch.equal(a, b)


def test_policies_with_memory_and_discrete_actions_play_as_they_would_alone():
    members = [FrameStack(Categorical(Spec((8,), Discrete(2)), (8,), generator=generator(i)), 2) for i in range(3)]
    chosen = Adaptive(members, low=0.0, high=100.0)
    for i, alone in enumerate(members):
        chosen.selector.commit(torch.tensor(i))
        for a, b in zip(*(rollout(p, "CartPole-v1", 4, seed=2).returns for p in (chosen, alone)), strict=True):
            assert a == b
    attacked = [rollout(p, "CartPole-v1", 4, seed=2, perturb=PGD(0.2, norm="linf")).returns for p in (chosen, alone)]
    np.testing.assert_array_equal(*attacked)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Adaptive([], low=0.0, high=1.0), PolicyError, "at least one policy"),
        (lambda: Adaptive([constant(0.0), constant(0.0, (2,))], low=0.0, high=1.0), PolicyError, "policy 1 does not see and do"),
        (lambda: Adaptive([Categorical(CARTPOLE, ()), constant(0.0)], low=0.0, high=1.0), PolicyError, "policy 1 does not see and do"),
        (lambda: Adaptive([constant(0.0)], low=1.0, high=1.0), ConfigError, "low is 1.0 and high 1.0"),
        (lambda: Adaptive([constant(0.0)], low=0.0, high=float("inf")), ConfigError, "about the least and the largest return"),
        (lambda: Adaptive([constant(0.0)], low=0.0, high=1.0, rounds=0), ConfigError, "0 rounds"),
    ],
)
def test_bad_input_is_one_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_set_gives_gradients_only_if_all_of_its_policies_do():
    function = FunctionPolicy(lambda obs: np.zeros((len(obs), 1), np.float32), LINE, "zero")
    assert trio().differentiable and not Adaptive([constant(0.0), function], low=0.0, high=1.0).differentiable
