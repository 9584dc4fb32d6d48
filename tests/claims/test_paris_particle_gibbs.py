"""The claim of PaRIS particle Gibbs: what its checks see, a miniature of its experiment, and returns from a CSV."""

import numpy as np
import pytest
import torch

from surefoot.claims import paris_particle_gibbs as module
from surefoot.claims.paris_particle_gibbs import CLAIM
from surefoot.envs.state_space import simulate
from surefoot.envs.state_space_models import StochasticVolatility
from surefoot.errors import DataError
from surefoot.methods.exact.score_ascent import AscentConfig

torch.set_num_threads(1)


def scores(paris=-0.23, ppg=0.0, first=-1.0, late=0.0, learned=(-0.1, -0.006)):
    rng = np.random.default_rng(0)

    def arm(mean, spread, k):
        return {str(s): (mean + spread * rng.standard_normal(k)).tolist() for s in range(5)}

    bias = {"paris_n10": arm(-3.0, 0.2, 20), "paris_n100": arm(paris, 0.12, 20)} | {f"ppg_k0_{k}": arm(ppg, 0.17, 20) for k in (0, 2, 4)}
    sweeps = {f"sweep {i}": arm(first if i == 1 else late, 0.4, 20) for i in range(1, 10)}
    parameter = {"paris_n10": arm(learned[0], 0.018, 60), "ppg_n10": arm(learned[1], 0.008, 60)}
    return {"bias": bias, "bias by sweep": sweeps, "error of the parameter": parameter}


def test_the_claim_sees_what_it_is_about():
    verdicts = {check.name: check.holds for check in CLAIM.checks(scores())}
    assert verdicts and all(verdicts.values())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"paris": 0.0}, "less bias"),
        ({"ppg": -0.23}, "less bias"),
        ({"ppg": 0.23}, "less bias"),
        ({"late": -1.0}, "decay"),
        ({"learned": (-0.1, -0.06)}, "parameter"),
        ({"learned": (-0.002, 0.0)}, "parameter"),
    ],
)
def test_each_check_fails_for_what_it_is_about(change, name):
    verdicts = {check.name: check.holds for check in CLAIM.checks(scores(**change))}
    assert not verdicts[name]


def test_a_miniature_of_the_claim(monkeypatch):
    monkeypatch.setattr(module, "BATCHES", 2)
    monkeypatch.setattr(module, "REPLICATES", 5)
    monkeypatch.setattr(module, "CHAINS", 3)
    monkeypatch.setattr(
        module,
        "LEARNERS",
        {n: AscentConfig(iterations=3, particles=5, estimator=e) for n, e in (("paris_n10", "paris"), ("ppg_n10", "ppg"))},
    )
    found = CLAIM.run(CLAIM.context(n=2, offset=950))
    assert set(found) <= set(CLAIM.panels) and len(CLAIM.checks(found)) >= 3
    assert np.shape(found["bias"]["ppg_k0_2"]["950"]) == (2,)
    again = CLAIM.run(CLAIM.context(n=1, offset=951))
    assert all(again[panel][arm]["951"] == found[panel][arm]["951"] for panel in found for arm in found[panel])


def test_the_full_scale_reads_returns(tmp_path, monkeypatch):
    path = tmp_path / "returns.csv"
    y = simulate(StochasticVolatility(0.9, 0.4, 0.7), 30, seed=1)[1].flatten()
    path.write_text("date,return\n" + "\n".join(f"2020-01-{i + 1:02d},{v}" for i, v in enumerate(y.tolist())))
    np.testing.assert_allclose(module.read_returns(path), y)
    monkeypatch.setattr(
        module, "VOLATILITY", {n: AscentConfig(iterations=2, particles=10, estimator=n, rule="adam", step=0.05) for n in ("paris", "ppg")}
    )
    context = CLAIM.context(scale="full", n=2, data=str(path))
    found = CLAIM.run(context)
    assert len(CLAIM.checks(found)) == 1 and len(context.facts["phi, sigma, beta"]["ppg"]) == 2
    path.write_text("return\nnone\n")
    with pytest.raises(DataError, match="the last column holds 0 numbers"):
        module.read_returns(path)
    with pytest.raises(DataError, match="cannot be read as a CSV"):
        module.read_returns(tmp_path / "no.csv")
