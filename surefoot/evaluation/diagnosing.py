"""RA-NLD: the directions of the observation along which a policy's decisions are least stable.

Korkmaz, "Understanding and Diagnosing Deep Reinforcement Learning" (ICML 2024, PMLR 235, arXiv 2406.16979v1). At a state s with greedy
action a* the cross-entropy of a* falls off fastest along

    g(s) = grad_{s'} -log pi_T(a* | s') at s' = s,   pi_T(s') = softmax(Q(s') / T), a* held fixed                              (1)

and over a set S of states the principal direction G_S is the unit eigenvector of the largest eigenvalue of L(S) = sum_s g(s) g(s)^T.
Whether two sets share it says their feature correlation quotient,

    Lambda(S', S) = G_{S'}^T L(S) G_{S'} / G_S^T L(S) G_S, between 0 and 1:                                                     (2)

the share of what the best direction for S finds that the best one for S' finds there too. It is not symmetric.

`gradients` takes (1) of any differentiable policy at states that it visited; `principal` and `quotient` are pure. L is never formed
where it would be larger than the matrix of gradients: its eigenvectors come from the Gram matrix then.

Departures: continuous actions, which the paper has not, take the gradient of each action (in half ranges) in the place of (1): G_S is
then the unit direction that moves the decision most, in the mean of squares. Observations may be counted in units of their own
(`unit`), so that metres and radians can be compared. The exact form of (2) is ours: the one that fits the paper's bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from surefoot.data.spec import Discrete
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation.visited import Visited
from surefoot.policies.base import Policy
from surefoot.policies.deciding import decide

# --- gradients --------------------------------------------------------------------------------------------------------


def cross_entropies(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """J(s) = -log softmax(Q / T)[a*], a* the greedy action, which is held fixed: `[n]` of scores `[n, A]`."""
    if scores.dim() != 2:
        raise ValueError(f"scores {tuple(scores.shape)} must be [n, A].")
    return cross_entropy(scores / temperature, scores.detach().argmax(-1), reduction="none")


def cross_entropy_gradients(q: Callable[[Tensor], Tensor], x: Tensor, temperature: float = 1.0) -> Tensor:
    """g(s) (Eq. 1) at states `x` `[n, ...]` of `q`, `[n, ...] -> [n, A]`: `[n, d]`. `q` must treat each row by itself."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return _slopes(cross_entropies(q(x), temperature).sum(), x, retain=False)


def gradients(policy: Policy, states: Visited, *, temperature: float = 1.0, unit: Tensor | None = None, chunk: int = 256) -> Tensor:
    """What `policy` is sensitive to at each of n states, `[n, r, d]`: g(s) with r = 1, of A continuous actions one row each.

    `unit` `[d]`: what one step along each number of the observation is (None: 1). `policy`: one policy, as `Visited` is of one.
    Raises ConfigError for a temperature that is not positive, PolicyError for a policy without gradients or whose gradients are not
    finite.
    """
    if not temperature > 0.0:
        raise ConfigError(f"temperature is {temperature}: it must be positive.")
    check_differentiable(policy)
    rows = []
    for at in torch.arange(len(states)).split(chunk):
        memory = None if states.memory is None else {name: value[at] for name, value in states.memory.items()}
        with torch.enable_grad():
            x = states.obs[at].float().requires_grad_()
            shown = decide(policy, x, memory)
            if not shown.requires_grad:
                raise no_gradient(policy)
            parts = [cross_entropies(shown, temperature)] if isinstance(policy.spec.action, Discrete) else list(shown.unbind(-1))
            rows.append(torch.stack([_slopes(part.sum(), x, retain=part is not parts[-1]) for part in parts], 1))
    found = torch.cat(rows)
    if not torch.isfinite(found).all():
        state = int((~torch.isfinite(found)).flatten(1).any(1).nonzero()[0])
        raise PolicyError(f"the policy's gradient at state {state} of {len(states)} is not finite: did its training diverge?")
    return found if unit is None else found * unit


def check_differentiable(policy: Policy) -> None:
    """Raises PolicyError unless the policy can give gradients."""
    if not policy.differentiable:
        raise no_gradient(policy)


def no_gradient(policy: Policy) -> PolicyError:
    return PolicyError(
        f"the {type(policy).__name__} policy gives no gradient with respect to its observation, which a diagnosis needs: diagnose the"
        " network itself (a run folder, an sb3 file, or python: with a torch module)."
    )


def _slopes(of: Tensor, x: Tensor, *, retain: bool) -> Tensor:
    """Gradient of a sum over states in the states, one a state: `[n, d]`."""
    (slope,) = torch.autograd.grad(of, x, retain_graph=retain, allow_unused=True)
    return (torch.zeros_like(x) if slope is None else slope).flatten(1)


# --- directions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Directions:
    """The spectrum of L(S) and its first eigenvector; float64."""

    direction: np.ndarray  # [d] G_S, of unit length; its entry of largest magnitude is positive
    eigenvalues: np.ndarray  # [k] the largest ones, falling
    trace: float  # sum of all eigenvalues, sum_s |g(s)|^2
    norms: np.ndarray  # [n] |g(s)| of each state

    @property
    def explained(self) -> float:
        """Share of the sensitivity that lies in the direction, lambda_1 / trace. 1 / d where no direction stands out."""
        return float(self.eigenvalues[0] / self.trace)

    @property
    def variation(self) -> float:
        """Coefficient of variation of |g(s)| over the states: how much the instability oscillates, whatever its scale."""
        return float(self.norms.std() / self.norms.mean())

    @property
    def states_90(self) -> int:
        """The fewest states that carry 90 % of the trace: few, where a policy is unstable near the borders of its decisions alone."""
        carried = np.sort(self.norms**2)[::-1].cumsum()
        return int(np.searchsorted(carried, 0.9 * carried[-1]) + 1)


def principal(gradients: Tensor, k: int = 10) -> Directions:
    """The principal directions of gradients `[n, d]`, or `[n, r, d]` with r rows a state, in float64.

    Raises DataError if there are none, or if they are zero everywhere.
    """
    rows = _rows(gradients)
    n, d = rows.shape
    trace = float(rows.square().sum())
    if trace == 0.0:
        raise DataError(
            f"the gradient is zero at all {len(gradients)} states, so there is no direction: the policy is saturated, or does not look at"
            " what it observes."
        )
    if d <= n:
        values, vectors = torch.linalg.eigh(rows.T @ rows)  # rising
        first = vectors[:, -1]
    else:  # the same eigenvalues: if (G G^T) u = lambda u, then G^T u is an eigenvector of G^T G
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        first = rows.T @ vectors[:, -1]
    first = first / first.norm()
    first = first * first[first.abs().argmax()].sign()  # an eigenvector's sign is arbitrary: this one is the same each time
    norms = rows.square().sum(-1).reshape(len(gradients), -1).sum(-1).sqrt()
    return Directions(first.numpy(), values.flip(0)[:k].clamp_min(0.0).numpy(), trace, norms.numpy())


def quotient(direction: np.ndarray, gradients: Tensor, reference: Directions | None = None) -> float:
    """Lambda(S', S) (Eq. 2) of the `direction` `[d]` of S' and the gradients of S; `reference`: `principal(gradients)`, if known."""
    rows, best = _rows(gradients), (reference or principal(gradients)).eigenvalues[0]
    if direction.shape != (rows.shape[1],):
        raise ValueError(f"a direction of {direction.shape} does not go with gradients of {tuple(gradients.shape)}.")
    found = (rows @ torch.as_tensor(direction, dtype=torch.float64)).square().sum()
    return min(float(found) / float(best), 1.0)


def _rows(gradients: Tensor) -> Tensor:
    if gradients.dim() not in (2, 3) or not gradients.numel():
        raise DataError(f"gradients of shape {tuple(gradients.shape)} are not [n, d] or [n, r, d]: at least one state is needed.")
    return gradients.detach().cpu().double().reshape(-1, gradients.shape[-1])


# --- what is seen in them -----------------------------------------------------------------------------------------------


def fourier(image: np.ndarray) -> np.ndarray:
    """|FFT2| of a direction over an image's rows and columns `[..., H, W]`, the constant in the middle."""
    return np.abs(np.fft.fftshift(np.fft.fft2(image), axes=(-2, -1)))


def spread(magnitudes: np.ndarray) -> float:
    """How evenly a spectrum is spread: the entropy of its power as a share of the largest there can be; 1 where it is flat."""
    power = (magnitudes**2).ravel() / (magnitudes**2).sum()
    return float(-(power[power > 0.0] * np.log(power[power > 0.0])).sum() / np.log(power.size))


def by_step(values: np.ndarray, states: Visited) -> np.ndarray:
    """Mean of `values` `[n]` over the episodes at each step, `[T]`; NaN at steps of which there is no state."""
    total, count = (np.bincount(states.step, weights) for weights in (values, np.ones(len(values))))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
