"""Learn from arrays of your own, without any environment: write them as a log, train, judge from the log alone."""

from __future__ import annotations

import sys

import numpy as np

from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous
from surefoot.evaluation.offline import evaluate_offline
from surefoot.methods.offline.iql import IQL, IQLConfig
from surefoot.training.fit import fit

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
rng = np.random.default_rng(0)
n, length = 5000, 50  # a thermostat: the temperature should reach 20 degrees, the action heats or cools
temperature = rng.uniform(10.0, 30.0, (n, 1)).astype(np.float32)
heating = rng.uniform(-1.0, 1.0, (n, 1)).astype(np.float32)
after = temperature + 2.0 * heating
log = Log.from_arrays(
    obs=temperature,
    action=heating,
    reward=-np.abs(after[:, 0] - 20.0),
    next_obs=after,
    terminated=np.zeros(n, bool),
    truncated=np.arange(1, n + 1) % length == 0,
    action_space=Continuous(low=(-1.0,), high=(1.0,)),
)

method = IQL(log.spec(), IQLConfig(hidden=(32, 32)), seed=0)
fit(method, Logged(log, batch_size=256, seed=0), steps=steps)
print(evaluate_offline(method.policy, log, steps=steps, hidden=(32, 32)))
