"""Learning rates that depend on the step alone, so that a resume needs no state of theirs."""

from __future__ import annotations

from math import cos, pi

import torch


def warm_cosine(step: int, steps: int, warmup: int = 0) -> float:
    """Factor of the rate at `step` (from 0): linear up over `warmup` steps, then half a cosine down to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return 0.5 * (1.0 + cos(pi * share))


def scale_rates_(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to `factor` times its "full" one, which is the one it was made with."""
    for group in optimiser.param_groups:
        group["lr"] = factor * group.setdefault("full", group["lr"])
