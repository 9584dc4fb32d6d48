"""The claim's verdict is what its scores say, and its experiment runs, in small."""

import numpy as np
import pytest

from surefoot.claims import martingale_evaluation as module
from surefoot.claims.base import Context, holds
from surefoot.claims.martingale_evaluation import CLAIM, MISSPECIFIED, Task, chain_value, checks, judge
from surefoot.envs.diffusions import decaying_square


def scores(mstde=(0.47, 0.62, 0.65), others=(0.09, 0.09, 0.09), theta=1.0, noise=0.005):
    rng = np.random.default_rng(0)

    def arm(mean):
        return {str(seed): float(mean + noise * rng.normal()) for seed in range(5)}

    found = {}
    for dt, bad, good in zip((0.1, 0.02, 0.01), mstde, others, strict=True):
        for name in (f"dt {dt:g}", f"same mesh {dt:g}"):
            found[name] = {"mstde": arm(bad), **{a: arm(good) for a in ("ml", "ctd0", "ctd", "cgtd2", "clstd0")}}
    found["misspecified"] = {name: {str(seed): theta * exact for seed in range(5)} for name, exact in MISSPECIFIED.items()}
    return found


def failed(found):
    return [check.name for check in checks(found) if check.required and not check.holds]


def test_the_verdict_is_what_the_scores_say():
    assert holds(checks(scores()))
    assert failed(scores(mstde=(0.47, 0.45, 0.44))) == ["mstde grows"]
    assert failed(scores(mstde=(0.47, 0.62, 0.65), others=(0.09, 0.09, 0.13))) == ["ml steady", "ctd0 steady", "ctd steady"]
    assert failed(scores(others=(0.3, 0.09, 0.09))) == ["half, dt 0.1"]
    assert failed(scores(theta=1.04)) == ["misspecified"]


def test_the_chains_own_value_nears_the_closed_form_with_the_mesh():
    batch = decaying_square().batch(20, 0.1, np.random.default_rng(0))
    gaps = [
        np.abs(chain_value(batch.x, batch.to_go, dt) - decaying_square().value(batch.x, batch.to_go)).max() for dt in (0.1, 0.05, 0.025)
    ]
    np.testing.assert_allclose(np.log2(np.array(gaps[:-1]) / gaps[1:]), 1.0, atol=0.15)
    last = batch.x[:, -2, 0] ** 2 * 0.1  # one step before the end: r dt
    np.testing.assert_allclose(chain_value(batch.x, batch.to_go, 0.1)[:, -2], last)


@pytest.mark.parametrize(("problem", "arm"), [("square", "ctd"), ("square", "cgtd2"), ("square", "clstd0"), ("call", "mstde")])
def test_arms_run_and_repeat(problem, arm, monkeypatch):
    monkeypatch.setattr(module, "PATHS", 100)
    monkeypatch.setattr(module, "JUDGED", 50)
    task = Task(problem, arm, 0.1, (900, 901), 3)
    once, again = judge(task), judge(task)
    assert once == again and len(once[0]) == 2 and (once[1] is None) == (problem == "call")
    assert judge(Task(problem, arm, 0.1, (902, 903), 3))[0] != once[0]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_scores_of_both_scales_can_be_judged(scale, monkeypatch):
    monkeypatch.setattr(module, "PATHS", 100)
    monkeypatch.setattr(
        module, "judge", lambda task: ([0.5 if task.arm == "mstde" else 0.1] * 2, [0.1, 0.1] if task.problem == "square" else None)
    )
    found = CLAIM.run(Context(seeds=[900, 901], scale=scale))
    named = {panel for panel in found if panel in CLAIM.panels}
    assert named == set(found) and {arm for arms in found.values() for arm in arms} <= set(CLAIM.arms)
    assert {"mstde grows", "ctd0 steady", "misspecified"} <= {check.name for check in checks(found)}
    assert any(check.panel == "call, dt 0.005" for check in checks(found)) == (scale == "full")


def test_a_log_of_ones_own(tmp_path, monkeypatch):
    batch = decaying_square().batch(40, 0.1, np.random.default_rng(0))
    reward = np.pad(batch.reward, ((0, 0), (0, 1))).reshape(-1)
    np.savez(tmp_path / "own.npz", path=np.repeat(np.arange(40), 11), t=batch.t.reshape(-1), x=batch.x.reshape(-1), reward=reward)
    monkeypatch.setattr(module, "MartingaleConfig", lambda arm: OwnConfig(arm, iterations=2))
    context = Context(seeds=[900, 901], scale="full", data=str(tmp_path / "own.npz"))
    found = CLAIM.run(context)
    assert set(found) == {"held-out"} and all(len(arm) == 2 for arm in found["held-out"].values())
    assert "taken to pay nothing" in context.notes[0] and len(checks(found)) == 3


OwnConfig = module.MartingaleConfig
