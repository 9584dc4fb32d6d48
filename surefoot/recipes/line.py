"""A log of the line world in which the right action is never logged where it is needed, but next to it."""

from __future__ import annotations

import numpy as np

from surefoot.data.log import Log
from surefoot.data.spec import Continuous
from surefoot.envs.line import LENGTH, STEP, moved

ENV_ID = "surefoot/Line-v0"
BAND = (4.0, 6.0)
"""Inside this band the log never moves right."""


def barred_log(seed: int, rows: int = 6000) -> Log:
    """One-step rows: x ~ U(0, 10), a ~ U(-1, 1), and -|a| for 4 < x < 6. Every row is an episode that was cut off."""
    rng = np.random.default_rng(seed)
    x, action = rng.uniform(0.0, LENGTH, rows), rng.uniform(-1.0, 1.0, rows)
    action = np.where((x > BAND[0]) & (x < BAND[1]), -np.abs(action), action)
    after = moved(x, action)
    return Log.from_arrays(
        x[:, None],
        action[:, None],
        (after - x) / STEP,
        after[:, None],
        np.zeros(rows, bool),
        np.ones(rows, bool),
        action_space=Continuous((-1.0,), (1.0,)),
        source=f"recipe line-barred, seed {seed}",
        env_id=ENV_ID,
        notes={"recipe": f"line-barred: {rows} uniform one-step rows that never move right inside {BAND}", "seed": str(seed)},
    )
