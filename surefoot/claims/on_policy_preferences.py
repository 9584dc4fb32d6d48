"""The claim of the on-policy study: own samples and a push away from bad ones both help, where reward is far from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, per_seed, stated
from surefoot.claims.fleets import seed_of
from surefoot.claims.on_policy_sequences import ARMS as SEQUENCE_ARMS
from surefoot.claims.on_policy_sequences import BATCH, DRAWS, LENGTH, REUSE, SequenceTask, sequence_reward
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import paired
from surefoot.methods.language.didactic_bandit import (
    ACTIONS,
    CENTRES,
    CONTEXT,
    ContextPolicy,
    bump,
    fit_to_reference,
    reference_logprobs,
    rewarded_by,
)
from surefoot.methods.language.on_policy_preferences import GroupBandit, OnPolicyPreferencesConfig
from surefoot.methods.language.sampling import SampledActions, Sampling
from surefoot.nn.distributions import Choice
from surefoot.training.engines import run_tasks

CONTEXTS, HELD_OUT = 10, 100
EPOCHS = 100
SEQUENCES = "sequences"
ENOUGH = 0.9  # reward that counts as solved
SHOWN = (1, 2, 3, 5, 8, 12, 20, 30, 50, 100)
"""Epochs of the curves among the facts."""

Config = OnPolicyPreferencesConfig
ONLINE, OFFLINE = Sampling(on_policy=True), Sampling(on_policy=False)
ARMS: dict[str, OnPolicyPreferencesConfig] = {
    "bon offline": Config("bon", OFFLINE),
    "bon on-policy": Config("bon", ONLINE),
    "rwr offline": Config("rwr", OFFLINE),
    "rwr on-policy": Config("rwr", ONLINE),
    "ipo offline": Config("ipo", OFFLINE),
    "ipo on-policy": Config("ipo", ONLINE),
    "dpo offline": Config("dpo", OFFLINE),
    "dpo on-policy": Config("dpo", ONLINE),
    "neg_bon offline": Config("neg_bon", OFFLINE),
    "reinforce on-policy": Config("reinforce", ONLINE),
    "ppo on-policy": Config("ppo", ONLINE),
}


@dataclass(frozen=True)
class Task:
    """One arm on both rewards and all seeds, a fleet of copies `(2, seeds)`."""

    arm: str
    seeds: tuple[int, ...]
    epochs: int = EPOCHS


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale needs a model, prompts and a reward of yours: `surefoot align on-policy-preferences --model MODEL --data "
            "prompts.jsonl --reward FILE`, once for each setting of the switches, then `surefoot compare`."
        )
    tasks = [Task(arm, tuple(context.seeds)) for arm in ARMS]
    rows = run_tasks(trained, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"{task.arm}: {len(task.seeds)} seeds, 2 rewards"))
    of = dict(zip(ARMS, rows, strict=True))
    scores: Scores = {}
    for i, name in enumerate(CENTRES):
        scores[f"{name} reward"] = {arm: context.arm(row["reward"][i, :, -1]) for arm, row in of.items()}
        scores[f"{name} KL"] = {arm: context.arm(row["kl"][i, :, -1]) for arm, row in of.items()}
        scores[f"{name} queries"] = {arm: context.arm(row["queries"][i]) for arm, row in of.items()}
        scores[f"{name} winner"] = {arm: context.arm(row["chosen"][i]) for arm, row in of.items()}
    scores |= sequences(context)
    context.notes.append(
        "The pushes of dpo and neg_bon have no bound: the panels `winner` say how far they lower the best response of a group as well."
    )
    context.facts["curves"] = {arm: _curves(row) for arm, row in of.items()}
    context.facts["mass"] = {arm: _mass(row) for arm, row in of.items()}
    return scores


def sequences(context: Context) -> Scores:
    """The panel of sequences; empty, with a note, where transformers is missing."""
    if find_spec("transformers") is None:
        context.notes.append("The panel of sequences was left out: pip install 'surefoot[language]'.")
        return {}
    tasks = [SequenceTask(arm, seed) for arm in SEQUENCE_ARMS for seed in context.seeds]
    found = run_tasks(
        sequence_reward, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"sequences, {task.arm}: seed {task.seed}")
    )
    rows = np.reshape(found, (len(SEQUENCE_ARMS), -1))
    return {SEQUENCES: {arm: context.arm(row) for arm, row in zip(SEQUENCE_ARMS, rows, strict=True)}}


def trained(task: Task) -> dict[str, np.ndarray]:
    """Train one arm. After each epoch, `[2, seeds, epochs]`: reward and KL at held-out contexts; `mass` is the mean law over actions.

    Arms share contexts, first weights and the random numbers of the draws, seed by seed.
    """
    config, seeds, copies = ARMS[task.arm], task.seeds, (len(CENTRES), len(task.seeds))
    contexts, held_out = (both_rewards(seeds, purpose, n) for purpose, n in (("data", CONTEXTS), ("evaluation", HELD_OUT)))
    table = bump(torch.tensor(list(CENTRES.values()))).unsqueeze(1)  # [2, 1, A]
    reference = reference_logprobs()
    policy = ContextPolicy(copies, generator=torch.Generator().manual_seed(seed_of(seeds, "training")))
    fit_to_reference(policy, contexts, reference)
    learner = GroupBandit(policy, reference, config, lr=1e-3, copies=copies)
    source = SampledActions(policy, contexts, reference, rewarded_by(table), config.sampling, seed=seed_of(seeds, "draws"))
    rows: list[dict[str, Tensor]] = [judged(policy, held_out, table, reference)]
    for _ in range(task.epochs):
        for _ in range(config.sampling.reuse):
            told = learner.update(next(source))
        rows.append(judged(policy, held_out, table, reference))
    found = {name: np.stack([row[name].numpy() for row in rows], 2) for name in rows[0]}
    per_epoch = config.sampling.samples * CONTEXTS
    solved = found["reward"] >= ENOUGH  # [2, seeds, 1 + epochs]
    found["queries"] = np.where(solved.any(-1), solved.argmax(-1), task.epochs) * float(per_epoch)
    found["chosen"] = told["chosen"].numpy()
    return found


def both_rewards(seeds: Sequence[int], purpose: str, n: int) -> Tensor:
    """Contexts U[0, 1], a seed its own, the same for both rewards: `[2, seeds, n, D]`."""
    own = [torch.rand(n, CONTEXT, generator=torch.Generator().manual_seed(derived(seed, purpose))) for seed in seeds]
    return torch.stack(own).expand(len(CENTRES), -1, -1, -1)


@torch.no_grad()
def judged(policy: ContextPolicy, contexts: Tensor, table: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Exact expected reward and KL to the reference `[2, seeds]`, mean law over actions `[2, seeds, A]`."""
    choice = Choice(policy(contexts))
    mass = choice.logprobs.exp().mean(-2)
    return {"reward": (mass * table).sum(-1), "kl": choice.kl(Choice(reference)).mean(-1), "mass": mass}


def _curves(row: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over seeds after some epochs, of each reward."""
    shown = [0, *(epoch for epoch in SHOWN if epoch < row["reward"].shape[-1])]
    pick = lambda x: np.round(x.mean(0)[shown], 4).tolist()  # noqa: E731
    return {"epochs": shown} | {name: {k: pick(row[k][i]) for k in ("reward", "kl")} for i, name in enumerate(CENTRES)}


def _mass(row: dict[str, np.ndarray]) -> dict[str, Any]:
    """The law over actions after some epochs, misaligned reward, mean over seeds."""
    shown = [epoch for epoch in (0, 3, 12, 50, 100) if epoch < row["mass"].shape[2]]
    return {str(epoch): np.round(row["mass"][0, :, epoch].mean(0), 4).tolist() for epoch in shown}


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    out = [
        difference(
            scores, "R1 reward", f"{loss} on-policy", f"{loss} offline", name=f"(a) {loss}, on-policy", same_seeds=True,
            statement=f"misaligned reward: {loss} on samples of its own earns more than {loss} on the reference's",
        )
        for loss in ("bon", "rwr", "ipo")
    ]  # fmt: skip
    out += [
        difference(
            scores, "R1 reward", f"{loss} offline", "bon offline", name=f"(b) {loss}, negative gradient", same_seeds=True,
            statement=f"misaligned reward: offline {loss}, which pushes down, earns more than offline bon, which does not",
        )
        for loss in ("dpo", "ipo")
    ]  # fmt: skip
    out = [replace(check, holds=check.holds and check.ci95 is not None and (check.ci95[0] or -1.0) > 0.0) for check in out]
    out.append(geometry(scores))
    statement = "misaligned reward: offline neg_bon earns more than offline bon"
    out.append(
        difference(
            scores, "R1 reward", "neg_bon offline", "bon offline", name="neg_bon", statement=statement, required=False, same_seeds=True
        )
    )
    statement = "misaligned reward: own samples help a loss that pushes down too: dpo asks for fewer rewards until it reaches 0.9"
    out.append(
        difference(
            scores, "R1 queries", "dpo offline", "dpo on-policy", name="complementary", statement=statement, required=False, same_seeds=True
        )
    )
    if SEQUENCES in scores:
        out += [
            difference(
                scores, SEQUENCES, f"{loss} on-policy", f"{loss} offline", name=f"sequences, {loss}", required=False, same_seeds=True,
                statement=f"sequences, misaligned reward: {loss} on samples of its own earns more",
            )
            for loss in ("bon", "ipo")
        ]  # fmt: skip
    return out


def geometry(scores: Scores) -> Check:
    """(c): the gap of bon, on-policy less offline, under the aligned reward is less than a quarter of that under the misaligned one."""
    own, theirs = ({name: per_seed(scores, f"{name} reward", f"bon {who}") for name in CENTRES} for who in ("on-policy", "offline"))
    gap = {name: own[name] - theirs[name] for name in CENTRES}
    share = float(gap["R2"].mean() / gap["R1"].mean()) if gap["R1"].mean() > 0.0 else float("inf")
    apart = paired(0.25 * gap["R1"], gap["R2"], "greater")
    return stated(
        "(c) geometry",
        "bon's gain from samples of its own with the aligned reward, as a share of that with the misaligned one, is below a quarter",
        "R2 reward", min(share, 1e9), apart.difference > 0.0 and gap["R1"].mean() > 0.0, threshold=0.25,
    )  # fmt: skip


_ABOUT = {"bon": "learn the best of ten", "rwr": "weights exp(reward / 0.1)", "ipo": "squared loss of pairs, margin 10", "dpo": "beta 0.1"}

CLAIM = Claim(
    slug="on-policy-preferences",
    title="Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data",
    statement="Where high reward lies where the reference hardly goes, samples of the policy's own and a push away from bad ones both beat "
    "imitation of the best samples of the reference; where it does not, there is little between them.",
    seeds=5,
    arms={arm: _ABOUT.get(arm.split()[0], "") + (", samples of the reference" if "offline" in arm else ", its own samples") for arm in ARMS}
    | {
        "neg_bon offline": "bon that pushes the other nine down with weight 0.1, samples of the reference",
        "reinforce on-policy": "policy gradient, rewards standardised by all that were seen",
        "ppo on-policy": "the same with PPO's clipped ratio, 0.2",
    },
    panels={
        f"{name} {what}": text + (", bump at action 70 (misaligned)" if name == "R1" else ", bump at action 20 (aligned)")
        for name in CENTRES
        for what, text in (
            ("reward", f"expected reward in [0, 1] at {HELD_OUT} held-out contexts"),
            ("KL", "KL to the reference there, in nats"),
            ("queries", f"rewards asked for until {ENOUGH} was reached ({EPOCHS * 10 * CONTEXTS:,} where it never was)"),
            ("winner", "log-ratio to the reference of the best of each last group: below 0, the winner was pushed down too"),
        )
    }
    | {SEQUENCES: f"mean reward in [0, 1] of 100 x 10 sequences of {LENGTH} tokens, the mean over tokens of the misaligned bump"},
    scales={
        "small": f"{ACTIONS} actions, {CONTEXTS} contexts, {EPOCHS} epochs of 10 samples each and 15 steps of Adam, rate 0.001; "
        f"sequences of {LENGTH} tokens by a GPT of 2 layers, {DRAWS} draws of 10 responses to {BATCH} contexts, {REUSE} steps each.",
        "full": "a language model with lengths or a learned reward model as reward: surefoot align on-policy-preferences.",
    },
    run=run,
    checks=checks,
)
