"""Token-level PPO as pure functions: rewards with the KL inside, advantages, whitening, clipped losses, the KL controller.

The pieces that PPO on text is made of since Ziegler et al., "Fine-Tuning Language Models from Human Preferences", arXiv 1909.08593v2
(KL in the reward, adaptive controller), in the order of Stiennon et al., arXiv 2009.01325v3; advantages are those of Schulman et al.,
arXiv 1506.02438v6. DR-PO (arXiv 2404.08495) and PF-PPO (arXiv 2409.06957) are PPO with these.

Tensors are `[..., B, T]`: B responses side by side, T positions, leading axes copies. `mask` is True where a response has a token; a
*position mask* may leave out some of them (forced ones, which the policy did not draw). Rows may have padding on either side, as long as
a response's own tokens are consecutive.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from surefoot.errors import ConfigError
from surefoot.methods.online.ppo import gae

Average = Literal["tokens", "responses"]

EPSILON = 1e-8  # under the root of a variance


# --- rewards and advantages -------------------------------------------------------------------------------------------


def token_rewards(logprob: Tensor, reference: Tensor, score: Tensor, mask: Tensor, kl_coef: float | Tensor) -> Tensor:
    """R_t = -kl_coef (log pi_old - log pi_ref)(y_t), and the score of the whole response on top at its last token, `[..., B, T]`.

    `logprob`, `reference` and `mask` `[..., B, T]`, `score` `[..., B]`; 0 outside the mask. A response without tokens gets nothing.
    """
    check_tokens(logprob=logprob, reference=reference, mask=mask)
    if score.shape != logprob.shape[:-1]:
        raise ValueError(f"score is {tuple(score.shape)}: it must be {tuple(logprob.shape[:-1])}, one a response.")
    penalty = -kl_coef * (logprob - reference) * mask
    return penalty + score.unsqueeze(-1) * last_token(mask)


def last_token(mask: Tensor) -> Tensor:
    """1 at the last position of each row of `mask` `[..., T]` that is True, 0 elsewhere; as float."""
    after = mask.flip(-1).long().cumsum(-1).flip(-1)  # tokens from here on
    return (mask & (after == 1)).float()


def token_advantages(reward: Tensor, value: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantages along the response and the returns A + V, both `[..., B, T]`, 0 outside the mask.

    delta_t = R_t + gamma V_{t+1} - V_t with V = 0 beyond the last token, A_t = delta_t + gamma lam A_{t+1}.
    """
    check_tokens(reward=reward, value=value, mask=mask)
    reward, value = (reward * mask).mT, (value * mask).mT  # [..., T, B]: the recursion is along the last axis but one
    next_value = torch.cat([value[..., 1:, :], torch.zeros_like(value[..., :1, :])], -2)
    next_value, never = next_value * mask.mT, torch.zeros_like(value)  # padding on the left is worth nothing
    advantage = gae(reward, value, next_value, never, never, gamma, lam).mT * mask
    return advantage, (advantage + value.mT) * mask


def whitened(x: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
    """(x - mean) / sqrt(population variance + 1e-8) over all tokens `[..., B, T]` of a copy; the mean is put back with `keep_mean`.

    0 outside the mask.
    """
    check_tokens(x=x, mask=mask)
    mean = token_mean(x, mask)[..., None, None]
    variance = token_mean((x - mean).square(), mask)[..., None, None]
    scaled = (x - mean) * (variance + EPSILON).rsqrt()
    return (scaled + mean if keep_mean else scaled) * mask


# --- losses -----------------------------------------------------------------------------------------------------------


def clipped_policy_loss(logprob: Tensor, old_logprob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """max(-rho A, -clip(rho, 1 - clip, 1 + clip) A) of each token with rho = pi / pi_old, `[..., B, T]`."""
    check_tokens(logprob=logprob, old_logprob=old_logprob, advantage=advantage)
    ratio = (logprob - old_logprob).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1.0 - clip, 1.0 + clip))


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, clip: float) -> Tensor:
    """1/2 max((V - ret)^2, (V_old + clip(V - V_old, -clip, clip) - ret)^2) of each token, `[..., B, T]`."""
    check_tokens(value=value, old_value=old_value, returns=returns)
    near = old_value + (value - old_value).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - returns).square(), (near - returns).square())


def token_mean(x: Tensor, mask: Tensor) -> Tensor:
    """sum(mask x) / sum(mask) over all tokens of a copy: `[...]` of `[..., B, T]`; 0 where the mask has none."""
    return (x * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp_min(1)


def token_weights(mask: Tensor, average: Average, times: Tensor | None = None) -> Tensor:
    """Weights `[..., B, T]` whose sum with x is its mean over all "tokens", or over a response's tokens and then over "responses".

    `times` `[..., B]`: how often each response is there (once if not given).
    """
    times = torch.ones(mask.shape[:-1], device=mask.device) if times is None else times
    if average == "tokens":
        often = mask * times.unsqueeze(-1)
        return often / often.sum((-2, -1), keepdim=True).clamp_min(1)
    share = times / times.sum(-1, keepdim=True)
    return mask / mask.sum(-1, keepdim=True).clamp_min(1) * share.unsqueeze(-1)


# --- one batch of roll-outs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RolloutTerms:
    """How a batch of roll-outs becomes rewards and advantages, and how far a step on it may go."""

    gamma: float = 1.0
    """Discount of later rewards."""
    gae_lambda: float = 0.95
    """Between one-step advantages (0) and sums of rewards (1)."""
    clip: float = 0.2
    """How far the ratio of new to old probability of a token may move from 1 and still gain."""
    value_clip: float = 0.2
    """How far a value may move from the old one and still come nearer to the return."""
    whiten_rewards: bool = True
    """Scale the rewards of a batch's tokens to standard deviation 1, their mean kept."""

    def __post_init__(self) -> None:
        for name in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it lies between 0 and 1.")
        for name in ("clip", "value_clip"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")


@dataclass(frozen=True)
class TokenRollouts:
    """What PPO learns from: B responses, `[..., B, T]` each."""

    old_logprob: Tensor  # under the policy that drew them (of forced tokens too)
    old_value: Tensor
    advantage: Tensor  # whitened over all tokens of the batch
    returns: Tensor
    mask: Tensor  # True on the tokens of a response
    drawn: Tensor  # True on those that the policy drew itself: the only ones that its loss is about

    @staticmethod
    def of(
        logprob: Tensor,
        reference: Tensor,
        value: Tensor,
        score: Tensor,
        mask: Tensor,
        drawn: Tensor,
        kl_coef: float | Tensor,
        terms: RolloutTerms,
    ) -> TokenRollouts:
        """Rewards, advantages and returns of a batch.

        `score` `[..., B]`, `kl_coef` a number or one a copy `[..., 1, 1]`, the rest `[..., B, T]`.
        """
        reward = token_rewards(logprob, reference, score, mask, kl_coef)
        if terms.whiten_rewards:
            reward = whitened(reward, mask, keep_mean=True)
        advantage, returns = token_advantages(reward, value, mask, terms.gamma, terms.gae_lambda)
        return TokenRollouts(logprob, value, whitened(advantage, mask), returns, mask, drawn & mask)

    def select(self, rows: Tensor) -> TokenRollouts:
        """Some of the responses, `rows` `[b]` int64, in that order and as often as they are named; without copies."""
        return TokenRollouts(*(getattr(self, field.name)[rows] for field in fields(self)))

    def losses(self, logprob: Tensor, value: Tensor, terms: RolloutTerms) -> tuple[Tensor, Tensor]:
        """The policy's and the critic's loss of each token now, `[..., B, T]`, to be averaged over `drawn` and over `mask`."""
        policy_loss = clipped_policy_loss(logprob, self.old_logprob, self.advantage, terms.clip)
        return policy_loss, clipped_value_loss(value, self.old_value, self.returns, terms.value_clip)


# --- KL control -------------------------------------------------------------------------------------------------------


def adapted_kl_coef(coefficient: Tensor, kl: Tensor, responses: int, target: float, horizon: float) -> Tensor:
    """coefficient (1 + clip(KL / target - 1, -0.2, 0.2) responses / horizon): of arXiv 1909.08593v2, section 2.2.

    `kl` is the mean KL of the `responses` since the last change, in nats a response.
    """
    return coefficient * (1.0 + (kl / target - 1.0).clamp(-0.2, 0.2) * responses / horizon)


def check_tokens(**tensors: Tensor) -> None:
    """Raises ValueError unless all are of one shape `[..., B, T]`."""
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) < 2:
        raise ValueError(f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}: all must be of one shape [..., B, T].")
