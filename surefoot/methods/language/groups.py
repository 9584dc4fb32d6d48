"""Losses of a group: N responses to one prompt, their rewards, and what each of the usual methods does with them.

Of Tajwar et al., "Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data", arXiv 2404.14367v3:
supervised learning on the best (best-of-N, and with N = 2 Pref-FT), the same with the others pushed down, reward-weighted regression, DPO
and IPO over all pairs of a group, REINFORCE and PPO. For one prompt, with l_i = log pi(y_i|x), l0_i that of the reference, r_i the reward,
b the best and d_ij = (l_i - l0_i) - (l_j - l0_j):

    bon        -l_b
    neg_bon    -(l_b - w mean_{i != b} l_i)                            (or their sum, or the worst alone)
    rwr        -mean_i exp(r_i / temperature) l_i
    dpo        mean over pairs r_i - r_j > gap of -log sigmoid(beta d_ij)
    ipo        mean over the same of (d_ij - margin)^2                 (margin = 1 / (2 tau); the official bandit code calls it beta)
    reinforce  -mean_i A_i l_i
    ppo        -mean_i min(rho_i A_i, clip(rho_i, 1 - c, 1 + c) A_i),  rho_i = exp(l_i - old_i)

Tensors are `[..., B, N]`, a group on the last axis; losses are `[..., B]`, for the caller to average. Only l carries a gradient.
Departures: a group without a pair (all rewards equal) has a DPO or IPO loss of 0, where the official code's mean is over the pairs of
the whole batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from surefoot.methods.language.losses import best_of_n, dpo, reward_weighted, squared_margin
from surefoot.nn.running import RunningMoments

Weighting = Literal["exp", "sigmoid"]

Pushed = Literal["mean", "sum", "worst"]
"""Which of the others "neg_bon" pushes down: their mean, their sum, or the worst alone."""


def check_groups(*tensors: Tensor) -> None:
    """Raises ValueError unless all are `[..., B, N]` of one shape."""
    if len({x.shape for x in tensors}) > 1 or tensors[0].dim() < 2:
        raise ValueError(f"{', '.join(str(tuple(x.shape)) for x in tensors)}: they must all be [..., B, N].")


# --- supervised (best-of-N itself is `losses.best_of_n`) ----------------------------------------------------------------


def negative_best_of_n(logp: Tensor, reward: Tensor, weight: float, pushed: Pushed = "mean", reference: Tensor | None = None) -> Tensor:
    """-(l_b - weight * the others'): best-of-N that pushes down what it does not choose, `[..., B]`.

    With `reference` l - l0 stands for l, which moves the value and no gradient. Diverges where the others' weights come to 1.
    """
    check_groups(logp, reward)
    x = logp if reference is None else logp - reference
    chosen = best_of_n(x, reward)
    if pushed == "worst":
        return chosen + weight * _at(x, reward.argmin(-1))
    others = x.sum(-1) + chosen
    return chosen + weight * (others / (x.shape[-1] - 1) if pushed == "mean" else others)


def reward_weighted_group(
    logp: Tensor, reward: Tensor, temperature: float, form: Weighting = "exp", largest: float | None = None
) -> Tensor:
    """-mean_i w_i l_i with w = exp(r / temperature), at most `largest`, or sigmoid(r / temperature): `[..., B]`.

    Peters and Schaal 2007. With temperature -> inf it is plain likelihood of the samples.
    """
    check_groups(logp, reward)
    if form == "sigmoid":
        return -((reward / temperature).sigmoid() * logp).mean(-1)
    return reward_weighted(logp, reward, temperature, largest).mean(-1)


# --- pairs ------------------------------------------------------------------------------------------------------------


def pairs(reward: Tensor, gap: float = 0.0) -> Tensor:
    """Which (i, j) of a group are a pair: r_i - r_j > gap, bool `[..., B, N, N]`."""
    return reward.unsqueeze(-1) - reward.unsqueeze(-2) > gap


def pair_differences(log_ratio: Tensor) -> Tensor:
    """d_ij = x_i - x_j of log-ratios x = l - l0: `[..., B, N, N]` of `[..., B, N]`."""
    return log_ratio.unsqueeze(-1) - log_ratio.unsqueeze(-2)


def group_dpo(log_ratio: Tensor, reward: Tensor, beta: float, gap: float = 0.0) -> Tensor:
    """DPO on every pair of a group, `[..., B]`; a group of two is DPO on the logged pair (Rafailov et al., arXiv 2305.18290v3, Eq. 7)."""
    check_groups(log_ratio, reward)
    return _mean_of_pairs(dpo(beta * pair_differences(log_ratio)), reward, gap)


def group_ipo(log_ratio: Tensor, reward: Tensor, margin: float, gap: float = 0.0) -> Tensor:
    """IPO on every pair of a group, `[..., B]` (Azar et al., arXiv 2310.12036v2, Eq. 17, with margin = 1 / (2 tau))."""
    check_groups(log_ratio, reward)
    return _mean_of_pairs(squared_margin(pair_differences(log_ratio), margin), reward, gap)


def _mean_of_pairs(loss: Tensor, reward: Tensor, gap: float) -> Tensor:
    mask = pairs(reward, gap)
    return torch.where(mask, loss, 0.0).sum((-2, -1)) / mask.sum((-2, -1)).clamp_min(1)


# --- policy gradients (PPO's is `methods.online.ppo.clipped_surrogate`, over whole responses) -----------------------------


def reinforce(logp: Tensor, advantage: Tensor) -> Tensor:
    """-mean_i A_i l_i, whose gradient is the policy gradient where the policy itself drew the group: `[..., B]`."""
    check_groups(logp, advantage)
    return -(advantage * logp).mean(-1)


def regularised(reward: Tensor, old: Tensor, reference: Tensor, kl_weight: float = 0.0, entropy_weight: float = 0.0) -> Tensor:
    """r - kl_weight (old - l0) - entropy_weight old, `[..., B, N]`.

    Their policy gradient is that of E[r] - kl_weight KL(pi||ref) + entropy_weight H(pi).
    """
    return reward - kl_weight * (old - reference) - entropy_weight * old


def group_advantage(reward: Tensor, eps: float = 1e-12) -> Tensor:
    """(r - mean) / (population standard deviation + eps) within each group, `[..., B, N]`."""
    return (reward - reward.mean(-1, keepdim=True)) / (reward.std(-1, correction=0, keepdim=True) + eps)


class MovingNormaliser(nn.Module):
    """A = (r - m) / (s + eps) with moments of every reward that it was given ("running"), or r - m with m a moving average ("moving").

    Of each of the `copies` apart; rewards `[*copies, B, N]`.
    """

    average: Tensor  # [*copies], the moving average
    begun: Tensor  # []

    def __init__(self, copies: tuple[int, ...] = (), decay: float = 0.9, device: str = "cpu"):
        super().__init__()
        self.decay = decay
        self.moments = RunningMoments((*copies, 1), device)
        self.register_buffer("average", torch.zeros(copies, dtype=torch.float64, device=device))
        self.register_buffer("begun", torch.zeros((), dtype=torch.float64, device=device))

    @torch.no_grad()
    def add(self, reward: Tensor) -> None:
        """Take in rewards that were not seen before."""
        self.moments.add(reward.flatten(-2).unsqueeze(-1))
        mean = reward.double().mean((-2, -1))
        self.average.copy_(torch.where(self.begun > 0, self.decay * self.average + (1.0 - self.decay) * mean, mean))
        self.begun.fill_(1.0)

    @torch.no_grad()
    def running(self, reward: Tensor, eps: float = 1e-12) -> Tensor:
        """By the mean and population deviation of all rewards so far."""
        mean, deviation = (x.squeeze(-1)[..., None, None] for x in (self.moments.mean, self._deviation()))
        return ((reward - mean) / (deviation + eps)).to(reward.dtype)

    def moving(self, reward: Tensor) -> Tensor:
        """Less the moving average of batch means alone."""
        return (reward - self.average[..., None, None]).to(reward.dtype)

    def _deviation(self) -> Tensor:
        return (self.moments.square / self.moments.count.clamp_min(1.0)).sqrt()


# --- what a group is told by ------------------------------------------------------------------------------------------


def chosen_and_rejected(log_ratio: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """l - l0 of the best and of the worst of each group: `[..., B]` each of `[..., B, N]`.

    Their difference may grow while both fall, which is why both are logged.
    """
    return _at(log_ratio, reward.argmax(-1)), _at(log_ratio, reward.argmin(-1))


def _at(x: Tensor, index: Tensor) -> Tensor:
    """The entry `index` `[..., B]` of each group."""
    return x.gather(-1, index.unsqueeze(-1)).squeeze(-1)
