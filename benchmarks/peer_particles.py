"""The side of `particles` 0.4 in the particle benchmark, run by its own interpreter: `python benchmarks/peer_particles.py SERIES.npy`.

Reads lines `WORK N RUNS` and answers each with the CPU seconds it took. Work: `filter` is the bootstrap filter with means and variances,
`paris` and `on2` smooth the sum of products online, with two backward draws and exactly. The model and its settings are ours.
"""

from __future__ import annotations

import os
import sys
import time
import warnings

reply = os.fdopen(os.dup(1), "w", buffering=1)  # the answers; what libraries print goes to stderr
os.dup2(2, 1)
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import particles  # noqa: E402
from particles import collectors, distributions, state_space_models  # noqa: E402

A, Q, R = 0.95, 0.2, 0.3
VERSION = "0.4"


class Scalar(state_space_models.StateSpaceModel):
    """x' = A x + N(0, Q), y = x + N(0, R), stationary."""

    def PX0(self) -> object:  # noqa: N802 their names
        return distributions.Normal(scale=np.sqrt(Q / (1.0 - A**2)))

    def PX(self, t: int, xp: np.ndarray) -> object:  # noqa: N802
        return distributions.Normal(loc=A * xp, scale=np.sqrt(Q))

    def PY(self, t: int, xp: np.ndarray, x: np.ndarray) -> object:  # noqa: N802
        return distributions.Normal(loc=x, scale=np.sqrt(R))

    def upper_bound_log_pt(self, t: int) -> float:
        return -0.5 * np.log(2.0 * np.pi * Q)

    def add_func(self, t: int, xp: np.ndarray | None, x: np.ndarray) -> np.ndarray:
        return np.zeros_like(x) if xp is None else xp * x


COLLECT = {"filter": collectors.Moments, "paris": collectors.Paris, "on2": collectors.Online_smooth_ON2}


def main(path: str) -> None:
    model = state_space_models.Bootstrap(ssm=Scalar(), data=np.load(path, allow_pickle=False))
    print(VERSION, file=reply)
    for line in sys.stdin:
        work, n, runs = line.split()
        # the filter resamples where it must, as both sides do by default; smoothers at every step, as PaRIS is stated
        options = {} if work == "filter" else {"resampling": "multinomial", "ESSrmin": 1.0}
        start = time.process_time()
        for _ in range(int(runs)):
            particles.SMC(fk=model, N=int(n), collect=[COLLECT[work]()], **options).run()
        print(time.process_time() - start, file=reply)


if __name__ == "__main__":
    main(sys.argv[1])
