"""The claim of PaRIS particle Gibbs: less biased smoothing than PaRIS at the same number of particle moves, and so better parameters.

Every seed is a data set of its own, simulated, with the exact answer by Kalman. Bias belongs to a data set, and its sign too, so it is not
averaged over seeds but squared: b^2 is estimated by (mean error)^2 minus the squared standard error, which is right on average.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, finite_ends, table
from surefoot.envs.state_space import LinearGaussian
from surefoot.envs.state_space_models import StochasticVolatility
from surefoot.errors import DataError
from surefoot.evaluation.statistics import Interval
from surefoot.methods.exact.kalman import kalman_filter, kalman_smoother
from surefoot.methods.exact.paris_particle_gibbs import PPGConfig, paris, ppg
from surefoot.methods.exact.particle_filter import particle_filter
from surefoot.methods.exact.score_ascent import AscentConfig, learn
from surefoot.training.engines import run_tasks

T, A, Q = 50, 0.95, 0.2
R_STATE, R_PARAMETER = 0.3, 1.0  # variance of the observations in the two parts
P0 = Q / (1.0 - A**2)
BATCHES, REPLICATES = 20, 400  # a data set is smoothed 20 x 400 times
CHAINS = 60  # that learn the parameter of a data set
LATE = range(6, 10)  # sweeps whose bias is compared with the first's
ADAM: dict[str, Any] = {"rule": "adam", "step": 0.05}
"""How learners move: with it all arrive within 200 iterations, whether the states of a series are large or small."""
LEARNERS = {
    "paris_n10": AscentConfig(particles=10, estimator="paris", **ADAM),
    "paris_n20": AscentConfig(particles=20, estimator="paris", **ADAM),
    "path_n10": AscentConfig(particles=10, estimator="path", **ADAM),
    "ppg_n5": AscentConfig(particles=5, **ADAM),
    "ppg_n10": AscentConfig(particles=10, **ADAM),
}
START = 0.3  # where the learners of a begin


def run(context: Context) -> Scores:
    if context.scale == "full":
        return volatility_of_returns(context)

    def tell(part: str, i: int, seed: int) -> None:
        context.say(f"{part}, seed {seed}: {i + 1} of {len(context.seeds)} data sets")

    context.notes.append(
        "The burn-in of the required check, 4 of 9 sweeps (about half, as the paper has it), was chosen on tuning seeds 900 to 905. With 2,"
        " which one data set had suggested, the bias is not below that of PaRIS with 100 particles ('less bias, short burn-in'): on some"
        " data sets the first sweeps are far off."
    )
    states = run_tasks(smooth, context.seeds, jobs=context.jobs, done=partial(tell, "states"))
    parameters = run_tasks(learn_a, context.seeds, jobs=context.jobs, done=partial(tell, "parameter"))
    context.facts["exact"] = {"sum of products": [s["exact"] for s in states], "maximum likelihood": [p["exact"] for p in parameters]}
    errors = {arm: context.arm([found[arm] for found in states]) for arm in ("paris_n10", "paris_n100", "ppg_k0_0", "ppg_k0_2", "ppg_k0_4")}
    sweeps = {f"sweep {l}": context.arm([found["sweeps"][l - 1] for found in states]) for l in range(1, 10)}  # noqa: E741
    return {
        "bias": errors,
        "root mean square error": {arm: context.arm([found["rmse"][arm] for found in states]) for arm in errors},
        "bias by sweep": sweeps,
        "error of the parameter": {arm: context.arm([found[arm] for found in parameters]) for arm in LEARNERS},
    }


# --- the two parts, for one data set ----------------------------------------------------------------------------------


def simulated(rng: np.random.Generator, r: float) -> np.ndarray:
    """A series `[T]`: x_0 first, then the states, then the noise of the observations."""
    x = [rng.normal() * np.sqrt(P0)]
    for _ in range(T - 1):
        x.append(A * x[-1] + rng.normal() * np.sqrt(Q))
    return np.array(x) + rng.normal(size=T) * np.sqrt(r)


def product(t: int, x: Tensor, x_next: Tensor) -> Tensor:
    """The functional: sum_t x_t x_{t+1}."""
    return x * x_next


def smooth(seed: int) -> dict:
    """Mean errors of each batch of replicates, by arm and by sweep; root mean square errors of single replicates."""
    model = LinearGaussian(A, Q, 1.0, R_STATE, P0)
    y = simulated(np.random.default_rng(derived(seed, "states")), R_STATE)
    exact = float(kalman_smoother(model, y).lag_moment.sum())
    estimates: dict[str, list[Tensor]] = {arm: [] for arm in ("paris_n10", "paris_n100", "sweeps")}
    for name, n in (("paris_n10", 10), ("paris_n100", 100)):
        generator = torch.Generator().manual_seed(derived(seed, name))
        for _ in range(BATCHES):
            estimates[name].append(paris(model, y, product, particles=n, chains=REPLICATES, seed=generator).estimate[:, 0])
    generator = torch.Generator().manual_seed(derived(seed, "ppg"))
    for _ in range(BATCHES):
        estimates["sweeps"].append(ppg(model, y, product, PPGConfig(), chains=REPLICATES, seed=generator).sweeps[..., 0])
    sweeps = torch.stack(estimates["sweeps"], 1) - exact  # [9, BATCHES, REPLICATES]
    errors = {name: torch.stack(estimates[name]) - exact for name in ("paris_n10", "paris_n100")}
    errors |= {f"ppg_k0_{k0}": sweeps[k0:].mean(0) for k0 in (0, 2, 4)}
    means: dict = {name: e.mean(-1).tolist() for name, e in errors.items()}
    rmse = {name: float(e.square().mean().sqrt()) for name, e in errors.items()}
    return means | {"sweeps": sweeps.mean(-1).tolist(), "rmse": rmse, "exact": exact}


def with_a(a: Tensor) -> LinearGaussian:
    """The model of the second part, with a `[]` or one a chain `[R, 1]`."""
    return LinearGaussian(a if a.dim() == 0 else a.unsqueeze(-1), Q, 1.0, R_PARAMETER, P0)


def learn_a(seed: int) -> dict:
    """Errors of each chain against the maximum-likelihood estimate, by arm."""
    y = simulated(np.random.default_rng(derived(seed, "parameter")), R_PARAMETER)
    exact = maximum_likelihood(y)
    found: dict = {"exact": exact}
    for name, config in LEARNERS.items():
        learned = learn(with_a, [START], y, config, chains=CHAINS, seed=derived(seed, f"learn {name}"))
        found[name] = (learned.theta[:, 0] - exact).tolist()
    return found


def maximum_likelihood(y: np.ndarray) -> float:
    """The a that maximises the exact likelihood."""

    def loss(a: float) -> float:
        return -float(kalman_filter(with_a(torch.tensor(a, dtype=torch.float64)), y).log_likelihood)

    return float(minimize_scalar(loss, bounds=(-1.2, 1.2), method="bounded", options={"xatol": 1e-8}).x)


# --- the full scale ---------------------------------------------------------------------------------------------------

VOLATILITY = {
    "paris": AscentConfig(iterations=400, particles=100, estimator="paris", **ADAM),
    "ppg": AscentConfig(iterations=400, particles=100, **ADAM),
}


def volatility(theta: Tensor) -> StochasticVolatility:
    """phi, sigma and beta of free parameters `[R, 3]`."""
    return StochasticVolatility(theta[:, 0].tanh(), theta[:, 1].exp(), theta[:, 2].exp())


def volatility_of_returns(context: Context) -> Scores:
    """phi, sigma and beta of real returns, and the likelihood that they reach."""
    y = read_returns(Path(context.logs("returns.csv")))
    start = [1.5, -1.0, float(np.log(np.nanstd(y)))]
    likelihood: dict[str, list[float]] = {}
    parameters: dict[str, list[list[float]]] = {}
    for name, config in VOLATILITY.items():
        likelihood[name], parameters[name] = [], []
        for seed in context.seeds:
            theta = learn(volatility, start, y, config, seed=derived(seed, f"learn {name}")).theta
            judged = particle_filter(volatility(theta), y, particles=20_000, seed=derived(seed, "evaluation"))
            likelihood[name].append(float(judged.log_likelihood))
            model = volatility(theta)
            parameters[name].append([float(p.squeeze()) for p in (model.phi, model.sigma, model.beta)])
            context.say(f"{name}, seed {seed}: log-likelihood {likelihood[name][-1]:.2f}")
    context.facts["phi, sigma, beta"] = parameters
    return {"log-likelihood": {name: context.arm(values) for name, values in likelihood.items()}}


def read_returns(path: Path) -> np.ndarray:
    """A CSV with a line of names and one column of returns (the last, if there are others, such as dates). Raises DataError."""
    try:
        y = np.genfromtxt(path, delimiter=",", skip_header=1, ndmin=2)[:, -1]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a CSV ({error}): give a line of names, then one return a line, in the last column."
        ) from error
    if np.isfinite(y).sum() < 2:
        raise DataError(f"{path}: the last column holds {int(np.isfinite(y).sum())} numbers: it must hold the returns.")
    return y


# --- checks -----------------------------------------------------------------------------------------------------------


def squared_bias(means: np.ndarray) -> tuple[float, float]:
    """Mean over data sets of b^2, and its standard error, from means of independent batches `[n, batches]`."""
    b, s2 = means.mean(1), means.var(1, ddof=1) / means.shape[1]
    value = np.square(b) - s2
    variance = 4.0 * np.maximum(value, 0.0) * s2 + 2.0 * np.square(s2)
    return float(value.mean()), float(np.sqrt(variance.sum()) / len(b))


def less_biased(name: str, statement: str, panel: str, more: np.ndarray, less: np.ndarray, required: bool = True) -> Check:
    """The squared bias of `less` is below that of `more` by more than two standard errors (batches as in `squared_bias`)."""
    (high, high_error), (low, low_error) = squared_bias(more), squared_bias(less)
    gap, error = high - low, float(np.hypot(high_error, low_error))
    ci95 = finite_ends(gap - 1.96 * error, gap + 1.96 * error)
    return Check(name, statement, panel, gap, ci95, "z-test, greater", float(norm.sf(gap / error)), 0.0, required, bool(gap > 2.0 * error))


def size_of_error(errors: np.ndarray) -> Interval:
    """Mean over data sets of |mean error|, and its interval, from the errors of independent chains `[n, chains]`."""
    value = float(np.abs(errors.mean(1)).mean())
    half = 1.96 * float(np.sqrt((errors.var(1, ddof=1) / errors.shape[1]).sum()) / len(errors))
    return Interval(value, value - half, value + half)


def checks(scores: Scores) -> list[Check]:
    if "bias" not in scores:  # the full scale
        statement = "the parameters that PPG learns have a higher likelihood than those of PaRIS with as many particles"
        return [difference(scores, "log-likelihood", "ppg", "paris", name="likelihood", statement=statement)]
    late = np.mean([table(scores, "bias by sweep", f"sweep {l}") for l in LATE], axis=0)  # noqa: E741
    ppg_error, paris_error = (size_of_error(table(scores, "error of the parameter", arm)) for arm in ("ppg_n10", "paris_n10"))
    ratio = ppg_error.value / paris_error.value
    return [
        less_biased(
            "less bias",
            "averaged over data sets, the squared bias of PPG (k0 = 4) is below that of PaRIS with 100 particles by two standard errors",
            "bias",
            table(scores, "bias", "paris_n100"),
            table(scores, "bias", "ppg_k0_4"),
        ),
        less_biased(
            "less bias, short burn-in",
            "the same with k0 = 2",
            "bias",
            table(scores, "bias", "paris_n100"),
            table(scores, "bias", "ppg_k0_2"),
            required=False,
        ),
        less_biased(
            "decay",
            "the bias dies out over sweeps: its square is smaller for sweeps 6 to 9 than for the first by two standard errors",
            "bias by sweep",
            table(scores, "bias by sweep", "sweep 1"),
            late,
        ),
        Check(
            name="parameter",
            statement="the mean error of the parameter by PPG is below half of that by PaRIS (10 particles each), 95 % intervals apart",
            panel="error of the parameter",
            value=ratio,
            ci95=finite_ends(ppg_error.low / paris_error.high, ppg_error.high / paris_error.low) if paris_error.low > 0.0 else None,
            test=None,
            p=None,
            threshold=0.5,
            required=True,
            holds=bool(ratio < 0.5 and ppg_error.high < paris_error.low),
        ),
    ]


CLAIM = Claim(
    slug="paris-particle-gibbs",
    title="PaRIS particle Gibbs (PPG)",
    statement="PPG smooths with less bias than PaRIS at an equal number of particle moves, and therefore learns better parameters.",
    seeds=5,
    arms={
        "paris_n10": "PaRIS, 10 particles",
        "paris_n20": "PaRIS, 20 particles",
        "paris_n100": "PaRIS, 100 particles: the budget of PPG",
        "ppg_k0_0": "PPG, 10 particles, a bootstrap pass and 9 sweeps, all averaged",
        "ppg_k0_2": "the same, the first 2 sweeps left out",
        "ppg_k0_4": "the same, the first 4 sweeps left out",
        "ppg_n5": "PPG, 5 particles, one sweep an iteration",
        "ppg_n10": "PPG, 10 particles, one sweep an iteration: the cost of PaRIS with 10",
        "path_n10": "particle Gibbs: the sampled path alone (Markov score climbing), 10 particles",
        "paris": "PaRIS, 100 particles",
        "ppg": "PPG, 100 particles, one sweep an iteration",
        **{f"sweep {l}": f"PPG, 10 particles: sweep {l} alone" for l in range(1, 10)},  # noqa: E741
    },
    panels={
        "bias": "error of E[sum x_t x_{t+1} | y], mean of each of 20 batches of 400 replicates, on a data set a seed",
        "root mean square error": "of the same, of a single replicate",
        "bias by sweep": "error of each sweep's own estimate, as in bias",
        "error of the parameter": "learned a minus the maximum-likelihood estimate, of each of 60 chains, on a data set a seed",
        "log-likelihood": "of the returns at the learned parameters, by a filter of 20,000 particles",
    },
    scales={
        "small": "A linear Gaussian model of 50 steps: 8,000 smoothings of each data set; a learned in 60 chains of 200 iterations.",
        "full": "Stochastic volatility on a series of returns (--data, a CSV): phi, sigma and beta by 400 iterations of 100 particles.",
    },
    run=run,
    checks=checks,
)
