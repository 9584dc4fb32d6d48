"""The forward-backward recursions of a discrete hidden Markov model: likelihood, states and transitions given the symbols, exactly.

    alpha_t(j) ~ g(j, y_t) sum_i alpha_{t-1}(i) P(i, j),      b_t(i) ~ sum_j P(i, j) g(j, y_{t+1}) b_{t+1}(j)
    P(x_t = i, x_{t+1} = j | y) ~ alpha_t(i) P(i, j) g(j, y_{t+1}) b_{t+1}(j)

Baum et al. 1970, with both scaled to sum to one at each step (Rabiner 1989), so that long series do not underflow. NaN is a missing symbol.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.state_space import observations
from surefoot.envs.state_space_models import DiscreteHMM
from surefoot.errors import DataError


@dataclass(frozen=True)
class Posterior:
    """The law of the hidden chain given a series."""

    states: Tensor  # [T, K]: P(x_t | all of y)
    transitions: Tensor  # [T-1, K, K]: P(x_t, x_{t+1} | all of y)
    filtered: Tensor  # [T, K]: P(x_t | y_0..y_t)
    log_likelihood: Tensor  # []


def forward_backward(model: DiscreteHMM, y: Tensor | np.ndarray) -> Posterior:
    """The posterior of a series of symbols `[T]` or `[T, 1]`. Raises DataError, also for a series that the model cannot emit."""
    y = observations(model, y)
    if y.dim() != 2:
        raise DataError(f"y has shape {tuple(y.shape)}: one series at a time, [T] or [T, 1].")
    symbols = y[:, 0].nan_to_num(0.0).long()
    g = torch.where(y.isnan(), 1.0, model.emission.T[symbols])  # [T, K]
    alphas: list[Tensor] = []
    log_likelihood = torch.zeros((), dtype=y.dtype)
    for t in range(len(y)):
        alpha = g[t] * (alphas[-1] @ model.transition if t > 0 else model.initial)
        scale = alpha.sum()
        if not scale > 0.0:
            raise DataError(f"y[{t}] is {float(y[t, 0])}, which has probability 0 after the symbols before it: check it, or the model.")
        log_likelihood = log_likelihood + scale.log()
        alphas.append(alpha / scale)
    later = torch.ones_like(model.initial)
    states, transitions = [alphas[-1]], []
    for t in range(len(y) - 2, -1, -1):
        joint = alphas[t].unsqueeze(1) * model.transition * (g[t + 1] * later)
        joint = joint / joint.sum()
        transitions.append(joint)
        states.append(joint.sum(1))
        later = model.transition @ (g[t + 1] * later)
        later = later / later.sum()
    pairs = torch.stack(transitions[::-1]) if transitions else model.transition[None][:0]
    return Posterior(torch.stack(states[::-1]), pairs, torch.stack(alphas), log_likelihood)
