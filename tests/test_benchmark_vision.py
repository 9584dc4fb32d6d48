"""The benchmark of vision: every arm classifies, and the claim's result can be drawn. No timings."""

import numpy as np
import torch

from benchmarks.vision import ARMS, COLOURS, plot, predictors
from surefoot.claims.rrcm import ARMS as CLAIMED
from surefoot.claims.rrcm import PANELS
from surefoot.nn.noise_conditional import NetworkSize


def test_every_arm_classifies():
    for size in (NetworkSize(width=8, depth=1), NetworkSize("vit", width=8, depth=1, heads=2, patch=4)):
        made = predictors((8, 8), size)
        assert set(made) == set(ARMS)
        with torch.no_grad():
            assert all(predict(torch.rand(3, 8, 8)).shape == (3, 10) for predict in made.values())


def test_a_result_of_the_claim_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    panels = {panel: {arm: {"0": rng.random(20).tolist()} for arm in CLAIMED} for panel in PANELS.values()}
    scores = panels | {"calls": {arm: {"0": 1.0} for arm in CLAIMED}}
    facts = {"CPU seconds for each certified image": dict.fromkeys(CLAIMED, 0.01)}
    assert set(COLOURS) == set(CLAIMED)
    plot({"scores": scores, "facts": facts}, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
