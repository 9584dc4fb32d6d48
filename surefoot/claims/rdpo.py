"""The claim of rDPO: where labels are flipped it still finds the clean optimum, at rate 1/sqrt(n), and DPO and its like do not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, per_seed, stated, table
from surefoot.data.flips import flips
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import mean_interval
from surefoot.methods.exact.balls import minimise_in_balls
from surefoot.methods.language.losses import MarginLoss, conservative, dpo, hinge, ipo, log_ratio, robust
from surefoot.nn.bigram import Bigram, optimal_value, random_logits
from surefoot.nn.optimise import adam, descend
from surefoot.nn.schedules import scale_rates_
from surefoot.training.engines import run_tasks

FLIP_RATES = (0.3, 0.4)
SIZES = (1_000, 4_000, 16_000, 64_000, 256_000)
SLOPE_FROM = 2  # index of the first size that the slope is fitted to
DIMENSION, NORM, SPREAD = 6, 2.0, 1.5**2 / 6
WORLDS = 5  # a seed, whose errors are averaged: one error is as uncertain as a length of six normal numbers
RADIUS = 2 * NORM  # B: rDPO's loss of a small sample may have no minimum without a bound

LENGTH, VOCABULARY = 8, 16
PAIRS, BATCH, STEPS, RATE = 100_000, 64, 1_562, 1e-2  # one epoch


def objectives(eps: float) -> dict[str, MarginLoss]:
    """What each arm minimises over the recorded pairs, as a function of the margin."""
    return {
        "dpo": dpo,
        "cdpo": partial(conservative, dpo, flip_rate=eps),
        "ipo": ipo,
        "hinge": hinge,
        "rdpo": partial(robust, dpo, flip_rate=eps),
    }


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale aligns gpt2-large on IMDb sentiment: `surefoot align rdpo` on your own pairs, with --flip-rate 0.4."
        )
    tasks = [Theorem(seed, eps) for eps in FLIP_RATES for seed in context.seeds]
    found = run_tasks(errors, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"seed {task.seed}: fits at {task.eps}"))
    scores: Scores = {}
    for i, eps in enumerate(FLIP_RATES):
        of_rate = found[i * len(context.seeds) : (i + 1) * len(context.seeds)]
        scores[f"error, flips {eps}"] = {arm: context.arm([each[arm] for each in of_rate]) for arm in of_rate[0]}
    outcomes = run_tasks(align, context.seeds, jobs=context.jobs, done=lambda i, seed: context.say(f"seed {seed}: sequences"))
    for panel in outcomes[0]:
        scores[panel] = {arm: context.arm([each[panel][arm] for each in outcomes]) for arm in outcomes[0][panel]}
    context.notes.append("Values of sequence policies are exact (dynamic programming), not estimated from samples.")
    return scores


# --- panel A: the theorem, with log-linear policies ---------------------------------------------------------------------


@dataclass(frozen=True)
class Theorem:
    """One seed, all sizes of data."""

    seed: int
    eps: float


def errors(task: Theorem) -> dict[str, list[float]]:
    """||theta - theta*|| in the norm of the data's covariance for each size of the data, beta being 1: the mean over `WORLDS` worlds."""
    worlds = [errors_of_world(task.eps, derived(task.seed, f"world {i}")) for i in range(WORLDS)]
    return {arm: np.mean([world[arm] for world in worlds], 0).tolist() for arm in worlds[0]}


def errors_of_world(eps: float, seed: int) -> dict[str, list[float]]:
    """The same of one theta*, fresh pairs for every size."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(DIMENSION, generator=generator, dtype=torch.float64)
    truth = NORM * direction / direction.norm()
    arms = {"clean": dpo, **{arm: loss for arm, loss in objectives(eps).items() if arm in ("dpo", "cdpo", "rdpo")}}
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for n in SIZES:
        apart, flip = recorded_pairs(truth, n, eps, generator)
        noisy = torch.where(flip[:, None], -apart, apart)
        for arm, loss in arms.items():
            theta = fit(loss, apart if arm == "clean" else noisy)
            found[arm].append(float(((theta - truth).square().sum() * 2.0 * SPREAD).sqrt()))
    return found


def fit(loss: MarginLoss, apart: Tensor) -> Tensor:
    """The theta with ||theta|| <= B that minimises the mean loss of margins `apart` @ theta."""

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(w).requires_grad_()
        value = loss(apart @ theta).mean()
        return value.item(), torch.autograd.grad(value, [theta])[0].numpy()

    return torch.from_numpy(minimise_in_balls(objective, (apart.shape[1],), RADIUS))


def recorded_pairs(truth: Tensor, n: int, eps: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features of winner less those of loser under clean Bradley-Terry labels `[n, d]`, and which of them are recorded swapped `[n]`."""
    first, second = SPREAD**0.5 * torch.randn(2, n, DIMENSION, generator=generator, dtype=torch.float64)
    apart = first - second
    lost = torch.rand(n, generator=generator, dtype=torch.float64) >= torch.sigmoid(apart @ truth)
    return torch.where(lost[:, None], -apart, apart), flips((n,), eps, generator)


# --- panel B: a sequence policy from pairs of the reference's samples ------------------------------------------------------


def align(seed: int, pairs: int = PAIRS, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """All arms of a seed side by side, as copies of one bigram policy: `{panel: {arm: value}}`."""
    world = World.drawn(derived(seed, "data"), pairs)
    arms = [("clean", 0.0, dpo), *((arm, eps, loss) for eps in FLIP_RATES for arm, loss in objectives(eps).items())]
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(derived(seed, "batches")))
    flip = {eps: flips((pairs,), eps, torch.Generator().manual_seed(derived(seed, "flips"))) for eps in (0.0, *FLIP_RATES)}  # nested
    signs = torch.stack([1.0 - 2.0 * flip[eps].float() for _, eps, _ in arms])  # [arms, pairs]
    policy = Bigram(world.reference.logits.expand(len(arms), -1, -1, -1))
    optimiser = adam(policy.parameters(), RATE)
    for step in range(steps):
        scale_rates_(optimiser, 1.0 - step / steps)
        rows = order[(step * BATCH) % pairs :][:BATCH]
        h = world.margins(policy, rows)  # [arms, B], of the clean orientation; beta = 1
        x = h * signs[:, rows]
        descend(torch.stack([loss(x[i]).mean() for i, (_, _, loss) in enumerate(arms)]).sum(), optimiser)
    return judged(policy, world, [(arm, eps) for arm, eps, _ in arms])


@dataclass(frozen=True)
class World:
    """A reference, a latent reward a token, and pairs of the reference's samples, winner first by clean Bradley-Terry labels."""

    reference: Bigram
    values: Tensor  # [V]
    winners: Tensor  # [n, L]
    losers: Tensor  # [n, L]
    ref: Tensor  # [n] log-ratio of winner and loser under the reference

    @classmethod
    def drawn(cls, seed: int, pairs: int) -> World:
        generator = torch.Generator().manual_seed(seed)
        reference = Bigram(random_logits(LENGTH, VOCABULARY, (), generator)).requires_grad_(False)
        v = torch.randn(VOCABULARY, generator=generator)
        values = 1.5 / LENGTH**0.5 * (v - v.mean())
        first, second = reference.sample(2 * pairs, generator).chunk(2)
        won = torch.rand(pairs, generator=generator) < torch.sigmoid(values[first].sum(-1) - values[second].sum(-1))
        winners, losers = torch.where(won[:, None], first, second), torch.where(won[:, None], second, first)
        return cls(reference, values, winners, losers, reference.logprobs(winners) - reference.logprobs(losers))

    def margins(self, policy: Bigram, rows: Tensor) -> Tensor:
        """h of clean winner over loser, `[*copies, B]`."""
        logp = policy.logprobs(torch.cat([self.winners[rows], self.losers[rows]]))
        logp_w, logp_l = logp.chunk(2, -1)
        return log_ratio(logp_w, logp_l, self.ref[rows], torch.zeros_like(self.ref[rows]))


@torch.no_grad()
def judged(policy: Bigram, world: World, arms: list[tuple[str, float]]) -> dict[str, dict[str, float]]:
    """Exact J = E[R] - KL and E[R] of each arm, with the reference and the best policy; clean labels belong to both rates."""
    reward, kl = policy.expected(world.values), policy.kl(world.reference)
    bounds = {"reference": float(world.reference.expected(world.values)), "best": float(optimal_value(world.reference, world.values, 1.0))}
    panels: dict[str, dict[str, float]] = {}
    for eps in FLIP_RATES:
        mine = {arm: i for i, (arm, of_rate) in enumerate(arms) if arm == "clean" or of_rate == eps}
        panels[f"J, flips {eps}"] = {arm: float(reward[i] - kl[i]) for arm, i in mine.items()} | bounds
        panels[f"reward, flips {eps}"] = {arm: float(reward[i]) for arm, i in mine.items()}
    return panels


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    out = []
    for eps in FLIP_RATES:
        panel = f"error, flips {eps}"
        words = f"with {eps:.0%} of the labels flipped"
        out.append(slope(scores, panel, "rdpo", f"rate of rdpo, {eps}", f"{words} rDPO's error falls like 1/sqrt(n)", -0.65, -0.35))
        for arm in ("dpo", "cdpo"):
            statement = f"{words} the error of {arm.replace('dpo', 'DPO')} does not fall from 16,000 to 256,000 pairs"
            out.append(slope(scores, panel, arm, f"plateau of {arm}, {eps}", statement, -0.05, 0.05))
        last = {arm: table(scores, panel, arm)[:, -1].mean() for arm in ("dpo", "rdpo")}
        statement = f"{words} and 256,000 pairs rDPO's error is less than a fifth of DPO's"
        ratio = float(last["rdpo"] / last["dpo"])
        out.append(stated(f"error ratio, {eps}", statement, panel, ratio, ratio < 0.2, threshold=0.2))
    for eps in FLIP_RATES:
        for arm in ("dpo", "cdpo", "ipo", "hinge"):
            statement = f"with {eps:.0%} of the labels flipped rDPO's policy has a higher J than that of {ARMS[arm]}"
            out.append(
                difference(scores, f"J, flips {eps}", "rdpo", arm, name=f"J over {arm}, {eps}", statement=statement, same_seeds=True)
            )
        statement = f"and a higher mean reward than that of DPO, with {eps:.0%} flipped"
        out.append(
            difference(
                scores, f"reward, flips {eps}", "rdpo", "dpo", name=f"reward, {eps}", statement=statement, same_seeds=True, required=False
            )
        )
    gained = {arm: float((per_seed(scores, "J, flips 0.4", arm) - per_seed(scores, "J, flips 0.4", "reference")).mean()) for arm in ARMS}
    share = gained["rdpo"] / gained["clean"]
    statement = "with 40 % flipped rDPO gains at least half of what DPO gains from clean labels"
    out.append(stated("share of the ceiling", statement, "J, flips 0.4", share, share >= 0.5, threshold=0.5, required=False))
    for eps in FLIP_RATES:
        statement = f"with {eps:.0%} flipped rDPO's policy has a higher J than the reference"
        out.append(
            difference(
                scores, f"J, flips {eps}", "rdpo", "reference", name=f"gain, {eps}", statement=statement, same_seeds=True, required=False
            )
        )
    return out


def slope(scores: Scores, panel: str, arm: str, name: str, statement: str, low: float, high: float) -> Check:
    """Of log error on log n over the larger sizes, the mean over seeds, within [low, high]."""
    x = np.log(SIZES[SLOPE_FROM:])
    y = np.log(table(scores, panel, arm)[:, SLOPE_FROM:])
    slopes = (y - y.mean(-1, keepdims=True)) @ (x - x.mean()) / np.square(x - x.mean()).sum()
    mean = mean_interval(slopes)
    statement = f"{statement} (slope in [{low:g}, {high:g}])"
    return stated(name, statement, panel, mean.value, bool(low <= mean.value <= high), interval=mean)


ARMS = {
    "clean": "DPO on the labels before they were flipped: the ceiling",
    "dpo": "DPO",
    "cdpo": "conservative DPO (label smoothing at the true rate)",
    "ipo": "IPO",
    "hinge": "SLiC's hinge",
    "rdpo": "rDPO, told the true rate",
    "reference": "the reference, from which all start",
    "best": "the best policy there is",
}

CLAIM = Claim(
    slug="rdpo",
    title="Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    statement="From preference pairs a known share of which are swapped, rDPO's estimate converges to the clean optimum at rate 1/sqrt(n)"
    " where DPO and conservative DPO stay biased, and a sequence policy trained with it has a higher value than DPO's, cDPO's, IPO's and"
    " SLiC's.",
    seeds=10,
    arms=ARMS,
    panels={
        **{
            f"error, flips {eps}": f"error of theta with {', '.join(f'{n:,}' for n in SIZES)} pairs, mean over {WORLDS} worlds a seed"
            for eps in FLIP_RATES
        },
        **{f"J, flips {eps}": "exact E[R] - KL(policy || reference), in nats" for eps in FLIP_RATES},
        **{f"reward, flips {eps}": "exact E[R]" for eps in FLIP_RATES},
    },
    scales={
        "small": "Log-linear policies in 6 dimensions with up to 256,000 pairs; and sequences of 8 tokens out of 16, a bigram policy,"
        " 100,000 pairs, one epoch.",
        "full": "The paper's: IMDb with gpt2-large and 40 % flips, Anthropic's helpful and harmless pairs with Llama-2-7B.",
    },
    run=run,
    checks=checks,
)
