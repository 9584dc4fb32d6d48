"""The on-policy study: one loop with three switches, of which every usual way to learn from preferences is a setting.

Tajwar et al., "Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data", ICML 2024, arXiv 2404.14367v3; official
code: Asap7772/understanding-rlhf. In every epoch N responses to each prompt are drawn and scored, and T steps descend a group loss:

    for batch in source:              # who draws, and how often a batch is used: `sampling.Sampling` (switches 1 and 2)
        learner.update(batch)         # whether what was bad is pushed down: the loss (switch 3)

The source is `Generated` for a language model, `SampledActions` where actions can be listed; the learner `GroupAligner` or `GroupBandit`.
Offline Pref-FT is `loss="bon"` with N = 2 and `on_policy=False`, online DPO `loss="dpo"` with `on_policy=True`, and so on. Losses are in
`groups.py`.

Departures: PPO here is over whole responses with a baseline; the token-level one with a value head is `token_ppo.py`. The KL penalty of
the policy gradients is part of the reward, with the log-probabilities of the draw (`groups.regularised`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from surefoot.data.completions import GroupBatch
from surefoot.errors import ConfigError
from surefoot.methods.base import Learner
from surefoot.methods.language.aligner import Aligner, Metrics, Tuning
from surefoot.methods.language.groups import (
    MovingNormaliser,
    Pushed,
    Weighting,
    chosen_and_rejected,
    group_advantage,
    group_dpo,
    group_ipo,
    negative_best_of_n,
    regularised,
    reinforce,
    reward_weighted_group,
)
from surefoot.methods.language.losses import best_of_n
from surefoot.methods.language.sampling import ActionGroups, Sampling
from surefoot.methods.language.scored import descend_groups
from surefoot.methods.online.ppo import clipped_surrogate
from surefoot.nn.distributions import Choice
from surefoot.nn.optimise import adam, descend
from surefoot.policies.language import LanguagePolicy

Loss = Literal["bon", "neg_bon", "rwr", "dpo", "ipo", "reinforce", "ppo"]
POLICY_GRADIENTS = ("reinforce", "ppo")


@dataclass(frozen=True)
class OnPolicyPreferencesConfig:
    loss: Loss = "ipo"
    """bon and rwr imitate, neg_bon, dpo and ipo push down as well, reinforce and ppo are policy gradients."""
    sampling: Sampling = field(default_factory=Sampling)
    """Who draws the responses, how many, and how often they are used."""
    beta: float = 0.1
    """dpo: how strongly it holds to the reference."""
    margin: float = 10.0
    """ipo: the target of differences of log-ratios, 1 / (2 tau) in the IPO paper's notation."""
    gap: float = 0.0
    """dpo, ipo: how much more reward the better one of a pair must have."""
    temperature: float = 0.1
    """rwr: weights are exp(reward / temperature)."""
    weighting: Weighting = "exp"
    """rwr: exp, or sigmoid of the same."""
    largest: float | None = None
    """rwr: largest weight (the official code offers 10)."""
    push: float = 0.1
    """neg_bon: weight of the push away from the others; diverges near 1."""
    pushed: Pushed = "mean"
    """neg_bon: mean or sum of the others, or the worst alone."""
    clip: float = 0.2
    """ppo: how far the ratio of new to old probability may move from 1 and still gain."""
    baseline: Literal["running", "group", "moving"] = "running"
    """reinforce, ppo: standardise rewards by all that were seen, by their own group, or take a moving average off."""
    decay: float = 0.9
    """Of that moving average."""
    kl_weight: float = 0.0
    """reinforce, ppo: of the KL to the reference, as part of the reward."""
    entropy_weight: float = 0.0
    """reinforce, ppo: of the entropy, as part of the reward."""

    def __post_init__(self) -> None:
        for name, known in (("loss", get_args(Loss)), ("weighting", get_args(Weighting)), ("pushed", get_args(Pushed))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it is one of {', '.join(known)}.")
        if self.baseline not in ("running", "group", "moving"):
            raise ConfigError(f"baseline is {self.baseline!r}: it is one of running, group, moving.")
        for name in ("beta", "margin", "temperature", "clip"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        if self.largest is not None and not self.largest > 0.0:
            raise ConfigError(f"largest is {self.largest}: a bound of weights is positive.")
        for name in ("gap", "push", "kl_weight", "entropy_weight"):
            if not getattr(self, name) >= 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        if not 0.0 <= self.decay < 1.0:
            raise ConfigError(f"decay is {self.decay}: it lies in [0, 1).")
        if self.sampling.samples < 2 and self.loss not in POLICY_GRADIENTS:
            raise ConfigError(f"samples is {self.sampling.samples}: {self.loss} compares the responses of a group, so it needs at least 2.")
        if self.push >= 1.0 and self.loss == "neg_bon":
            raise ConfigError(f"push is {self.push}: at 1 and above the push away wins, and the loss diverges.")


# --- the third switch -------------------------------------------------------------------------------------------------


def group_loss(
    config: OnPolicyPreferencesConfig, logp: Tensor, reference: Tensor, reward: Tensor, old: Tensor | None, advantage: Tensor | None
) -> Tensor:
    """The loss of each group, `[..., B]` of `[..., B, N]`. Policy gradients need advantages, and PPO the log-probabilities at the draw."""
    c = config
    match c.loss:
        case "bon":
            return best_of_n(logp, reward)
        case "neg_bon":
            return negative_best_of_n(logp, reward, c.push, c.pushed)
        case "rwr":
            return reward_weighted_group(logp, reward, c.temperature, c.weighting, c.largest)
        case "dpo":
            return group_dpo(logp - reference, reward, c.beta, c.gap)
        case "ipo":
            return group_ipo(logp - reference, reward, c.margin, c.gap)
    if advantage is None or (c.loss == "ppo" and old is None):
        raise ValueError(f"{c.loss} needs advantages, and ppo the log-probabilities of the draw too.")
    return reinforce(logp, advantage) if c.loss == "reinforce" else clipped_surrogate(logp, old, advantage, c.clip)  # type: ignore[arg-type]


def advantages(
    config: OnPolicyPreferencesConfig, seen: MovingNormaliser, reward: Tensor, reference: Tensor, old: Tensor | None, fresh: bool
) -> Tensor | None:
    """What policy gradients weight a group by, `[..., B, N]`; None for the other losses. `fresh` rewards enter the moments first."""
    c = config
    if c.loss not in POLICY_GRADIENTS:
        return None
    if c.kl_weight or c.entropy_weight:
        if old is None:
            raise ConfigError("the KL and the entropy in the reward are those of the draw: the batch must hold the old log-probabilities.")
        reward = regularised(reward, old, reference, c.kl_weight, c.entropy_weight)
    if c.baseline == "group":
        return group_advantage(reward)
    if fresh:
        seen.add(reward)
    return seen.running(reward) if c.baseline == "running" else seen.moving(reward)


# --- where actions can be listed ----------------------------------------------------------------------------------------


class GroupBandit(Learner):
    """Learns a policy over A actions, or a stack of copies of one; KLs and the entropy that it logs are exact.

    `policy` maps contexts `[*copies, B, D]` to logits `[*copies, B, A]`; `reference` are log-probabilities that broadcast against those.
    """

    config_class: ClassVar[type] = OnPolicyPreferencesConfig

    def __init__(
        self,
        policy: nn.Module,
        reference: Tensor,
        config: OnPolicyPreferencesConfig,
        *,
        lr: float = 1e-3,
        copies: tuple[int, ...] = (),
        device: str = "cpu",
        seed: int = 0,
    ):
        super().__init__(device, seed)
        self.policy, self.config, self.reference = policy, config, reference
        self.seen = MovingNormaliser(copies, config.decay, device)
        self.optimiser = adam(policy.parameters(), lr)

    def update(self, batch: ActionGroups) -> Metrics:
        choice = Choice(self.policy(batch.contexts))
        logp = choice.logprobs.gather(-1, batch.actions)
        fresh = self.config.sampling.fresh(self.steps)
        advantage = advantages(self.config, self.seen, batch.rewards, batch.reference, batch.old, fresh)
        loss = group_loss(self.config, logp, batch.reference, batch.rewards, batch.old, advantage).mean(-1)  # [*copies]
        descend(loss.sum(), self.optimiser)
        self.steps += 1
        return {"loss": loss.detach(), **self._told(choice, logp, batch)}

    @torch.no_grad()
    def _told(self, choice: Choice, logp: Tensor, batch: ActionGroups) -> Metrics:
        """Of the policy before the step, `[*copies]` each."""
        reference = Choice(self.reference.expand_as(choice.logprobs))
        chosen, rejected = chosen_and_rejected(logp - batch.reference, batch.rewards)
        return {
            "reward": batch.rewards.mean((-2, -1)),
            "kl": choice.kl(reference).mean(-1),
            "kl_from_reference": reference.kl(choice).mean(-1),
            "entropy": choice.entropy().mean(-1),
            "chosen": chosen.mean(-1),
            "rejected": rejected.mean(-1),
        }


# --- language models --------------------------------------------------------------------------------------------------


class GroupAligner(Aligner):
    """The same for a language model, from `GroupBatch`es (of `Generated`, or scored completions from a file).

    `kl` and `entropy` are estimates of the policy at the draw, from the responses that it drew; `kl_from_reference` one from those that
    the reference drew. What nobody drew for is not logged: `surefoot compare` measures it afterwards.
    """

    config_class: ClassVar[type] = OnPolicyPreferencesConfig
    learns_from: ClassVar[Literal["pairs", "scored", "prompts"]] = "prompts"

    def __init__(
        self,
        policy: LanguagePolicy,
        config: OnPolicyPreferencesConfig,
        tuning: Tuning,
        total: int,
        *,
        accelerator: Any = None,
        seed: int = 0,
    ):
        super().__init__(policy, config, tuning, total, accelerator=accelerator, seed=seed)
        self.seen = MovingNormaliser((), config.decay)

    def update(self, batch: GroupBatch) -> Metrics:
        fresh = self.config.sampling.fresh(self.steps)
        advantage = advantages(self.config, self.seen, batch.rewards, batch.reference, batch.old, fresh)
        weighed = batch if advantage is None else replace(batch, rewards=advantage)  # so that parts have theirs beside them

        def loss(part: GroupBatch, logp: Tensor) -> tuple[Tensor, Metrics]:
            own = group_loss(self.config, logp, part.reference, part.rewards, part.old, None if advantage is None else part.rewards)
            chosen, rejected = chosen_and_rejected(logp.detach() - part.reference, part.rewards)
            return own, {"chosen": chosen, "rejected": rejected, **self._estimates(part, logp.detach())}

        return descend_groups(self, weighed, loss) | {"reward": batch.rewards.mean()}

    def _estimates(self, part: GroupBatch, logp: Tensor) -> Metrics:
        """`[B]` each; columns of a group are the reference's first, then the policy's own."""
        theirs = self.config.sampling.from_reference()
        found: Metrics = {}
        if theirs:
            found["kl_from_reference"] = (part.reference - logp)[:, :theirs].mean(-1)
        if part.old is not None and theirs < logp.shape[-1]:
            found |= {"kl": (part.old - part.reference)[:, theirs:].mean(-1), "entropy": -part.old[:, theirs:].mean(-1)}
        return found
