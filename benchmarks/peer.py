"""d3rlpy's side of the speed benchmark, run by its own interpreter: `python benchmarks/peer.py LOG.npz`.

Reads lines `ALGORITHM MODE UPDATES` and answers each with the CPU seconds it took. Modes: `step` draws a batch and updates, as its
`fit` does, without logging; `update` updates on batches that were drawn in advance. Defaults but for widths, as ours.
"""

from __future__ import annotations

import os
import sys
import time
import warnings

reply = os.fdopen(os.dup(1), "w", buffering=1)  # the answers; what libraries print goes to stderr
os.dup2(2, 1)
warnings.filterwarnings("ignore")

import d3rlpy  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from d3rlpy.preprocessing import StandardObservationScaler  # noqa: E402

BATCH, IN_ADVANCE = 256, 64
CONFIGS = {
    "bc": d3rlpy.algos.BCConfig,
    "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "cql": d3rlpy.algos.CQLConfig,
    "sac": d3rlpy.algos.SACConfig,
}  # their default networks are 256-256


def main(path: str) -> None:
    torch.set_num_threads(1)
    log = np.load(path, allow_pickle=False)
    dataset = d3rlpy.dataset.MDPDataset(log["obs"], log["action"], log["reward"], log["terminated"], log["truncated"])
    batches = [dataset.sample_transition_batch(BATCH) for _ in range(IN_ADVANCE)]
    algorithms = {}
    for name, config in CONFIGS.items():
        scaler = StandardObservationScaler(log["obs"].mean(0), log["obs"].std(0))
        algorithms[name] = config(batch_size=BATCH, observation_scaler=scaler).create()
        algorithms[name].build_with_dataset(dataset)
    print(d3rlpy.__version__, file=reply)
    for line in sys.stdin:
        name, mode, updates = line.split()
        algorithm = algorithms[name]
        start = time.process_time()
        for i in range(int(updates)):
            algorithm.update(dataset.sample_transition_batch(BATCH) if mode == "step" else batches[i % IN_ADVANCE])
        print(time.process_time() - start, file=reply)


if __name__ == "__main__":
    main(sys.argv[1])
