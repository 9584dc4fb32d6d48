"""`python -m benchmarks [--only NAME ...] [--peer-python PYTHON] [--out DIR]`: run the benchmarks and write their results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import (
    exact_adversarial,
    exact_bandits,
    exact_demonstrations,
    exact_martingale,
    exact_particles,
    exact_r2pvi,
    on_policy,
    parts,
    rollouts,
    speed,
)
from benchmarks.measuring import RESULTS

EXACT: dict[str, Callable[[Path], None]] = {
    "r2pvi": exact_r2pvi.main,
    "adversarial": exact_adversarial.main,
    "demonstrations": exact_demonstrations.main,
    "martingale": exact_martingale.main,
}
"""Methods with guarantees, by themselves."""

BESIDE: dict[str, Callable[[Path, str | None], None]] = {"particles": exact_particles.main, "bandits": exact_bandits.main}
"""Those that have a peer."""

NAMES = ("speed", "parts", "rollouts", "certificate", "on_policy", *EXACT, *BESIDE)


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
    if "rollouts" in options.only:
        rollouts.main(options.out)
    if "certificate" in options.only:
        rollouts.certificate(options.out)
    if "on_policy" in options.only:
        on_policy.main(options.out)
    for name in options.only:
        if name in EXACT:
            EXACT[name](options.out)
        if name in BESIDE:
            BESIDE[name](options.out, options.peer_python)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
