"""The claim's verdict is what its scores say, and its experiment runs, in small."""

import numpy as np
import pytest

from surefoot.claims import adversarial_mdp as module
from surefoot.claims.adversarial_mdp import CLAIM, RATE, Setting, checks, panel
from surefoot.claims.base import Context, holds

GRID = (500, 2_000, 8_000, 32_000)


def scores(own=0.6, least=-0.2, ratio=2.5):
    """Regret K^own of both algorithms, K^0.8 of Luo et al., which is `ratio` times theirs at the largest K."""
    rng = np.random.default_rng(0)

    def arm(mean):
        return {str(seed): float(mean * np.exp(0.02 * rng.normal())) for seed in range(5)}

    power = RATE | {"luo2021": 0.8, "logbarrier": own, "magnitude_reduced": own, "uniform": 1.0, "plain": 0.6}
    at_end = {"luo2021": 1_000.0 * ratio, "simulator_free": 3_000.0, "simulator_free_luo2021": 9_000.0, "uniform": 10_000.0}
    found = {panel(k): {name: arm(at_end.get(name, 1_000.0) * (k / 32_000) ** p) for name, p in power.items()} for k in GRID}
    found["least eta (Qhat - B)"] = {name: {str(s): [least] * 4 for s in range(5)} for name in ("magnitude_reduced", "plain")}
    found["inverse error"] = {"average": arm(0.2), "mgr": arm(0.4)}
    return found


def failed(found):
    return [check.name for check in checks(found) if check.required and not check.holds]


def test_the_verdict_is_what_the_scores_say():
    assert holds(checks(scores()))
    assert failed(scores(ratio=1.2)) == ["magnitude_reduced against luo2021", "logbarrier against luo2021"]
    assert failed(scores(own=0.78)) == ["magnitude_reduced flatter", "logbarrier flatter"]
    assert failed(scores(least=-1.3)) == ["range of magnitude_reduced"]


def test_measured_values():
    found = {check.name: check for check in checks(scores())}
    assert found["logbarrier against luo2021"].value == pytest.approx(2.5, rel=0.1)
    assert found["logbarrier flatter"].value == pytest.approx(0.2, abs=0.03)
    assert found["slope of simulator_free"].value == pytest.approx(8 / 9, abs=0.03)
    assert found["inverse"].value == pytest.approx(0.2, abs=0.03) and found["inverse"].holds


def test_the_gap_in_actions_is_looked_at_where_it_was_measured():
    found = scores()
    for prefix, factor in (("", 1.0), ("50 actions, ", 3.0)):
        own, other = {"900": 100.0 * factor, "901": 90.0 * factor}, {"900": 100.0, "901": 90.0}
        found.setdefault(prefix + panel(128_000), {}).update({"logbarrier": own, "magnitude_reduced": other})
    assert module.gap_in_actions(found).value == pytest.approx(np.log(3.0)) and module.gap_in_actions(found).holds


def test_the_level_of_losses_does_not_change_the_best_policy():
    model, losses = module.worlds([900, 901], Setting((10,)))
    assert losses(0).shape == (2, 3, 8, 4)
    np.testing.assert_allclose(losses(0), 0.6 * np.einsum("chsad,chd->chsa", model.features, model.theta))
    levels = [round(float((losses(k) - losses(0)).mean()), 12) for k in range(8)]  # w of 1 .. 8
    assert levels == [0.0, 0.0, 0.4, 0.0, 0.0, 0.4, 0.4, 0.0]
    assert all(losses(k).min() >= 0.0 and losses(k).max() <= 1.0 for k in range(8))


@pytest.mark.parametrize("sampled", [False, True])
def test_the_experiment_runs_in_small(monkeypatch, sampled):
    setting = Setting((16, 40), states=3, actions=2, d=2, sampled=sampled)
    monkeypatch.setattr(module, "SMALL", {"": setting})
    both = CLAIM.run(Context(seeds=[900, 901]))
    assert set(both[panel(40)]) == {*module.ALGORITHMS, *module.SIMULATOR_FREE, "uniform"}
    assert len(both["along K = 40"]["logbarrier"]["900"]) == 2  # after 32 and 40
    assert both["along K = 40"]["logbarrier"]["900"][-1] == both[panel(40)]["logbarrier"]["900"]
    if not sampled:  # a seed's numbers do not depend on its neighbours
        alone = CLAIM.run(Context(seeds=[901]))
        np.testing.assert_allclose(alone[panel(40)]["logbarrier"]["901"], both[panel(40)]["logbarrier"]["901"], rtol=1e-9)
        np.testing.assert_allclose(alone[panel(40)]["simulator_free"]["901"], both[panel(40)]["simulator_free"]["901"], rtol=1e-9)
