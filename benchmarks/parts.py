"""Where the time of an update goes: one seed, the log and the networks of `benchmarks.speed`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, cpu_seconds, write
from benchmarks.speed import ROUNDS, Ours, rates
from surefoot.data.log import Log
from surefoot.methods.offline import iql, td3
from surefoot.nn.nearest import NearestPairIndex
from surefoot.nn.optimise import FusedAdam


def spent_in(owner: Any, attribute: str, ours: Ours, updates: int = 40) -> float:
    """Seconds of an update within `owner.attribute`, of the best round."""
    inner, spent = getattr(owner, attribute), 0.0

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal spent
        start = time.process_time()
        result = inner(*args, **kwargs)
        spent += time.process_time() - start
        return result

    rounds = []
    setattr(owner, attribute, timed)
    try:
        for _ in range(ROUNDS):
            spent = 0.0
            ours.run(updates)
            rounds.append(spent / updates)
    finally:
        setattr(owner, attribute, inner)
    return min(rounds)


def row(name: str, what: str, took: float, update: float) -> dict[str, Any]:
    return {"method": f"`{name}`", "part of an update": what, "milliseconds": 1e3 * took, "share": f"{took / update:.0%}"}


def of_an_update(name: str, module: Any, log: Log) -> list[dict[str, Any]]:
    """Products, optimisers, targets and drawing, and what is left: activations, losses, autograd and Python."""
    ours = Ours(name, log)

    def draw(n: int) -> float:
        return cpu_seconds(lambda: [next(ours.source) for _ in range(n)])

    best = rates({"update": ours.run, "products": ours.products().run, "drawing": draw})
    update = 1.0 / best["update"]
    parts = {
        "matrix products": 1.0 / best["products"],
        "Adam": spent_in(FusedAdam, "step", ours),
        "target networks": spent_in(module, "polyak_", ours),
        "drawing a batch": 1.0 / best["drawing"],
    }
    parts["activations, losses, autograd, Python"] = update - sum(parts.values())
    return [row(name, what, took, update) for what, took in parts.items()]


def main(log: Log, out: Path = RESULTS) -> None:
    """Write `parts.json`."""
    rows = of_an_update("td3_bc", td3, log) + of_an_update("iql", iql, log)
    a2pr, base = Ours("a2pr", log), Ours("td3_bc", log)
    best = rates({"a2pr": a2pr.run, "td3_bc": base.run})
    extra = 1.0 / best["a2pr"] - 1.0 / best["td3_bc"]  # the same actor and critics
    rows.append(row("a2pr", "V and the CVAE: what `td3_bc` does not have", extra, 1.0 / best["a2pr"]))
    prdc = Ours("prdc", log)
    update = 1.0 / rates({"prdc": prdc.run})["prdc"]
    rows.append(row("prdc", f"search for the nearest of {len(log):,} logged pairs", spent_in(NearestPairIndex, "query", prdc), update))
    write("parts", rows, out)
