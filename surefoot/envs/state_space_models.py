"""State-space models beyond the linear Gaussian: volatility, symbols, two modes, a network. Examples of the form, and useful as they are.

Their form is that of `surefoot.envs.state_space`; every parameter may be learned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surefoot.envs.state_space import HALF_LOG_2PI, StateSpaceModel, Value, apply, log_gaussian, matrix, normal, parameter, per_chain
from surefoot.errors import ConfigError, DataError


class StochasticVolatility(StateSpaceModel):
    """x' = phi x + sigma v, y = beta exp(x / 2) w, v and w standard normal: returns whose log variance wanders.

    x_0 is stationary, so |phi| < 1. Parameters are numbers or `[R]`. Raises ConfigError.
    """

    homogeneous = True

    def __init__(self, phi: Value, sigma: Value, beta: Value):
        self.phi = parameter(phi, "phi")
        self.sigma, self.beta = parameter(sigma, "sigma", positive=True), parameter(beta, "beta", positive=True)
        largest = float(self.phi.detach().abs().max())
        if largest >= 1.0:
            raise ConfigError(f"|phi| is {largest:.6g}: the log volatility has a stationary law only below 1.")
        self.variance0 = self.sigma**2 / (1.0 - self.phi**2)

    def sample_x0(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        z = normal((*shape, 1), generator)
        return per_chain(self.variance0.sqrt(), z) * z

    def log_x0(self, x: Tensor) -> Tensor:
        return log_gaussian(x, self.variance0)

    def sample_x(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return per_chain(self.phi, x) * x + per_chain(self.sigma, x) * normal(x.shape, generator)

    def log_m(self, t: int, x: Tensor, x_next: Tensor) -> Tensor:
        return log_gaussian(x_next - per_chain(self.phi, x) * x, self.sigma**2)

    def log_m_bound(self, t: int) -> Tensor:
        return -HALF_LOG_2PI - self.sigma.log()

    def sample_y(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return per_chain(self.beta, x) * (0.5 * x).exp() * normal(x.shape, generator)

    def log_g(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        log_scale = 0.5 * x + per_chain(self.beta.log(), x)  # of the standard deviation
        return (-0.5 * (y * (-log_scale).exp()).square() - log_scale - HALF_LOG_2PI).squeeze(-1)


class DiscreteHMM(StateSpaceModel):
    """A hidden Markov chain on K states that emits one of S symbols: `transition` `[K, K]`, `emission` `[K, S]`, `initial` `[K]`.

    States and symbols are 0, 1, ... (as float64, like any state). Tables are probabilities, shared by the chains. Raises ConfigError.
    """

    homogeneous = True

    def __init__(self, transition: Tensor, emission: Tensor, initial: Tensor):
        self.transition, self.emission = probabilities(transition, "transition"), probabilities(emission, "emission")
        self.initial = probabilities(initial, "initial")
        k = len(self.initial)
        if self.transition.shape != (k, k) or self.emission.dim() != 2 or len(self.emission) != k:
            shapes = f"transition {tuple(self.transition.shape)} and emission {tuple(self.emission.shape)}"
            raise ConfigError(f"{shapes} do not fit {k} initial probabilities: give [{k}, {k}] and [{k}, symbols].")

    def sample_x0(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        u = torch.rand((*shape, 1), dtype=torch.float64, generator=generator, device=generator.device)
        return choose(self.initial, u)

    def log_x0(self, x: Tensor) -> Tensor:
        return self.initial.log()[x[..., 0].long()]

    def sample_x(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(x.shape, dtype=torch.float64, generator=generator, device=generator.device)
        return choose(self.transition[x[..., 0].long()], u)

    def log_m(self, t: int, x: Tensor, x_next: Tensor) -> Tensor:
        return self.transition.log()[x[..., 0].long(), x_next[..., 0].long()]

    def log_m_bound(self, t: int) -> Tensor:
        return self.transition.max().log()

    def sample_y(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(x.shape, dtype=torch.float64, generator=generator, device=generator.device)
        return choose(self.emission[x[..., 0].long()], u)

    def log_g(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        return self.emission.log()[x[..., 0].long(), y[..., 0].long()]

    def check(self, y: Tensor) -> None:
        symbols = self.emission.shape[-1]
        bad = torch.isfinite(y) & ((y != y.round()) | (y < 0) | (y >= symbols))
        if bad.any():
            where = bad.nonzero()[0].tolist()
            raise DataError(f"y{where} is {float(y[tuple(where)])}: the model emits the symbols 0 to {symbols - 1}.")


def choose(p: Tensor, u: Tensor) -> Tensor:
    """The state that a uniform number `[..., 1]` falls on under probabilities `[..., K]`, `[..., 1]`."""
    return (u >= p.detach().cumsum(-1)[..., :-1]).sum(-1, keepdim=True).double()


def probabilities(value: Tensor, name: str) -> Tensor:
    """Rows that sum to one, float64; raises ConfigError."""
    p = torch.as_tensor(value, dtype=torch.float64)
    if p.dim() == 0 or not bool((p >= 0.0).all()) or not torch.allclose(p.detach().sum(-1), torch.ones((), dtype=p.dtype), atol=1e-8):
        raise ConfigError(f"{name} holds no probabilities: its entries must be at least 0 and its rows sum to 1.")
    return p


class NonlinearGrowth(StateSpaceModel):
    """x' = x/2 + 25 x / (1 + x^2) + 8 cos(1.2 t) + N(0, q), y = x^2 / 20 + N(0, r): two modes, and it depends on t (Gordon et al. 1993)."""

    def __init__(self, q: Value = 10.0, r: Value = 1.0, p0: Value = 5.0):
        self.q, self.r, self.p0 = (parameter(v, name, positive=True) for v, name in ((q, "q"), (r, "r"), (p0, "p0")))

    def sample_x0(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        z = normal((*shape, 1), generator)
        return per_chain(self.p0.sqrt(), z) * z

    def log_x0(self, x: Tensor) -> Tensor:
        return log_gaussian(x, self.p0)

    def move(self, t: int, x: Tensor) -> Tensor:
        """Where the state goes without noise."""
        return 0.5 * x + 25.0 * x / (1.0 + x.square()) + 8.0 * math.cos(1.2 * t)

    def sample_x(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.move(t, x) + per_chain(self.q.sqrt(), x) * normal(x.shape, generator)

    def log_m(self, t: int, x: Tensor, x_next: Tensor) -> Tensor:
        return log_gaussian(x_next - self.move(t, x), self.q)

    def sample_y(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.square() / 20.0 + per_chain(self.r.sqrt(), x) * normal(x.shape, generator)

    def log_g(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        return log_gaussian(y - x.square() / 20.0, self.r)


class ChaoticNetwork(StateSpaceModel):
    """x' = x + (step / tau) (gain W tanh(x) - x) + N(0, q I), y = x + s * Student's t: a recurrent network seen through heavy tails.

    `w` `[d, d]` are its weights; they and the other parameters can be learned. Deviations are `q` in variance and `s` in scale.
    """

    homogeneous = True

    def __init__(
        self, w: Tensor, gain: Value = 2.5, step: float = 0.001, tau: float = 0.025, q: Value = 0.01, s: Value = 0.1, freedom: float = 2.0
    ):
        self.w, self.step, self.tau = matrix(w, "w"), step, tau
        self.freedom = float(parameter(freedom, "freedom", positive=True))
        if self.w.shape[-2] != self.w.shape[-1]:
            raise ConfigError(f"w is {self.w.shape[-2]} x {self.w.shape[-1]}: the weights of a recurrent network are square.")
        self.dx = self.dy = self.w.shape[-1]
        self.gain = parameter(gain, "gain")
        self.q, self.s = parameter(q, "q", positive=True), parameter(s, "s", positive=True)

    def sample_x0(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return normal((*shape, self.dx), generator)

    def log_x0(self, x: Tensor) -> Tensor:
        return log_gaussian(x, 1.0)

    def move(self, x: Tensor) -> Tensor:
        """Where the state goes without noise."""
        return x + self.step / self.tau * (per_chain(self.gain, x) * apply(self.w, x.tanh()) - x)

    def sample_x(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.move(x) + per_chain(self.q.sqrt(), x) * normal(x.shape, generator)

    def log_m(self, t: int, x: Tensor, x_next: Tensor) -> Tensor:
        return log_gaussian(x_next - self.move(x), self.q)

    def sample_y(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        u, v = torch.rand((2, *x.shape), dtype=torch.float64, generator=generator, device=generator.device)
        tails = (self.freedom * ((1.0 - u).pow(-2.0 / self.freedom) - 1.0)).sqrt()  # Bailey 1994: Student's t from two uniforms
        return x + per_chain(self.s, x) * tails * (2.0 * math.pi * v).cos()

    def log_g(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        f, s = self.freedom, per_chain(self.s, x)
        constant = math.lgamma(0.5 * (f + 1.0)) - math.lgamma(0.5 * f) - 0.5 * math.log(math.pi * f)
        return (constant - s.log() - 0.5 * (f + 1.0) * (((y - x) / s).square() / f).log1p()).sum(-1)
