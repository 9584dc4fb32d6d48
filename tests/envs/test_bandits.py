"""Bandit worlds: the card's environment term by term, action sets that change, bundled data as bandits, delays, and what is refused."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from surefoot.envs.bandits import DATASETS, Payments, Rounds, Table, arrived, classification, pay, some_available
from surefoot.errors import ConfigError, DataError, MissingExtraError, UnknownNameError


def rng(seed=0):
    return np.random.default_rng(seed)


def test_payments_are_the_stated_formula():
    world = Payments.drawn(3, d=8, actions=6)
    rounds = world.rounds(50, rng())
    i, a = 7, 2
    x = rounds.context[i]
    logit = 1.2 + 0.8 * world.base @ x / np.sqrt(8) + 0.9 * world.linear[a] @ x / np.sqrt(8)
    logit += 0.9 * np.sin(2.0 * world.waves[a] @ x / np.sqrt(8)) + world.bias[a]
    assert rounds.mean[i, a] == pytest.approx(1.0 / (1.0 + np.exp(-logit)))
    assert rounds.context.shape == (50, 8) and rounds.mean.shape == rounds.available.shape == (50, 6)
    assert len(world.actions) == 6 and len(world.features) == 8


def test_the_cards_pilot_rates():
    # mean rewards of uniform and best play over worlds: 0.6985 and 0.8728 in the card's pilot of 8 seeds
    uniform, best = [], []
    for seed in range(40):
        rounds = Payments.drawn(seed).rounds(2000, rng(seed))
        there = rounds.available
        uniform.append(((rounds.mean * there).sum(1) / there.sum(1)).mean())
        best.append(np.where(there, rounds.mean, 0.0).max(1).mean())
    for values, pilot in ((uniform, 0.6985), (best, 0.8728)):
        error = np.std(values, ddof=1) * np.sqrt(1 / 40 + 1 / 8)
        assert abs(np.mean(values) - pilot) < 4 * error


def test_actions_come_and_go():
    n = 20_000
    there = some_available(np.array([0.8, 0.1, 0.5, 0.0]), n, 4, rng())
    assert there.any(1).all()
    none = 0.2 * 0.9 * 0.5  # then one of the four is put in
    for a, share in enumerate((0.8, 0.1, 0.5, 0.0)):
        expected = share + none / 4
        assert abs(there[:, a].mean() - expected) < 4 * np.sqrt(expected / n)
    assert (some_available(0.0, n, 4, rng()).sum(1) == 1).all()
    assert some_available(1.0, n, 4, rng()).all()


def test_rewards_have_the_stated_means_and_policies_share_their_luck():
    rounds = Rounds(np.zeros((40_000, 1)), np.ones((40_000, 2), bool), np.tile([0.3, 0.8], (40_000, 1)))
    low, high = (pay(rounds, np.full(40_000, a), rng(1)) for a in (0, 1))
    assert abs(low.mean() - 0.3) < 4 * np.sqrt(0.21 / 40_000)
    assert (low <= high).all() and set(np.unique(high)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("latest", "delay", "window", "expected"),
    [
        (0, 0, 1, [0]),
        (5, 0, 1, [5]),
        (5, 0, 3, [3, 4, 5]),
        (5, 2, 1, [3]),
        (5, 2, None, [0, 1, 2, 3]),
        (1, 2, 4, []),
        (1, 0, 4, [0, 1]),
        (-1, 0, 1, []),
    ],
)
def test_rewards_arrive_batches_later(latest, delay, window, expected):
    assert list(arrived(latest, delay, window)) == expected


@pytest.mark.parametrize("name", DATASETS)
def test_bundled_data_are_bandits(name):
    world = classification(name, availability=0.7, noise=0.1)
    rounds = world.rounds(300, rng())
    assert rounds.context.shape == (300, len(world.features)) and rounds.mean.shape == (300, len(world.actions))
    assert set(np.unique(rounds.mean)) == {0.1, 0.9} and (rounds.mean.max(1) == 0.9).all()
    assert 0.65 < rounds.available.mean() < 0.8


def test_classes_are_the_actions():
    world, data = classification("digits"), load_digits()
    assert (world.mean.argmax(1) == data.target).all() and world.actions == tuple("0123456789")
    assert np.abs(world.context.mean(0)).max() < 1e-9
    assert set(np.round(world.context.std(0), 9)) == {0.0, 1.0}  # pixels that are never on stay 0


def test_what_is_held_out_is_never_played():
    context = np.arange(100.0)[:, None]
    world = Table(context, np.full((100, 2), 0.5), ("a", "b"), ("x",), held_out=0.25)
    played, judged = (set(f(2000, rng()).context[:, 0]) for f in (world.rounds, world.holdout))
    assert len(judged) == 25 and len(played) == 75 and not played & judged


def test_a_table_keeps_each_rows_own_actions():
    available = rng().random((50, 3)) < 0.5
    available[:, 0] = True
    world = Table(np.arange(50.0)[:, None], np.full((50, 3), 0.5), ("a", "b", "c"), ("x",), available)
    rounds = world.rounds(200, rng())
    np.testing.assert_array_equal(rounds.available, available[rounds.context[:, 0].astype(int)])


def table(**changes):
    given = {"context": np.zeros((4, 1)), "mean": np.full((4, 2), 0.5), "actions": ("a", "b"), "features": ("x",)} | changes
    return lambda: Table(**given)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: classification("digit"), UnknownNameError, "unknown classification data 'digit': did you mean 'digits'"),
        (lambda: classification("iris", noise=0.5), ConfigError, "noise is 0.5"),
        (lambda: Payments.drawn(0, d=0), ConfigError, "d is 0 and actions is 6"),
        (lambda: Payments.drawn(0).rounds(0, rng()), ConfigError, "0 rounds were asked for"),
        (lambda: Payments.drawn(0, availability=1.2).rounds(5, rng()), ConfigError, "availability is .*1.2"),
        (lambda: arrived(3, -1, 1), ConfigError, "delay is -1"),
        (lambda: arrived(3, 0, 0), ConfigError, "window is 0"),
        (table(mean=np.full((4, 3), 0.5)), DataError, r"4 contexts and 2 actions ask for means .* means are \[4, 3\]"),
        (table(mean=np.full((4, 2), 1.5)), DataError, r"mean\[0, 0\] is 1.5"),
        (table(available=np.zeros((4, 2), bool)), DataError, "no action is available in row 0"),
        (table(held_out=1.0), ConfigError, "held_out is 1.0"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bundled_data_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"surefoot\[bandits\]"):
        classification("iris")
