"""The IWOCS claim: what its checks see, the walk in tables, and a miniature of the experiment from end to end."""

import json
from dataclasses import replace

import pytest
import torch

from surefoot.claims import base
from surefoot.claims.iwocs import AVERAGE, CLAIM, FULL_SETS, PROGRESS, SMALL, TABLES, WORST, in_tables, on

torch.set_num_threads(1)

SEEDS = ("0", "1", "2")


def scores(
    iwocs=(900.0, 950.0, 1000.0), nominal=(20.0, 5.0, 30.0), randomised=(300.0, 400.0, 350.0), first=(600.0, 500.0, 700.0), tables=0.0
):
    """Three seeds with these worst cases."""
    arm = lambda values: dict(zip(SEEDS, values, strict=True))  # noqa: E731
    return {
        WORST: {"iwocs": arm(iwocs), "nominal": arm(nominal), "randomised": arm(randomised)},
        AVERAGE: {"iwocs": arm(iwocs), "nominal": arm(nominal), "randomised": arm(randomised)},
        PROGRESS: {"default policy": arm(randomised), "first model": arm(first), "last model": arm(iwocs)},
        TABLES: {"iwocs": arm([-7.95 + tables] * 3), "robust value iteration": arm([-7.95] * 3), "models solved": arm([2.0] * 3)},
    }


def verdicts(found):
    return {check.name.partition(",")[0]: check.holds for check in CLAIM.checks(found)}


def test_it_holds_where_it_should():
    checks = CLAIM.checks(scores())
    assert base.holds(checks) and all(check.required for check in checks)
    assert [check.name.partition(",")[0] for check in checks] == ["every seed", "ahead", "steady", "tables"]
    assert checks[0].value == pytest.approx(550.0) and checks[1].value == pytest.approx(600.0)
    assert "(randomised)" in checks[1].statement


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"randomised": (300.0, 960.0, 350.0)}, {"every seed"}),
        ({"nominal": (20.0, 5.0, 1000.0)}, {"every seed"}),  # and equality is no lead
        ({"randomised": (890.0, 300.0, 1010.0)}, {"every seed", "ahead"}),
        ({"first": (600.0, 1000.0, 700.0)}, set()),  # 95 % of it is kept
        ({"first": (600.0, 1001.0, 700.0)}, {"steady"}),
        ({"tables": -1e-3}, {"tables"}),
    ],
)
def test_each_check_fails_for_what_it_is_about(change, broken):
    assert {name for name, holds in verdicts(scores(**change)).items() if not holds} == broken


def test_the_full_scale_is_judged_set_by_set():
    found = {f"Hopper-v5 2d: {panel}": arms for panel, arms in scores().items() if panel != TABLES}
    assert len(CLAIM.checks(found)) == 3 and base.holds(CLAIM.checks(found))
    assert len(FULL_SETS) == 11 and f"Hopper-v5 2d: {WORST}" in CLAIM.panels


def test_the_walk_in_tables_from_the_first_models_that_seeds_draw():
    found = in_tables(CLAIM.context(offset=900))[TABLES]
    assert set(found["models solved"].values()) <= {1.0, 2.0}
    for key, value in found["iwocs"].items():
        assert value == pytest.approx(found["robust value iteration"][key], abs=1e-8) == pytest.approx(-7.952147, abs=5e-7)


def test_all_arms_take_the_same_steps():
    assert SMALL.steps == 42_000 == SMALL.config.default_steps + 3 * SMALL.config.model_steps


def test_a_miniature_from_end_to_end():
    """Two seeds, a few hundred steps: every panel has every seed, the facts are JSON, and the history says which row is judged."""
    steps = {"warmup": 60, "default_steps": 100, "model_steps": 100, "models": 2, "env_steps": 8, "updates": 4}
    config = replace(SMALL.config, hidden=(8,), batch_size=8, buffer_size=500, percentiles=(90.0, 100.0), **steps)
    tiny = replace(SMALL, config=config, search_episodes=1, episodes=1)
    context = CLAIM.context(n=2, offset=900)
    found = on(context, tiny, "")
    assert found.keys() == {WORST, AVERAGE, PROGRESS}
    assert all(arm.keys() == {"900", "901"} for panel in found.values() for arm in panel.values())
    json.dumps(context.facts, allow_nan=False)
    for key, row in context.facts["history"].items():
        assert row["by iteration"][row["best"]] == found[WORST]["iwocs"][key]
        assert row["by iteration"][0] == found[PROGRESS]["default policy"][key]
        assert row["history"][0]["model"] is None and len(row["history"]) == len(row["by iteration"])
