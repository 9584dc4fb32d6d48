"""The losses of alignment as pure functions of log-probabilities: one table of margin losses, and what the methods make of it.

Conventions of all of them: tensors `[..., B]`, one entry a row of the batch, any leading axes being copies; what comes back is one
loss a row, unreduced: the caller averages. Log-probabilities are sums over the completion's tokens in nats (the end token among them,
the prompt not), rewards are in their own unit. `beta` and other settings are numbers. ConfigError where last axes disagree, which
broadcasting would hide, or a setting is outside its range.

Sources: DPO, Rafailov et al., arXiv 2305.18290v3; IPO, Azar et al., 2310.12036v2; SLiC (hinge), Zhao et al., 2305.10425v1; rDPO, Ray
Chowdhury et al., 2403.00409; RPO, Liu et al., 2405.16436v3; CoPG, Flet-Berliac et al., 2406.19185; INPO, Zhang et al., 2407.00617.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from surefoot.errors import ConfigError

MarginLoss = Callable[[Tensor], Tensor]
"""A loss of the margin x by which the recorded winner leads; small where x is large."""

SftForm = Literal["sum", "mean"]


def log_ratio(logp_w: Tensor, logp_l: Tensor, ref_w: Tensor, ref_l: Tensor) -> Tensor:
    """h = (log pi(w) - log ref(w)) - (log pi(l) - log ref(l)), `[..., B]`: antisymmetric; beta h is the implicit reward margin."""
    _same_rows(logp_w, logp_l, ref_w, ref_l)
    return (logp_w - ref_w) - (logp_l - ref_l)


# --- losses of a margin x = beta h -------------------------------------------------------------------------------------


def dpo(x: Tensor) -> Tensor:
    """-log sigmoid(x): the pair was drawn by Bradley and Terry's law."""
    return -logsigmoid(x)  # softplus(-x) is linear beyond 20, which float64 can tell


def ipo(x: Tensor) -> Tensor:
    """(x - 1/2)^2. With x = beta h this is IPO's (h - 1/(2 beta))^2 times beta^2."""
    return squared_margin(x, 0.5)


def hinge(x: Tensor) -> Tensor:
    """max(0, 1 - x), SLiC's."""
    return (1.0 - x).clamp_min(0.0)


def probit(x: Tensor) -> Tensor:
    """-log Phi(x): the pair was drawn by Thurstone's law."""
    return -torch.special.log_ndtr(x)


MARGIN_LOSSES: dict[str, MarginLoss] = {"dpo": dpo, "ipo": ipo, "hinge": hinge, "probit": probit}


def robust(loss: MarginLoss, x: Tensor, flip_rate: float) -> Tensor:
    """rDPO's transform, [(1 - eps) l(x) - eps l(-x)] / (1 - 2 eps): over labels that are flipped with probability eps its mean is l's.

    Unbounded below for eps > 0: negative values are as they should be.
    """
    eps = check_flip_rate(flip_rate)
    if eps == 0.0:
        return loss(x)
    return ((1.0 - eps) * loss(x) - eps * loss(-x)) / (1.0 - 2.0 * eps)


def conservative(loss: MarginLoss, x: Tensor, flip_rate: float) -> Tensor:
    """(1 - eps) l(x) + eps l(-x): label smoothing, cDPO where l is DPO's. Bounded below, and biased."""
    eps = check_flip_rate(flip_rate)
    return (1.0 - eps) * loss(x) + eps * loss(-x) if eps else loss(x)


def squared_margin(d: Tensor, target: Tensor | float) -> Tensor:
    """(d - target)^2."""
    return (d - target).square()


def check_flip_rate(flip_rate: float, name: str = "flip_rate") -> float:
    """Itself. Raises ConfigError outside [0, 1/2), where labels say nothing, or the opposite."""
    if not 0.0 <= flip_rate < 0.5:
        raise ConfigError(f"{name} is {flip_rate}: it must be at least 0 and below 0.5, where labels say nothing.")
    return flip_rate


# --- likelihood --------------------------------------------------------------------------------------------------------


def sft(logp: Tensor, lengths: Tensor | None = None, form: SftForm = "sum") -> Tensor:
    """-log pi(y), or with form "mean" that by `lengths` `[..., B]`, the number of completion tokens: a mean a row, not a batch."""
    if form == "sum":
        return -logp
    if form != "mean":
        raise ConfigError(f"the SFT term's form is {form!r}: it must be sum or mean.")
    if lengths is None:
        raise ConfigError("the mean form of the SFT term needs the lengths of the completions.")
    _same_rows(logp, lengths)
    return -logp / lengths.clamp_min(1)


def rpo(
    x: Tensor,
    logp_b: Tensor,
    eta: float,
    beta: float,
    *,
    lengths: Tensor | None = None,
    form: SftForm = "sum",
    loss: MarginLoss = dpo,
) -> Tensor:
    """RPO: the preference loss of x = beta h, plus the SFT term on the baseline's completions `logp_b`, `[..., B]`.

    Form "sum" weights it by eta beta (Algorithm 2), form "mean" by eta alone (Appendix F): eta is of another size there.
    """
    _same_rows(x, logp_b)
    if not 0.0 <= eta < float("inf"):
        raise ConfigError(f"eta is {eta}: it must be finite and not negative.")
    if eta == 0.0:
        return loss(x)  # DPO, to the last bit
    return loss(x) + (eta * beta if form == "sum" else eta) * sft(logp_b, lengths, form)


def best_of_n(logp: Tensor, reward: Tensor) -> Tensor:
    """-log pi of the best of each group, `[..., N] -> [...]`; the first of equals."""
    _same_rows(logp, reward)
    return -logp.gather(-1, reward.argmax(-1, keepdim=True).expand(*logp.shape[:-1], 1)).squeeze(-1)


def reward_weighted(logp: Tensor, reward: Tensor, beta: float, largest: float | None = None) -> Tensor:
    """-exp(reward / beta) log pi(y), `[..., B]`; `largest` bounds the weight. `beta` infinite is plain likelihood."""
    _same_rows(logp, reward)
    weight = (reward / beta).exp()
    return -(weight if largest is None else weight.clamp_max(largest)) * logp


# --- regression of log-ratios on rewards and preferences ------------------------------------------------------------------


def copg(d: Tensor, reward_difference: Tensor, beta: float) -> Tensor:
    """CoPG of a pair, (dR - beta d)^2 / (2 beta), with d the log-ratio of the pair and dR = R1 - R2, `[..., B]`."""
    _same_rows(d, reward_difference)
    return 0.5 * beta * squared_margin(d, reward_difference / beta)


def copg_policy_gradient(d: Tensor, reward_difference: Tensor, beta: float) -> Tensor:
    """The same gradient as a policy gradient's: the difference of regularised rewards, held fixed, times d. Its value means nothing."""
    _same_rows(d, reward_difference)
    return -(reward_difference - beta * d).detach() * d


def copg_group(regularised_rewards: Tensor, beta: float) -> Tensor:
    """CoPG of k completions of a prompt: k / (k - 1) sum_i (R_b(y_i) - mean)^2 / (2 beta), `[..., k] -> [...]`.

    `regularised_rewards` are R - beta (log pi - log ref), differentiated through. For k = 2 it is `copg`.
    """
    k = regularised_rewards.shape[-1]
    if k < 2:
        raise ConfigError(f"a group has {k} completion: CoPG contrasts at least two of each prompt.")
    apart = regularised_rewards - regularised_rewards.mean(-1, keepdim=True)
    return k / (k - 1) * apart.square().sum(-1) / (2.0 * beta)


def inpo(h: Tensor, eta: float) -> Tensor:
    """(h - 1/(2 eta))^2, h being `log_ratio` against the anchor of both completions."""
    return squared_margin(h, 0.5 / eta)


def anchor(ref: Tensor, cur: Tensor, tau: float, eta: float) -> Tensor:
    """INPO's anchor, tau/eta log ref(y) + (1 - tau/eta) log pi_t(y), `[..., B]`: in the place of the reference's log-probability."""
    _same_rows(ref, cur)
    if not 0.0 <= tau <= eta or eta <= 0.0:
        raise ConfigError(f"tau is {tau} and eta {eta}: 0 <= tau <= eta and eta > 0.")
    return tau / eta * ref + (1.0 - tau / eta) * cur


def _same_rows(*tensors: Tensor) -> None:
    """Raises ConfigError where last axes differ: [B] against [B, 1] would broadcast to [B, B]."""
    shapes = [tuple(t.shape) for t in tensors]
    if len({shape[-1:] for shape in shapes}) > 1:
        raise ConfigError(f"a loss got tensors of shapes {', '.join(map(str, shapes))}: their last axes must be the same rows.")
