"""Seeds that derive from one seed and stay independent of each other."""

from __future__ import annotations

import numpy as np


def derive_seed(seed: int, *key: int) -> int:
    """A seed of 31 bits that is independent of those with another key."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0] >> 1)
