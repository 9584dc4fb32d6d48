"""The claim of RPO: with the SFT term a policy does not run away to what the preferences say nothing about, and DPO does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, per_seed, stated
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import mean_interval
from surefoot.methods.language.losses import log_ratio, rpo, sft
from surefoot.nn.bigram import Bigram, random_logits
from surefoot.nn.lbfgs import minimise
from surefoot.nn.optimise import adam, descend
from surefoot.training.engines import run_tasks

RESPONSES, DIMENSION, COVERED = 100, 20, 20
SIZES = (60, 200)
BETA, ETA = 0.1, 0.05  # of the verdict
ETAS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5)
DPO_BETAS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

LENGTH, VOCABULARY, PAIRS, BATCH, STEPS, RATE = 8, 16, 1_000, 64, 2_000, 2e-2
SEQUENCE_ETAS = (0.0, 0.005, 0.05, 0.2, 1.0)


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale aligns Mistral-7B on UltraFeedback, judged by GPT-4: `surefoot align rpo` on your own pairs, with"
            " --eta 0.005 --beta 0.01."
        )
    tasks = [Task(seed, n) for n in SIZES for seed in context.seeds]
    found = run_tasks(fitted, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"seed {task.seed}: {task.n} pairs"))
    scores: Scores = {}
    for i, n in enumerate(SIZES):
        of_size = found[i * len(context.seeds) : (i + 1) * len(context.seeds)]
        for j, measure in enumerate(MEASURES):
            scores[f"{measure}, n = {n}"] = {arm: context.arm([each[arm][j] for each in of_size]) for arm in of_size[0]}
    fallen = displaced(context.seeds)
    context.say(f"sequences: {len(context.seeds)} seeds trained for {STEPS:,} steps")
    scores["chosen, sequences"] = {arm: context.arm(values) for arm, values in fallen.items()}
    return scores


# --- over-optimisation under partial coverage, with log-linear policies --------------------------------------------------

MEASURES = ("reward", "covered", "chosen")


@dataclass(frozen=True)
class Task:
    """One world and one size of data."""

    seed: int
    n: int


@dataclass(frozen=True)
class World:
    """Responses with features, of which few are ever compared."""

    features: Tensor  # [RESPONSES, DIMENSION]
    reward: Tensor  # [RESPONSES]
    covered: Tensor  # [COVERED], indices
    winners: Tensor  # [n], indices
    losers: Tensor  # [n], indices

    @classmethod
    def drawn(cls, seed: int, n: int) -> World:
        generator = torch.Generator().manual_seed(derived(seed, "world"))
        features = torch.randn(RESPONSES, DIMENSION, generator=generator, dtype=torch.float64)
        direction = torch.randn(DIMENSION, generator=generator, dtype=torch.float64)
        reward = features @ (direction / direction.norm())
        covered = torch.multinomial(reward.exp(), COVERED, generator=generator)
        generator.manual_seed(derived(seed, f"pairs {n}"))
        first = torch.randint(COVERED, (n,), generator=generator)
        second = (first + torch.randint(1, COVERED, (n,), generator=generator)) % COVERED  # another one
        first, second = covered[first], covered[second]
        won = torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(reward[first] - reward[second])
        return cls(features, reward, covered, torch.where(won, first, second), torch.where(won, second, first))

    def log_policy(self, theta: Tensor, beta: float) -> Tensor:
        """log pi, proportional to exp(implicit reward / beta): the reference is uniform. `[RESPONSES]`."""
        return (self.features @ theta / beta).log_softmax(-1)

    def loss(self, theta: Tensor, eta: float) -> Tensor:
        """RPO's with the winner as the baseline's completion; eta infinite is the SFT term alone."""
        logp = self.log_policy(theta, BETA)
        logp_w, logp_l, ref = logp[self.winners], logp[self.losers], torch.zeros(len(self.winners), dtype=logp.dtype)
        if eta == float("inf"):
            return sft(logp_w).mean()
        return rpo(BETA * log_ratio(logp_w, logp_l, ref, ref), logp_w, eta, BETA).mean()

    def judged(self, log_policy: Tensor) -> list[float]:
        """E[r*], mass on responses that were ever compared or could be, mean log-probability of the winners: `MEASURES`."""
        p = log_policy.exp()
        return [float(p @ self.reward), float(p[self.covered].sum()), float(log_policy[self.winners].mean())]


def fitted(task: Task) -> dict[str, list[float]]:
    """`MEASURES` of each arm. DPO's implicit reward does not depend on beta, which only says how far the policy follows it."""
    world = World.drawn(task.seed, task.n)
    start = torch.zeros(DIMENSION, dtype=torch.float64)
    theta = minimise(lambda x: world.loss(x, 0.0), start)
    arms = {f"dpo {beta:g}": world.judged(world.log_policy(theta, beta)) for beta in DPO_BETAS}
    for name, eta in (("sft", float("inf")), *((f"rpo {eta:g}", eta) for eta in ETAS)):
        arms[name] = world.judged(world.log_policy(minimise(partial(world.loss, eta=eta), start), BETA))
    return arms


# --- likelihood displacement, with sequence policies -----------------------------------------------------------------------


def displaced(seeds: list[int], steps: int = STEPS) -> dict[str, np.ndarray]:
    """Mean change of the log-probability of chosen sequences, in nats, `{arm: [seeds]}`; all seeds and arms as copies of one policy."""
    drawn = [sequences(seed) for seed in seeds]
    reference = Bigram(torch.stack([logits for logits, _ in drawn])).requires_grad_(False)  # [seeds, ...]
    pairs = torch.stack([each for _, each in drawn])  # [seeds, PAIRS, 2, L]
    ref = reference.logprobs(pairs.flatten(1, 2)).unflatten(1, (PAIRS, 2))  # [seeds, PAIRS, 2]
    generators = [torch.Generator().manual_seed(derived(seed, "batches")) for seed in seeds]
    policy = Bigram(reference.logits.unsqueeze(1).repeat(1, len(SEQUENCE_ETAS), 1, 1, 1))  # [seeds, arms, ...]
    optimiser = adam(policy.parameters(), RATE)
    for _ in range(steps):
        rows = torch.stack([torch.randint(PAIRS, (BATCH,), generator=generator) for generator in generators])  # [seeds, B]
        batch = pairs.gather(1, rows[..., None, None].expand(-1, -1, 2, LENGTH))
        logp = policy.logprobs(batch.flatten(1, 2).unsqueeze(1).expand(-1, len(SEQUENCE_ETAS), -1, -1)).unflatten(-1, (BATCH, 2))
        logp_w, logp_l = logp.unbind(-1)  # [seeds, arms, B]
        ref_w, ref_l = ref.gather(1, rows[..., None].expand(-1, -1, 2)).unsqueeze(1).unbind(-1)
        x = BETA * log_ratio(logp_w, logp_l, ref_w, ref_l)
        losses = [rpo(x[:, i], logp_w[:, i], eta, BETA).mean(-1).sum() for i, eta in enumerate(SEQUENCE_ETAS)]
        descend(torch.stack(losses).sum(), optimiser)
    with torch.no_grad():
        chosen = policy.logprobs(pairs[:, None, :, 0].expand(-1, len(SEQUENCE_ETAS), -1, -1))
        change = (chosen - ref[:, None, :, 0]).mean(-1)  # [seeds, arms]
    return {f"rpo {eta:g}" if eta else "dpo": change[:, i].numpy() for i, eta in enumerate(SEQUENCE_ETAS)}


def sequences(seed: int) -> tuple[Tensor, Tensor]:
    """A reference's logits, and pairs of its samples with the winner first, `[PAIRS, 2, L]`."""
    generator = torch.Generator().manual_seed(derived(seed, "sequences"))
    reference = Bigram(random_logits(LENGTH, VOCABULARY, (), generator))
    v = torch.randn(VOCABULARY, generator=generator)
    values = 1.5 / LENGTH**0.5 * (v - v.mean())
    pairs = reference.sample(2 * PAIRS, generator).view(PAIRS, 2, LENGTH)
    score = values[pairs].sum(-1)
    lost = torch.rand(PAIRS, generator=generator) >= torch.sigmoid(score[:, 0] - score[:, 1])
    return reference.logits.detach(), torch.where(lost[:, None, None], pairs.flip(1), pairs)


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    arm, out = f"rpo {ETA:g}", []
    for n in SIZES:
        panel = f"reward, n = {n}"
        best = max((f"dpo {beta:g}" for beta in DPO_BETAS), key=lambda name: per_seed(scores, panel, name).mean())
        statement = f"from {n} pairs RPO (eta {ETA:g}) earns more true reward than DPO with its best beta, chosen afterwards ({best[4:]})"
        out.append(difference(scores, panel, arm, best, name=f"dpo, n = {n}", statement=statement, same_seeds=True))
        statement = f"from {n} pairs it earns a higher true reward than SFT on the winners"
        out.append(
            difference(scores, panel, arm, "sft", name=f"sft, n = {n}", statement=statement, same_seeds=True, required=n == max(SIZES))
        )
        statement = f"from {n} pairs its chosen responses are more probable than under DPO with the same beta, in every seed"
        out.append(least(scores, f"chosen, n = {n}", arm, f"dpo {BETA:g}", f"chosen, n = {n}", statement))
        statement = f"from {n} pairs it keeps more mass on responses that were compared"
        out.append(
            difference(
                scores,
                f"covered, n = {n}",
                arm,
                f"dpo {BETA:g}",
                name=f"covered, n = {n}",
                statement=statement,
                same_seeds=True,
                required=False,
            )
        )
    for eta in SEQUENCE_ETAS[1:]:
        statement = f"sequences: with eta {eta:g} the chosen lose less log-probability than under DPO, in every seed"
        out.append(least(scores, "chosen, sequences", f"rpo {eta:g}", "dpo", f"sequences, eta {eta:g}", statement, required=eta == ETA))
    return out


def least(scores: Scores, panel: str, arm: str, baseline: str, name: str, statement: str, *, required: bool = True) -> Check:
    """Higher in every seed; the value is the smallest difference, the interval that of the mean difference."""
    apart = per_seed(scores, panel, arm) - per_seed(scores, panel, baseline)
    return stated(name, statement, panel, apart.min(), apart.min() > 0.0, threshold=0.0, interval=mean_interval(apart), required=required)


CLAIM = Claim(
    slug="rpo",
    title="Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer",
    statement="Where preferences cover few of the possible responses, DPO moves its policy to responses that were never compared, whatever"
    " its beta; the SFT term on the winners keeps it with what is known to be good, so the true reward is higher, and the winners' own"
    " log-probability falls far less.",
    seeds=40,
    arms={
        **{f"dpo {beta:g}": f"DPO, beta {beta:g}" for beta in DPO_BETAS},
        "sft": "SFT on the winners",
        **{f"rpo {eta:g}": f"RPO, eta {eta:g}, beta {BETA:g}" for eta in (*ETAS, 1.0)},
        "dpo": f"DPO on sequences, beta {BETA:g}",
    },
    panels={
        **{f"reward, n = {n}": f"exact E[r*] of the policy, from {n} pairs" for n in SIZES},
        **{f"covered, n = {n}": "mass of the policy on the 20 responses that pairs are drawn from" for n in SIZES},
        **{f"chosen, n = {n}": "mean log-probability of the winners" for n in SIZES},
        "chosen, sequences": "mean change of the winners' log-probability in training, in nats",
    },
    scales={
        "small": "100 responses with 20 features, 20 of them compared in 60 or 200 pairs, log-linear policies fitted to the minimum; and"
        " sequences of 8 tokens out of 16, bigram policies, 1,000 pairs, 2,000 steps.",
        "full": "The paper's: Mistral-7B on UltraFeedback and gemma-7b on dpo-mix-7k.",
    },
    run=run,
    checks=checks,
)
