"""Derived seeds: a function of seed and key, different for different keys, and what every generator takes."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.seeding import derive_seed

KEYS = st.lists(st.integers(0, 2**32 - 1), max_size=4)


@settings(deadline=None)
@given(st.integers(0, 2**63), KEYS)
def test_a_seed_of_31_bits_that_depends_on_seed_and_key_alone(seed, key):
    derived = derive_seed(seed, *key)
    assert derived == derive_seed(seed, *key)
    assert 0 <= derived < 2**31
    torch.Generator().manual_seed(derived)
    np.random.default_rng(derived)


def test_seeds_and_keys_do_not_collide():
    derived = [derive_seed(seed, kind, i) for seed in range(10) for kind in range(3) for i in range(100)]
    derived += [derive_seed(seed, kind) for seed in range(10) for kind in range(3)]
    assert len(set(derived)) == len(derived)


def test_neighbouring_keys_give_independent_streams():
    draws = np.array([np.random.default_rng(derive_seed(0, i)).standard_normal(1000) for i in range(20)])
    correlation = np.corrcoef(draws) - np.eye(20)
    assert np.abs(correlation).max() < 0.15  # 190 pairs of 1000 draws: 4.7 standard errors
