"""The claim of PF-PPO: where a reward is noise, learning from the ranks it can be trusted in beats learning from all; R^2 tells which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, per_seed, stated
from surefoot.claims.fleets import seed_of
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import mean_interval
from surefoot.methods.language.filtration import Strategy, lines_of, resampled
from surefoot.methods.language.token_losses import clipped_policy_loss
from surefoot.methods.online.ppo import standardised
from surefoot.nn.bigram import Bigram, random_logits
from surefoot.nn.optimise import adam, descend
from surefoot.training.engines import run_tasks

VOCABULARY, LENGTH = 16, 8
PROMPTS, RESPONSES, ITERATIONS, MINIBATCHES = 32, 5, 60, 4
LR, CLIP, KL = 5e-3, 0.2, 0.02
CALIBRATION = 4000  # prompts of the calibration set

MULTIPLE = ("all", "best", "best_worst", "best_random")
ARMS = ("ppo-s", *MULTIPLE)

Noise = Callable[[Tensor, torch.Generator], Tensor]


# --- the world --------------------------------------------------------------------------------------------------------


def _uniform(z: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(z.shape, generator=generator, dtype=z.dtype)


REWARDS: dict[str, Noise] = {
    "mid": lambda z, g: torch.where(z.abs() < 1.5, 3.0 * _uniform(z, g) - 1.5, z),
    "low": lambda z, g: torch.where(z < 0.5, 1.7 * _uniform(z, g) - 1.2, z),
    "high": lambda z, g: torch.where(z > -0.5, 1.7 * _uniform(z, g) - 0.5, z),
    "iid": lambda z, g: z + 2.0 * torch.randn(z.shape, generator=g, dtype=z.dtype),
}
"""What a reward model says of gold scores z `[..., B]` that are standardised in their batch: where it is noise, fresh noise."""


@dataclass(frozen=True)
class World:
    """References of all seeds as copies, and the gold score: a sum of token values, standardised under the reference."""

    reference: Bigram
    values: Tensor  # [F, 1, V], in units of the reference's standard deviation
    offset: Tensor  # [F]

    @staticmethod
    def of(seeds: tuple[int, ...]) -> World:
        generators = [torch.Generator().manual_seed(derived(seed, "world")) for seed in seeds]
        reference = Bigram(torch.stack([random_logits(LENGTH, VOCABULARY, generator=g) for g in generators])).requires_grad_(False)
        values = torch.stack([torch.randn(1, VOCABULARY, generator=g) for g in generators])
        tokens = reference.sample(20_000, torch.Generator().manual_seed(seed_of(seeds, "scale of the gold score")))
        scale = _sums(values, tokens).std(-1)[:, None, None]
        return World(reference, values / scale, reference.expected(values / scale))

    def gold(self, tokens: Tensor) -> Tensor:
        """Gold scores `[F, B]` of sequences `[F, B, L]`."""
        return _sums(self.values, tokens) - self.offset[:, None]

    def rewards(self, tokens: Tensor, model: str, generator: torch.Generator) -> Tensor:
        """What the reward model says of them, `[F, B]`."""
        return REWARDS[model](standardised(self.gold(tokens)), generator)

    def expected(self, policy: Bigram) -> Tensor:
        """The policies' exact mean gold score, `[F]`."""
        return policy.expected(self.values) - self.offset


def _sums(values: Tensor, tokens: Tensor) -> Tensor:
    """Sum of token values, `[F, B]` of `[F, 1, V]` and `[F, B, L]`."""
    return values.expand(-1, tokens.shape[1], -1).gather(-1, tokens).sum(-1)


# --- the experiment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One arm under one reward model, all seeds side by side."""

    arm: str
    model: str
    seeds: tuple[int, ...]
    iterations: int = ITERATIONS


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale is a code model of 7 billion weights, a reward model and unit tests: `surefoot align pf-ppo --model MODEL "
            "--data prompts.jsonl --reward REWARD_MODEL`, with the strategy that `surefoot align select` finds."
        )
    seeds = tuple(context.seeds)
    tasks = [Task(arm, model, seeds) for model in REWARDS for arm in ARMS]
    gold = run_tasks(trained, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"{task.model}, {task.arm}: trained"))
    scores: Scores = {}
    for model in REWARDS:
        table = calibrated(seeds, model)
        scores[f"R2, {model}"] = {arm: context.arm([row[arm] for row in table]) for arm in MULTIPLE}
        own = {task.arm: value for task, value in zip(tasks, gold, strict=True) if task.model == model}
        scores[f"gold, {model}"] = {arm: context.arm(value) for arm, value in own.items()}
    return scores


def calibrated(seeds: tuple[int, ...], model: str) -> list[dict[str, float]]:
    """R^2 of each strategy on responses of the reference, a table a seed."""
    world, generator = World.of(seeds), torch.Generator().manual_seed(seed_of(seeds, f"calibration {model}"))
    tokens = world.reference.sample(CALIBRATION * RESPONSES, generator)
    shape = (len(seeds), CALIBRATION, RESPONSES)
    rewards, gold = world.rewards(tokens, model, generator).view(shape), world.gold(tokens).view(shape)
    lines = [lines_of(r, z, [Strategy(arm) for arm in MULTIPLE]) for r, z in zip(rewards, gold, strict=True)]
    return [{arm: line.r_squared for arm, line in of_seed.items()} for of_seed in lines]


def trained(task: Task) -> np.ndarray:
    """The exact mean gold score of the policies at the end, `[F]`.

    PPO without a critic: a sequence's advantage is its reward less the KL to the reference, standardised over all responses of the
    iteration before any are left out.
    """
    world, policy = World.of(task.seeds), Bigram(World.of(task.seeds).reference.logits)
    generator = torch.Generator().manual_seed(seed_of(task.seeds, f"training {task.model}"))
    responses = 1 if task.arm == "ppo-s" else RESPONSES
    optimiser = adam(policy.parameters(), LR)
    for _ in range(task.iterations):
        with torch.no_grad():
            tokens = policy.sample(PROMPTS * responses, generator)
            old = policy.token_logprobs(tokens)
            reward = world.rewards(tokens, task.model, generator)
            advantage = standardised(reward - KL * (old - world.reference.token_logprobs(tokens)).sum(-1))
            order = learned_from(reward, task.arm, responses, generator)
        for rows in order.chunk(MINIBATCHES, -1):
            own, own_old = (x.take_along_dim(rows.unsqueeze(-1), 1) for x in (tokens, old))
            own_advantage = advantage.gather(-1, rows).unsqueeze(-1).expand_as(own_old)
            loss = clipped_policy_loss(policy.token_logprobs(own), own_old, own_advantage, CLIP)
            descend(loss.mean((-2, -1)).sum(), optimiser)
    return world.expected(policy).detach().numpy()


def learned_from(reward: Tensor, arm: str, responses: int, generator: torch.Generator) -> Tensor:
    """Which of the iteration's responses, of rewards `[F, B]`, and in which order, `[F, B]`: PPO takes each once."""
    if arm in ("ppo-s", "all"):
        return torch.rand(reward.shape, generator=generator).argsort(-1)
    weights = Strategy(arm).weights(reward.unflatten(-1, (-1, responses))).flatten(-2)
    return resampled(weights, weights.shape[-1], generator)


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    out = [
        difference(
            scores, "gold, mid", "best_worst", baseline, same_seeds=True, name=f"mid, against {baseline}",
            statement=f"where middle rewards are noise, best and worst alone lead to a higher gold score than {words}",
        )
        for baseline, words in (("all", "PPO with all responses"), ("ppo-s", "PPO with one response a prompt"))
    ]  # fmt: skip
    for model in ("mid", "low", "high"):
        table = {arm: float(per_seed(scores, f"R2, {model}", arm).mean()) for arm in MULTIPLE}
        arm = max(table, key=table.__getitem__)
        apart = mean_interval(per_seed(scores, f"gold, {model}", arm) - per_seed(scores, f"gold, {model}", "all"))
        statement = f"under {model!r} noise the strategy with the largest R^2 before training ({arm}) is not below PPO with all responses"
        out.append(
            stated(f"{model}, largest R^2", statement, f"gold, {model}", apart.value, apart.value >= 0.0, threshold=0.0, interval=apart)
        )
    of_model = {model: rank_agreement(scores, model) for model in REWARDS}
    mean = float(np.mean(list(of_model.values())))
    statement = (
        "before training R^2 orders the strategies as the gold scores do in the end: Spearman's correlation, mean of the reward models ("
        + ", ".join(f"{model} {value:.2f}" for model, value in of_model.items())
        + ")"
    )
    out.append(stated("R^2 and outcome", statement, "R2, mid", mean, mean >= 0.5, threshold=0.5))
    return out


def rank_agreement(scores: Scores, model: str) -> float:
    """Spearman's correlation of mean R^2 and mean final gold score over the strategies."""
    r2, gold = ([float(per_seed(scores, f"{panel}, {model}", arm).mean()) for arm in MULTIPLE] for panel in ("R2", "gold"))
    return float(spearmanr(r2, gold).statistic)


CLAIM = Claim(
    slug="pf-ppo",
    title="Policy Filtration in RLHF",
    statement=(
        "Where a reward model is reliable at its extremes only, PPO that learns from the best and the worst of several responses gains "
        "more true score than PPO on all of them or on one a prompt; and the R^2 between rewards and true scores before training tells "
        "which responses to keep."
    ),
    seeds=10,
    arms={
        "ppo-s": "PPO, one response a prompt",
        "all": "PPO-M: five responses a prompt, each used once",
        "best": "resampled: the best response of each prompt",
        "best_worst": "resampled: the best and the worst",
        "best_random": "resampled: the best half of the time, else one of the others",
    },
    panels={
        f"gold, {model}": f"mean gold score of the final policy in standard deviations of the reference, exact; reward: {model}"
        for model in REWARDS
    }
    | {f"R2, {model}": f"R^2 of reward and gold score on the reference's responses; reward: {model}" for model in REWARDS},
    scales={
        "small": "bigram policies (vocabulary 16, length 8), 4 noisy reward models, 60 iterations of 32 prompts",
        "full": "a code model of 7 billion weights, to be run by `surefoot align`",
    },
    run=run,
    checks=checks,
)
