"""`Logged`: what is drawn, by whom, and that a resumed source draws the same."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from surefoot.data.log import Log
from surefoot.data.sources import BLOCK, Logged
from surefoot.data.spec import Continuous
from surefoot.errors import ConfigError


def numbered(n=50, offset=0) -> Log:
    """A log whose rewards are the row numbers."""
    row = np.arange(n, dtype=float) + offset
    return Log.from_arrays(row[:, None], row[:, None], row, row[:, None] + 1, np.zeros(n, bool), action_space=Continuous((0.0,), (1e3,)))


def drawn(source: Logged, batches: int) -> np.ndarray:
    """Row numbers `[batches, *copies, B]`."""
    return np.stack([next(source).reward.numpy() for _ in range(batches)]).astype(int)


def test_a_row_stays_together():
    batch = next(Logged(numbered(), batch_size=64, seed=1))
    assert (batch.obs.shape, batch.action.shape, batch.reward.shape, batch.terminated.shape) == ((64, 1), (64, 1), (64,), (64,))
    torch.testing.assert_close(batch.obs[:, 0], batch.reward)
    torch.testing.assert_close(batch.next_obs[:, 0], batch.reward + 1)
    assert next(iter(Logged(numbered(), 3, copies=(4,)))).obs.shape == (4, 3, 1)


def test_uniform_draws_are_uniform():
    rows = drawn(Logged(numbered(), batch_size=500, seed=0), 200)
    assert chisquare(np.bincount(rows.ravel(), minlength=50)).pvalue > 0.001


def test_weighted_draws_follow_their_weights():
    weights = np.random.default_rng(0).random(50)
    weights[[0, 7, 49]] = 0.0
    rows = drawn(Logged(numbered(), batch_size=500, weights=3.0 * weights, seed=0), 200)
    counts, p = np.bincount(rows.ravel(), minlength=50), weights / weights.sum()
    assert counts[[0, 7, 49]].tolist() == [0, 0, 0]
    assert chisquare(counts[p > 0], 100_000 * p[p > 0]).pvalue > 0.001


def test_each_member_draws_its_own():
    rows = drawn(Logged(numbered(), batch_size=100, copies=(3,), seed=0), BLOCK)
    assert rows.shape == (BLOCK, 3, 100)
    flat = rows.transpose(1, 0, 2).reshape(3, -1)
    for i in range(3):
        assert chisquare(np.bincount(flat[i], minlength=50)).pvalue > 0.001
        for j in range(i):
            assert abs((flat[i] == flat[j]).mean() - 1 / 50) < 0.01


def test_one_log_a_member():
    logs = [numbered(50), numbered(30, offset=100), numbered(10, offset=200)]
    weights = [np.ones(50), np.arange(30.0), np.ones(10)]
    rows = drawn(Logged(logs, batch_size=100, copies=(3,), weights=weights), 20)
    for member, (low, high) in enumerate([(0, 49), (101, 129), (200, 209)]):  # row 100 has weight 0
        assert (rows[:, member].min(), rows[:, member].max()) == (low, high)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("before", [0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 3])
def test_a_resumed_source_draws_the_same(weighted, before):
    weights = np.arange(50.0) if weighted else None
    first, second = (Logged(numbered(), 4, copies=(2,), weights=weights, seed=3) for _ in range(2))
    drawn(first, before) if before else None
    state = {name: value.clone() for name, value in first.state_dict().items()}
    expected = drawn(first, BLOCK + 7)
    drawn(second, 2)  # wherever it was
    second.load_state_dict(state)
    np.testing.assert_array_equal(drawn(second, BLOCK + 7), expected)


def test_seeds_matter():
    one, same, other = (drawn(Logged(numbered(), 20, seed=seed), 3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_log_is_held_once():
    log = numbered()
    source = Logged(log, 4, copies=(5,))
    assert source.rows[0].data_ptr() == log.packed.data_ptr()
    assert next(source).obs.device == log.packed.device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_on_the_device():
    source = Logged(numbered(), 4, copies=(2,), weights=np.ones(50), device="cuda")
    assert next(source).obs.is_cuda
    state = source.state_dict()
    expected = next(source).reward
    source.load_state_dict(state)
    assert torch.equal(next(source).reward, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"logs": [numbered(), numbered()], "copies": (3,)}, "2 logs were given for 3 members"),
        ({"weights": [np.ones(50), np.ones(50)]}, "2 weight vectors were given for 1 logs"),
        ({"weights": np.full(50, -1.0)}, "not negative"),
        ({"weights": np.full(50, np.nan)}, "finite"),
        ({"weights": np.zeros(50)}, "not all zero"),
    ],
)
def test_misuse(options, words):
    options = {"logs": numbered(), "batch_size": 4} | options
    with pytest.raises(ConfigError, match=words):
        Logged(options.pop("logs"), **options)
