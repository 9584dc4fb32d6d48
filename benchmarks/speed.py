"""Updates per second of our methods, of d3rlpy's, and of the matrix products of ours alone.

All learn from one log of random actions in Hopper-v5, with batches of 256 and networks of two layers of 256, on one thread. An update
of ours is `method.update(next(source))`: drawing a batch is in it. d3rlpy runs in a process of its own (`benchmarks/peer.py`),
which waits while we compute and the other way round: the sides take turns in short rounds, and the best round of each counts.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.beside import Peer
from benchmarks.measuring import RESULTS, cpu_seconds, write
from benchmarks.products import Products
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.evaluation.recording import record
from surefoot.methods.base import Method
from surefoot.methods.registry import learner

FLEET = 5
ROUNDS, ROUND_S = 7, 0.35  # rounds of each side, and about how long one takes
EPISODES = 5_000  # of random actions, a good 20 steps each: about 100,000 transitions
BATCH = 256
METHODS: dict[str, dict[str, Any]] = {
    "bc": {},
    "td3_bc": {},
    "iql": {},
    "cql": {"hidden": (256, 256), "bc_steps": 0},
    "a2pr": {"hidden": (256, 256), "critic_hidden": (256, 256)},
    "prdc": {},
    "sac": {},
}
"""What is timed, and the settings that make all networks 256-256 (A2PR's CVAE keeps its 750-750)."""
PEERS = ("bc", "td3_bc", "iql", "cql", "sac")


# --- the sides --------------------------------------------------------------------------------------------------------


class Ours:
    """One of our methods on the log, a lone seed or a fleet."""

    def __init__(self, name: str, log: Log, copies: tuple[int, ...] = (), **settings: Any):
        method_class = learner(name)
        config = method_class.config_class(**(METHODS[name] | settings))
        self.method: Method = method_class(log.spec(), config, copies=copies, seed=0)
        self.method.prepare([log])
        self.source = Logged(log, BATCH, copies=copies, seed=0)
        self.run(10)

    def run(self, updates: int) -> float:
        """Seconds of so many updates."""

        def work() -> None:
            for _ in range(updates):
                self.method.update(next(self.source))

        return cpu_seconds(work)

    def products(self) -> Alone:
        """The matrix products of two updates (the actor learns in every second one)."""
        with Products() as products:
            self.run(2)
        return Alone(products)


class Alone:
    """Matrix products without anything around them."""

    def __init__(self, products: Products):
        self.work, self.flops = products.replay(), products.flops // 2

    def run(self, updates: int) -> float:
        return cpu_seconds(lambda: [self.work() for _ in range(max(1, updates // 2))]) * updates / (2 * max(1, updates // 2))


def peer_on(python: str, log: Log, folder: Path) -> Peer:
    """d3rlpy in its own interpreter, with the same log."""
    t = log.transitions
    truncated = log.ends & ~t.terminated.bool().numpy()
    arrays = {"obs": t.obs, "action": t.action, "reward": t.reward[:, None], "terminated": t.terminated}
    np.savez(folder / "log.npz", truncated=truncated.astype(np.float32), **{k: x.numpy() for k, x in arrays.items()})
    return Peer(python, "peer.py", str(folder / "log.npz"))


def rates(sides: dict[str, Callable[[int], float]]) -> dict[str, float]:
    """Updates per second of each side, of its best round; the sides take turns."""
    updates = {}
    for side, run in sides.items():
        run(2)
        updates[side] = max(2, 2 * round(ROUND_S / run(4) * 2))  # even: the actor learns in every second one
    best = dict.fromkeys(sides, 0.0)
    for _ in range(ROUNDS):
        for side, run in sides.items():
            best[side] = max(best[side], updates[side] / run(updates[side]))
    return best


# --- the table --------------------------------------------------------------------------------------------------------


def speed_rows(log: Log, peer: Peer | None) -> list[dict[str, Any]]:
    """Each method, a lone seed and a fleet: seed-updates per second, beside the products alone and d3rlpy."""
    rows = []
    for name in METHODS:
        lone, fleet = Ours(name, log), Ours(name, log, (FLEET,))
        alone, together = lone.products(), fleet.products()
        sides = {"lone": lone.run, "fleet": fleet.run, "alone": alone.run, "together": together.run}
        if peer is not None and name in PEERS:
            for mode in ("step", "update"):
                sides[mode] = lambda n, name=name, mode=mode: peer.run(name, mode, n)  # type: ignore[misc]
        best = rates(sides)
        for seeds, ours, limit in ((1, best["lone"], best["alone"]), (FLEET, FLEET * best["fleet"], FLEET * best["together"])):
            row = {"method": f"`{name}`", "seeds": seeds, "surefoot": ours, "products alone": limit, "share of that limit": ours / limit}
            if "step" in best:
                row |= {"d3rlpy": best["step"], "times d3rlpy": ours / best["step"]}
                row |= {"d3rlpy, batches drawn in advance": best["update"], "times that": ours / best["update"]}
            rows.append(row)
            print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), file=sys.stderr)
    return rows


def hopper_log() -> Log:
    """About 100,000 transitions of uniform random actions: shapes and ranges of Hopper, made in a minute."""
    return record("random", "Hopper-v5", episodes=EPISODES, seed=0)


def main(log: Log, python: str | None, out: Path = RESULTS) -> None:
    """Write `speed.json`; without a peer's Python its columns are left out."""
    with tempfile.TemporaryDirectory() as folder:
        peer = None if python is None else peer_on(python, log, Path(folder))
        try:
            rows = speed_rows(log, peer)
        finally:
            if peer is not None:
                peer.close()
    write("speed", rows, out, note="" if peer is None else f", d3rlpy {peer.version}")
