"""DR-PO's claim: with as many episodes, PPO that starts some of them within the data finds what PPO and DPO do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.claims.base import Check, Claim, Context, Scores, difference, per_seed, stated
from surefoot.claims.fleets import seed_of
from surefoot.claims.gated_text import LENGTH, PAIRS, VOCABULARY, World
from surefoot.envs.finite import FiniteMDP, play
from surefoot.errors import ConfigError
from surefoot.methods.exact.dataset_reset import DatasetResetConfig, Starts, learn
from surefoot.methods.language.dr_po import reset_lengths
from surefoot.methods.language.losses import dpo, log_ratio
from surefoot.methods.language.token_losses import RolloutTerms, TokenRollouts, token_mean
from surefoot.nn.bigram import DRAW, Bigram
from surefoot.nn.optimise import adam, descend

KL, BETA = 0.02, 0.1  # of PPO's reward, of DPO
REWARD, SUCCESS, DIVERGENCE, TRAINED, LOCK = "reward", "gate", "KL to the reference", "trained tokens", "finite world"

NOTES = (
    "The reward is given exactly: what is compared is what the optimisers find, not how well a reward model was learned.",
    "The claim is about equal starting policies. PPO that starts from SFT on the same responses (and is held to it) gets as far.",
    "Arms with resets train fewer tokens of as many responses (panel 'trained tokens').",
)


@dataclass(frozen=True)
class Arm:
    """One way to run PPO: the share of roll-outs that are reset, where to, and what it starts from."""

    reset_prob: float
    roll_in: str = "data"  # or "reference": PPO++
    start: str = "reference"  # or "sft"


RL_ARMS = {
    "ppo": Arm(0.0),
    "ppo++": Arm(0.5, roll_in="reference"),
    "dr-po 0.5": Arm(0.5),
    "dr-po 0.8": Arm(0.8),
    "dr-po 1.0": Arm(1.0),
    "ppo from sft": Arm(0.0, start="sft"),
}


@dataclass(frozen=True)
class Setting:
    iterations: int = 150
    episodes: int = 256
    epochs: int = 4
    lr: float = 2e-2
    critic_lr: float = 5e-2
    offline_steps: int = 1500  # of DPO and SFT
    offline_batch: int = 64
    offline_lr: float = 1e-2


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale aligns a language model on TL;DR or Anthropic HH with a reward model of yours: "
            "`surefoot align dr-po --model MODEL --data FILE --reward REWARD`."
        )
    world = World.drawn(context)
    settings, seeds = Setting(), len(context.seeds)
    preferred, rejected = world.preferences(context)
    context.say("SFT and DPO on the preferred responses")
    sft = offline(world, preferred, None, settings, context)
    policies: dict[str, Bigram] = {"reference": world.reference, "demonstrators": world.demonstrators, "sft": sft}
    policies["dpo"] = offline(world, preferred, rejected, settings, context)
    context.say(f"PPO, {len(RL_ARMS)} arms of {seeds} seeds side by side")
    learned, trained = ppo(world, preferred, sft, settings, context)
    policies |= {name: Bigram(learned.logits[i].detach()) for i, name in enumerate(RL_ARMS)}
    context.facts["largest reward"] = world.largest().tolist()
    context.notes.extend(NOTES)
    return {
        REWARD: {name: context.arm(world.expected(policy).numpy()) for name, policy in policies.items()},
        SUCCESS: {name: context.arm(world.success(policy).numpy()) for name, policy in policies.items()},
        DIVERGENCE: {name: context.arm(policy.kl(world.reference).detach().numpy()) for name, policy in policies.items()},
        TRAINED: {name: context.arm(trained[i].numpy()) for i, name in enumerate(RL_ARMS)},
        LOCK: in_tables(context),
    }


# --- arms -------------------------------------------------------------------------------------------------------------


def offline(world: World, preferred: Tensor, rejected: Tensor | None, settings: Setting, context: Context) -> Bigram:
    """From the reference: DPO on the pairs, or SFT on the preferred responses where `rejected` is None."""
    name = "sft" if rejected is None else "dpo"
    generator = torch.Generator().manual_seed(seed_of(context.seeds, f"training {name}"))
    policy = Bigram(world.reference.logits)
    optimiser = adam(policy.parameters(), settings.offline_lr)
    for _ in range(settings.offline_steps):
        rows = torch.randint(PAIRS, (len(preferred), settings.offline_batch), generator=generator)
        chosen = picked(preferred, rows)
        if rejected is None:
            loss = -policy.logprobs(chosen)
        else:
            pair = torch.stack([chosen, picked(rejected, rows)], 1).flatten(1, 2)  # one pass over both
            logp = policy.logprobs(pair).chunk(2, -1)
            with torch.no_grad():
                ref = world.reference.logprobs(pair).chunk(2, -1)
            loss = dpo(BETA * log_ratio(*logp, *ref))
        descend(loss.mean(-1).sum(), optimiser)
    return policy


def picked(responses: Tensor, rows: Tensor) -> Tensor:
    """`[S, B, L]` of `responses` `[S, N, L]` and `rows` `[S, B]`."""
    return responses.gather(-2, rows.unsqueeze(-1).expand(*rows.shape, responses.shape[-1]))


class TableCritic(nn.Module):
    """V(position, previous token), a table a copy."""

    def __init__(self, copies: tuple[int, ...]):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(*copies, LENGTH * (VOCABULARY + 1)))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[*copies, B, L]` of tokens of that shape."""
        previous = torch.cat([torch.full_like(tokens[..., :1], VOCABULARY), tokens[..., :-1]], -1)
        cell = previous + (VOCABULARY + 1) * torch.arange(LENGTH)
        return self.table.gather(-1, cell.flatten(-2)).view(tokens.shape)


def ppo(world: World, preferred: Tensor, sft: Bigram, settings: Setting, context: Context) -> tuple[Bigram, Tensor]:
    """All arms and seeds at once: the policies, copies `[arms, S]`, and the share of tokens that were trained, `[arms, S]`."""
    arms, seeds = list(RL_ARMS.values()), len(preferred)
    generator = torch.Generator().manual_seed(seed_of(context.seeds, "training ppo"))
    starts = torch.stack([(sft if arm.start == "sft" else world.reference).logits.detach() for arm in arms])
    policy, anchor = Bigram(starts), Bigram(starts)
    critic = TableCritic((len(arms), seeds))
    optimisers = adam(policy.parameters(), settings.lr), adam(critic.parameters(), settings.critic_lr)
    share = torch.tensor([arm.reset_prob for arm in arms])[:, None, None]
    trained = torch.zeros(len(arms), seeds)
    for _ in range(settings.iterations):
        responses = torch.stack([roll_in(arm, world, preferred, settings.episodes, generator) for arm in arms])
        tokens, drawn = rolled_out(policy, responses, share, generator)
        update(policy, critic, optimisers, anchor, tokens, drawn, world.reward(tokens), settings)
        trained += drawn.float().mean((-2, -1))
    return policy, trained / settings.iterations


def roll_in(arm: Arm, world: World, preferred: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Responses whose beginnings an arm may start from, `[S, n, L]`."""
    if arm.roll_in == "reference":
        return world.reference.sample(n, generator)
    return picked(preferred, torch.randint(PAIRS, (len(preferred), n), generator=generator))


def rolled_out(policy: Bigram, responses: Tensor, share: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens of the policy's responses, begun as `responses` `[arms, S, n, L]` or not, and which of them it drew."""
    k = reset_lengths(torch.full(responses.shape[:-1], LENGTH), share, generator)
    drawn = torch.arange(LENGTH) >= k.unsqueeze(-1)
    return policy.sample(responses.shape[-2], generator, torch.where(drawn, DRAW, responses)), drawn


def update(
    policy: Bigram,
    critic: TableCritic,
    optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    anchor: Bigram,
    tokens: Tensor,
    drawn: Tensor,
    score: Tensor,
    settings: Setting,
) -> None:
    """PPO's epochs on one batch of responses, over the full batch."""
    terms = RolloutTerms()
    with torch.no_grad():
        old = policy.token_logprobs(tokens), anchor.token_logprobs(tokens), critic(tokens)
        rollouts = TokenRollouts.of(*old, score, torch.ones_like(drawn), drawn, KL, terms)
    for _ in range(settings.epochs):
        policy_loss, value_loss = rollouts.losses(policy.token_logprobs(tokens), critic(tokens), terms)
        descend(token_mean(policy_loss, rollouts.drawn).sum(), optimisers[0])
        descend(token_mean(value_loss, rollouts.mask).sum(), optimisers[1])


# --- the exact form ---------------------------------------------------------------------------------------------------

STAGES, ACTIONS, PLAYED = 8, 4, 1000
STARTS: dict[str, Starts] = {"dr-po": "data", "ppo++": "reference", "npg": "initial"}


def in_tables(context: Context) -> dict[str, Any]:
    """A combination lock: the mixture of natural policy gradient's iterates for each place to start, from the same weak reference."""
    context.say("natural policy gradient on the lock")
    rows = [_locks(seed_of([seed], "lock")) for seed in context.seeds]
    return {name: context.arm([row[name] for row in rows]) for name in rows[0]}


def _locks(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    key = rng.integers(ACTIONS, size=STAGES)
    lock, weak, able = combination_lock(key), typing(key, 0.25), typing(key, 0.9)
    data = play(lock, able, PLAYED, rng).state[:, :-1]
    return {name: learn(lock, data, weak, DatasetResetConfig(eta=1.0, starts=starts), rng).value(lock) for name, starts in STARTS.items()}


def combination_lock(key: np.ndarray) -> FiniteMDP:
    """State 0 as long as every action was the key's, state 1 for good after one that was not; reward 1 for the last right one."""
    stages = len(key)
    transition, reward = np.zeros((stages, 2, ACTIONS, 2)), np.zeros((stages, 2, ACTIONS))
    right = np.eye(ACTIONS)[key]
    transition[:, 0, :, 0], transition[:, 0, :, 1], transition[:, 1, :, 1] = right, 1.0 - right, 1.0
    reward[-1, 0] = right[-1]
    return FiniteMDP(transition, reward, np.array([1.0, 0.0]))


def typing(key: np.ndarray, probability: float) -> np.ndarray:
    """A policy `[H, 2, A]` that plays the key's action with `probability`, whatever the state."""
    right = np.eye(ACTIONS)[key]
    p = right * probability + (1.0 - right) * (1.0 - probability) / (ACTIONS - 1)
    return np.repeat(p[:, None, :], 2, 1)


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    """Arms share world and data, seed by seed: paired."""
    out = []
    for baseline, words in (("ppo", "PPO"), ("dpo", "DPO")):
        statement = f"with half of the roll-outs reset, DR-PO's expected reward is higher than {words}'s"
        out.append(difference(scores, REWARD, "dr-po 0.5", baseline, name=f"over {words}", statement=statement, same_seeds=True))
        out.append(on_every_seed(scores, "dr-po 0.5", baseline, words))
    ratio = per_seed(scores, REWARD, "ppo").mean() / per_seed(scores, REWARD, "dr-po 0.5").mean()
    statement = "PPO does not reach half of DR-PO's reward (ratio of means)"
    out.append(stated("half", statement, REWARD, ratio, ratio < 0.5, threshold=0.5))
    reported: dict[str, Any] = {"required": False, "same_seeds": True}
    statement = "the reset must be to the data: roll-in by the reference (PPO++) is worse"
    out.append(difference(scores, REWARD, "dr-po 0.5", "ppo++", name="over PPO++", statement=statement, **reported))
    statement = "with a reset in every roll-out the first token is never trained, and the reward is lower than with half of them"
    out.append(difference(scores, REWARD, "dr-po 0.5", "dr-po 1.0", name="all reset", statement=statement, **reported))
    ratio = per_seed(scores, REWARD, "ppo from sft").mean() / per_seed(scores, REWARD, "dr-po 0.5").mean()
    statement = "context: PPO that starts from SFT on the same responses gets as far (ratio of means): resets replace that warm start"
    out.append(stated("warm start", statement, REWARD, ratio, ratio > 0.9, threshold=0.9, required=False))
    statement = "natural policy gradient on the lock: the mixture with resets to the data is worth more than without"
    out.append(difference(scores, LOCK, "dr-po", "npg", name="finite world", statement=statement, **reported))
    return out


def on_every_seed(scores: Scores, arm: str, baseline: str, words: str) -> Check:
    least = float((per_seed(scores, REWARD, arm) - per_seed(scores, REWARD, baseline)).min())
    statement = f"DR-PO's reward is higher than {words}'s for every seed (the smallest difference)"
    return stated(f"every seed, {words}", statement, REWARD, least, least > 0.0, threshold=0.0)


CLAIM = Claim(
    slug="dr-po",
    title="Dataset Reset Policy Optimization for RLHF",
    statement="From the same weak policy and with as many episodes, PPO that starts half of its responses from prefixes of preferred ones "
    "earns a higher reward than PPO from the prompt, and than DPO on the same pairs.",
    seeds=5,
    arms={
        "reference": "the weak policy that all arms start from",
        "demonstrators": "the policy whose responses the preferences are about",
        "sft": "the reference fine-tuned on the preferred responses: 1,500 steps of 64",
        "dpo": "DPO on the pairs, beta 0.1: 1,500 steps of 64",
        "ppo": "PPO, every response from its first token on",
        "ppo++": "PPO with half of the roll-outs begun by the reference",
        "dr-po 0.5": "PPO with half of the roll-outs begun with a prefix of a preferred response; in the finite world all",
        "dr-po 0.8": "the same with four in five",
        "dr-po 1.0": "the same with all of them",
        "ppo from sft": "context: PPO from the SFT policy, which is then its reference too",
        "dr-po": "finite world: episodes start at states of the data",
        "npg": "finite world: episodes start where the world does",
    },
    panels={
        REWARD: "expected reward of the last policy, exactly (that of the best sequence is among the facts)",
        SUCCESS: "probability that the 8 tokens of the gate are right, exactly",
        DIVERGENCE: "KL of a response to the reference, in nats, exactly",
        TRAINED: "share of the tokens of all roll-outs that the policy loss was about",
        LOCK: "a combination lock of 8 stages and 4 actions: expected reward of the mixture of 100 natural policy gradient iterates",
    },
    scales={
        "small": "Responses of 16 tokens of 8: a random key of 8 that the reference types with probability 1.5e-5, then a suffix whose "
        "mean value is the reward. Bigram tables for each position; 150 iterations of 256 episodes; the reward is known.",
        "full": "TL;DR or Anthropic HH with a language model of your own: surefoot align dr-po.",
    },
    run=run,
    checks=checks,
)
