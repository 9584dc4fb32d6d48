"""Non-dominated policies in tables: the card's oracles 2 to 4, its reference values, brute force, bounds, and bad input."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.non_dominated import StateAdversarial, discover, dominance, gap, minimax, worst_attack

GAME = np.array([[10.0, 1.0], [6.0, 6.0], [7.0, 2.0], [2.0, 7.5]])

games = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).uniform(size=(6, 4)))


# --- the card's game --------------------------------------------------------------------------------------------------


def test_gap_of_the_matrix_game():
    """Oracle 2."""
    first = gap(GAME, [0])
    assert (first.value, first.policy) == (6.5, 3)
    np.testing.assert_array_equal(first.attack, [0.0, 1.0])
    assert gap(GAME, [0, 3]).value == 0.0
    found = discover(GAME, 0)
    assert found.members == (0, 3) and found.gaps == (6.5,) and found.left == 0.0


@pytest.mark.parametrize(
    ("policy", "members", "slack", "dominated"), [(2, [0, 1], 1.222222, True), (3, [0, 1], -1.5, False), (1, [0, 3], -0.965517, False)]
)
def test_dominance_in_the_matrix_game(policy, members, slack, dominated):
    """Oracle 3."""
    found = dominance(GAME, policy, members)
    assert found.slack == pytest.approx(slack, abs=5e-7) and found.dominated is dominated
    if policy == 2:
        np.testing.assert_allclose(found.weights, [5 / 9, 4 / 9], atol=1e-9)


def test_mixed_attackers_still_find_a_policy_where_pure_ones_do_not():
    """Oracle 4: the switching attacker."""
    found = gap(GAME, [0, 3], mixed=True)
    assert found.value == pytest.approx(0.965517, abs=5e-7) and found.policy == 1
    np.testing.assert_allclose(found.attack, [1.0 - 0.551724, 0.551724], atol=5e-7)
    assert discover(GAME, 0, mixed=True).members == (0, 3, 1)
    assert discover(GAME, 0, mixed=True).left == pytest.approx(0.0, abs=1e-9)


def test_the_weight_of_the_mixture_is_on_the_second_attacker():
    """By brute force over mixtures of the two: that is the card's attacker 1, numbered from 0."""
    weights = np.linspace(0.0, 1.0, 100_001)
    gain = (GAME @ np.stack([1.0 - weights, weights])).max(0) - (GAME[[0, 3]] @ np.stack([1.0 - weights, weights])).max(0)
    assert weights[gain.argmax()] == pytest.approx(0.551724, abs=1e-4) and gain.max() == pytest.approx(0.965517, abs=1e-4)


# --- bounds and brute force -------------------------------------------------------------------------------------------


@given(games, st.sets(st.integers(0, 5), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_gaps_by_brute_force(payoff, members):
    members = sorted(members)
    found = gap(payoff, members)
    assert found.value == max(payoff[p, n] - max(payoff[m, n] for m in members) for p in range(6) for n in range(4))
    assert found.value == pytest.approx(((payoff - payoff[members].max(0)) @ found.attack)[found.policy])
    assert gap(payoff, [*members, found.policy]).value <= found.value  # sets only grow better
    assert found.value <= gap(payoff, members, mixed=True).value + 1e-9  # pure attackers are mixtures


@given(games, st.integers(0, 5), st.sets(st.integers(0, 5), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_dominance_is_where_its_two_sides_meet(payoff, policy, members):
    """The mixture of the set reaches the slack under every attacker; under the mixture of attackers no policy of the set exceeds it."""
    members = sorted(members)
    found = dominance(payoff, policy, members)
    for mixture in (found.weights, found.attack):
        assert mixture.sum() == pytest.approx(1.0) and mixture.min() >= -1e-12
    assert (found.weights @ payoff[members] - payoff[policy]).min() == pytest.approx(found.slack, abs=1e-9)
    assert ((payoff[members] - payoff[policy]) @ found.attack).max() == pytest.approx(found.slack, abs=1e-9)
    if policy in members:
        assert found.dominated


@given(games, st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_discovery_ends_with_nothing_left_and_stops_where_it_is_told(payoff, first):
    found = discover(payoff, first)
    assert found.left <= 1e-9 and len(set(found.members)) == len(found.members)
    assert list(found.gaps) == sorted(found.gaps, reverse=True)
    mixed = discover(payoff, first, mixed=True)
    assert all(dominance(payoff, p, mixed.members).dominated for p in range(6))
    some = discover(payoff, first, most=2)
    assert some.members == found.members[:2] and some.left == pytest.approx(max(gap(payoff, some.members).value, 0.0))
    coarse = discover(payoff, first, delta=0.3)
    assert coarse.left <= 0.3 and all(g > 0.3 for g in coarse.gaps)
    # what a set can do in the worst case is bounded by what the attacker can do against the set's best answer
    best, worst = payoff[minimax(payoff)], worst_attack(payoff, found.members)
    assert best.min() <= payoff[list(found.members), worst].max() + 1e-9


# --- state-adversarial MDPs -------------------------------------------------------------------------------------------


def test_payoffs_by_playing_the_policies_out():
    game = StateAdversarial.random(np.random.default_rng(3), states=3, actions=2)
    payoff = game.payoff()
    assert payoff.shape == (2**3, 2**3)
    np.testing.assert_array_equal(game.attackers[0], [0, 1, 2])  # the truth
    for p, n in product(range(8), range(8)):
        policy, shown = game.policies[p], game.attackers[n]
        total, reached, discount = 0.0, game.start, 1.0
        for _ in range(400):
            action = [policy[shown[s]] for s in range(3)]
            total += discount * sum(reached[s] * game.reward[s, action[s]] for s in range(3))
            reached = sum(reached[s] * game.transition[s, action[s]] for s in range(3))
            discount *= game.gamma
        assert payoff[p, n] == pytest.approx((1.0 - game.gamma) * total, abs=1e-12)


def test_the_reference_values_of_30_random_mdps():
    """The card's: policies and values that nothing random enters."""
    rows = []
    for k in range(30):
        payoff = StateAdversarial.random(np.random.default_rng(k)).payoff()
        assert payoff.shape == (81, 16)
        natural, robust = int(payoff[:, 0].argmax()), minimax(payoff)
        found = discover(payoff, natural, most=5)
        own = payoff[list(found.members)]
        single = [payoff[natural, 0], payoff[natural].min(), payoff[robust, 0], payoff[robust].min()]
        rows.append([*single, found.left, own[:, 0].max(), own.max(0).min(), len(own)])
    *values, size = np.mean(rows, 0)
    np.testing.assert_allclose(values, [0.7698, 0.5279, 0.7042, 0.6923, 0.0075, 0.7698, 0.6931], atol=5.1e-5)
    assert round(size, 1) == 4.4


# --- bad input --------------------------------------------------------------------------------------------------------

IDLE = (np.full((2, 1, 2), 0.5), np.zeros((2, 1)), np.array([0.5, 0.5]), ((0, 1), (1,)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: gap(np.zeros(3), [0]), DataError, r"the payoff has shape \(3,\)"),
        (lambda: gap(np.zeros((0, 2)), [0]), DataError, r"at least one of each"),
        (lambda: gap(np.array([[1.0, np.nan]]), [0]), DataError, r"payoff\[0, 1\] is nan"),
        (lambda: gap(GAME, []), ConfigError, r"the set is \[\]"),
        (lambda: gap(GAME, [4]), ConfigError, r"the set is \[4\]: it holds at least one of the 4 policies"),
        (lambda: dominance(GAME, 7, [0]), ConfigError, "policy is 7"),
        (lambda: discover(GAME, 0, most=0), ConfigError, "most is 0"),
        (lambda: discover(GAME, 0, delta=-1.0), ConfigError, "a gap to stop at is not negative"),
        (lambda: StateAdversarial(IDLE[0][:1], *IDLE[1:]), DataError, r"they must be \[S, A, S\]"),
        (lambda: StateAdversarial(0.5 * IDLE[0], *IDLE[1:]), DataError, "transition"),
        (lambda: StateAdversarial(IDLE[0], IDLE[1] + np.inf, *IDLE[2:]), DataError, "reward holds a number that is not finite"),
        (lambda: StateAdversarial(*IDLE[:2], np.array([1.0, 1.0]), IDLE[3]), DataError, "start"),
        (lambda: StateAdversarial(*IDLE, gamma=1.0), ConfigError, "gamma is 1.0"),
        (lambda: StateAdversarial(*IDLE[:3], ((0,),)), ConfigError, "shown has 1 entries for 2 states"),
        (lambda: StateAdversarial(*IDLE[:3], ((1,), (1,))), ConfigError, "state 0 may be shown as"),
        (lambda: StateAdversarial(*IDLE[:3], ((0, 2), (1,))), ConfigError, "these must be states"),
        (lambda: StateAdversarial.random(np.random.default_rng(0), states=9).payoff(), ConfigError, "10,077,696 pairs"),
    ],
)
def test_bad_input_is_one_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
