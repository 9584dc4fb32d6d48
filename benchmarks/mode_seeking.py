"""The pictures of the on-policy study: mass over actions through training, reward against queries and KL, and the two gradients alone.

    python -m benchmarks.mode_seeking [RESULT.json [FOLDER]]

draws them from the stored result of the claim `on-policy-preferences` (its facts), as `docs/images/on-policy-*.png`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.evaluation.mode_seeking import draw_flows, draw_mass, draw_rewards, tilted
from surefoot.methods.language.didactic_bandit import CENTRES, bump

ROOT = Path(__file__).resolve().parents[1]
PER_EPOCH = 100  # rewards asked for: 10 contexts, 10 samples each


def main(result: Path, folder: Path) -> None:
    facts: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["facts"]
    draw_mass(folder / "on-policy-mass.png", facts["mass"], bump=bump(CENTRES["R1"]).tolist())
    curves = {arm: found["R1"] | {"queries": [PER_EPOCH * k for k in found["epochs"]]} for arm, found in facts["curves"].items()}
    draw_rewards(folder / "on-policy-rewards.png", curves, title="reward where the reference hardly goes")
    uniform = np.full(100, 0.01)
    two = bump(30.0).double().numpy() + 0.95 * bump(75.0).double().numpy()
    target = tilted(uniform, two, 0.05)
    draw_flows(folder / "on-policy-flows.png", uniform, {"forward": target, "reverse": target}, steps=(0, 5, 20, 80, 320))


if __name__ == "__main__":
    given = [Path(arg) for arg in sys.argv[1:]]
    main(*(given + [ROOT / "results" / "on-policy-preferences.json", ROOT / "docs" / "images"][len(given) :]))
