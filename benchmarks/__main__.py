"""`python -m benchmarks [--only NAME ...] [--peer-python PYTHON] [--out DIR]`: run the benchmarks and write their results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import (
    align_dpo,
    align_ppo,
    attacks,
    coverage,
    exact_adversarial,
    exact_bandits,
    exact_demonstrations,
    exact_martingale,
    exact_particles,
    exact_r2pvi,
    on_policy,
    parts,
    radii,
    robustness_card,
    rollouts,
    speed,
    vision,
)
from benchmarks.measuring import RESULTS

ALONE: dict[str, Callable[[Path], None]] = {
    "rollouts": rollouts.main,
    "certificate": rollouts.certificate,
    "on_policy": on_policy.main,
    "align_dpo": align_dpo.main,
    "align_ppo": align_ppo.main,
    "attacks": attacks.main,
    "radii": radii.main,
    "coverage": coverage.main,
    "vision": vision.main,
    "r2pvi": exact_r2pvi.main,
    "adversarial": exact_adversarial.main,
    "demonstrations": exact_demonstrations.main,
    "martingale": exact_martingale.main,
}
"""Those that need no other interpreter."""

BESIDE: dict[str, Callable[[Path, str | None], None]] = {"particles": exact_particles.main, "bandits": exact_bandits.main}
"""Those whose peer has an interpreter of its own."""

PICTURES: dict[str, Callable[[Path], None]] = {"robustness_card": robustness_card.main}
"""Those that write no table."""

NAMES = ("speed", "parts", *ALONE, *BESIDE, *PICTURES)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast Surefoot is, and beside whom.")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--peer-python", metavar="PYTHON", help="interpreter that has benchmarks/peers.txt (without it: ours alone)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder for the results (default: benchmarks/results)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    log = speed.hopper_log() if {"speed", "parts"} & set(options.only) else None
    if log is not None and "speed" in options.only:
        speed.main(log, options.peer_python, options.out)
    if log is not None and "parts" in options.only:
        parts.main(log, options.out)
    for name in options.only:
        if name in ALONE | PICTURES:
            (ALONE | PICTURES)[name](options.out)
        if name in BESIDE:
            BESIDE[name](options.out, options.peer_python)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
