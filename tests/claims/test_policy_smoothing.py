"""The policy-smoothing claim: what its checks see and do not see, and a miniature of its experiment."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from surefoot.claims import base, policy_smoothing
from surefoot.claims.policy_smoothing import ATTACKED, CERTIFIED, CLAIM, SMALL, attacked, certified
from surefoot.evaluation.attacks import QAttack

torch.set_num_threads(1)


def scores(bound=lambda b: 180.0 - 150.0 * b, smoothed=lambda b: 190.0 - 60.0 * b, undefended=lambda b: 195.0 - 190.0 * b):
    """Three seeds of 50 episodes with these means."""
    rng = np.random.default_rng(0)
    seeds = ("0", "1", "2")
    found = {certified(b): {"smoothed": {s: bound(b) + i for i, s in enumerate(seeds)}} for b in CERTIFIED}
    for b in ATTACKED:
        found[attacked(b)] = {
            name: {s: (mean(b) + rng.normal(0.0, 10.0, 50)).tolist() for s in seeds}
            for name, mean in (("smoothed", smoothed), ("undefended", undefended))
        }
    return found


def verdicts(found):
    return {check.name: check.holds for check in CLAIM.checks(found)}


def test_it_holds_where_it_should():
    checks = CLAIM.checks(scores())
    assert base.holds(checks)
    assert [check.name for check in checks] == ["sound", "not vacuous", "benefit", "overtaken"]
    assert [check.required for check in checks] == [True, True, True, False]
    benefit = checks[2]
    assert benefit.ci95[0] > 0
    assert benefit.value == pytest.approx(86, abs=3)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"smoothed": lambda b: 190.0 - 60.0 * b - (120.0 if b == 0.6 else 0.0)}, "sound"),
        ({"bound": lambda b: 95.0 if b == 0.1 else 180.0 - 150.0 * b}, "not vacuous"),
        ({"undefended": lambda b: 190.0 - 60.0 * b}, "benefit"),
        ({"undefended": lambda b: 195.0 - 30.0 * b}, "benefit"),
        ({"undefended": lambda b: 195.0 - 100.0 * b}, "overtaken"),
    ],
)
def test_each_check_fails_for_what_it_is_about(change, broken):
    found = verdicts(scores(**change))
    assert not found[broken]
    if broken in ("not vacuous", "overtaken"):
        assert all(holds for name, holds in found.items() if name != broken)


def test_one_seed_that_breaks_its_bound_is_enough():
    found = scores()
    found[certified(0.2)]["smoothed"]["1"] = 195.0
    assert not verdicts(found)["sound"]


def test_a_bound_within_the_error_of_sampling_is_not_a_violation():
    found = scores()
    returns = np.array(found[attacked(0.4)]["smoothed"]["2"])
    found[certified(0.4)]["smoothed"]["2"] = float(returns.mean() + returns.std(ddof=1) / np.sqrt(50))
    assert verdicts(found)["sound"]


def test_other_sigmas_of_the_full_scale_must_be_sound_too():
    found = scores()
    for b in CERTIFIED:
        found[certified(b)]["smoothed 0.4"] = dict.fromkeys(("0", "1", "2"), 150.0)
    for b in ATTACKED:
        found[attacked(b)]["smoothed 0.4"] = {s: [150.0, 151.0] for s in ("0", "1", "2")}
    assert verdicts(found)["sound"]
    found[attacked(1.0)]["smoothed 0.4"]["0"] = [90.0, 91.0]
    assert not verdicts(found)["sound"]


def test_a_miniature_of_the_experiment(monkeypatch):
    """A few updates, a few episodes: every panel is filled, seeds differ, and the same seed gives the same scores."""
    tiny = replace(
        SMALL,
        dqn=replace(SMALL.dqn, hidden=(8,), warmup=16, env_steps=16, updates=4, batch_size=8),
        updates=8,
        eval_every=4,
        eval_episodes=4,
        certify_episodes=20,
        attack_episodes=3,
        draws=2,
        undefended_thresholds=(0.0,),
        smoothed_thresholds=(0.0, 1.0),
    )
    monkeypatch.setattr(policy_smoothing, "SMALL", tiny)
    monkeypatch.setattr(policy_smoothing, "LIMIT", 30)
    monkeypatch.setattr(policy_smoothing, "QAttack", partial(QAttack, step=0.1))
    said = []
    context = CLAIM.context(n=2, offset=950, say=said.append)
    found = CLAIM.run(context)
    assert list(found) == list(dict.fromkeys([certified(b) for b in CERTIFIED] + [attacked(b) for b in ATTACKED]))
    assert set(found) <= set(CLAIM.panels)
    assert set(found[attacked(0.2)]) == {"smoothed", "undefended"} <= set(CLAIM.arms)
    assert np.shape(found[attacked(0.2)]["smoothed"]["950"]) == (3,)
    assert found[attacked(0.0)]["undefended"]["950"] != found[attacked(0.0)]["undefended"]["951"]
    assert len(said) == 4
    assert set(context.facts["smoothed"]) == {"last", "best", "evaluations", "clean", "worst", "spent"}
    assert len(CLAIM.checks(found)) == 4
    again = CLAIM.run(CLAIM.context(n=1, offset=951))
    assert again[attacked(0.4)]["smoothed"]["951"] == found[attacked(0.4)]["smoothed"]["951"]
    assert again[certified(0.1)]["smoothed"]["951"] == found[certified(0.1)]["smoothed"]["951"]
