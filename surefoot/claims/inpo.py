"""The claim of INPO: where preferences are intransitive, self-play on both anchors nears the Nash policy, and no fit of a reward does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, per_seed, stated
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import Interval, paired
from surefoot.methods.exact.preference_game import PreferenceGame, growing_eta, kl, random_game
from surefoot.methods.language import losses
from surefoot.nn.optimise import adam, descend
from surefoot.training.engines import run_tasks

TAU, ETA = 0.1, 0.3
ROUNDS, PAIRS, STEPS, LEARNING_RATE = 40, 8000, 150, 0.1
BETAS = (0.1, 0.5, 1.0, 2.0)
"""Of iterative DPO; with 2 the best of them lies inside."""

FACTOR = 3.0
"""By how much INPO's gap must be below the best baseline's, on every seed."""


@dataclass(frozen=True)
class Arm:
    """How an arm fits the pairs of a round: a loss of h, the winner's log-ratio to the anchor less the loser's.

    The anchor is a log ref + (1 - a) log pi_t. `scale` is INPO's eta or the beta of DPO and IPO, None for the eta that grows
    with the rounds; `a` is None for tau / eta.
    """

    loss: Callable[[Tensor, float], Tensor]
    scale: float | None
    a: float | None = None

    def of_round(self, t: int) -> tuple[float, float]:
        """Scale and a of round t = 1, 2, ..."""
        scale = growing_eta(TAU, t) if self.scale is None else self.scale
        return scale, TAU / scale if self.a is None else self.a


def dpo(h: Tensor, beta: float) -> Tensor:
    return losses.dpo(beta * h)


def ipo(h: Tensor, beta: float) -> Tensor:
    return losses.ipo(beta * h)


INPO, WITHOUT_KL = "inpo growing", "inpo growing, tau 0"
ARMS: dict[str, Arm] = {
    INPO: Arm(losses.inpo, None),
    "inpo constant": Arm(losses.inpo, ETA),
    **{f"dpo {beta}": Arm(dpo, beta, 1.0) for beta in BETAS},
    "dpo 1.0, anchor pi_t": Arm(dpo, 1.0, 0.0),
    **{f"ipo {beta}": Arm(ipo, beta, 1.0) for beta in (0.1, 0.3)},
    WITHOUT_KL: Arm(losses.inpo, None, 0.0),
    "inpo constant, tau 0": Arm(losses.inpo, ETA, 0.0),
}
BASELINES = tuple(name for name in ARMS if not name.startswith("inpo"))


@dataclass(frozen=True)
class Rounds:
    """How long to play, and how a round's pairs are fitted."""

    n: int = ROUNDS
    pairs: int = PAIRS
    steps: int = STEPS
    learning_rate: float = LEARNING_RATE


class Table(nn.Module):
    """A policy of free logits, `[*copies, S, Y]`."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self) -> Tensor:
        return self.logits


@dataclass(frozen=True)
class Task:
    """One arm on all seeds, a copy a seed."""

    arm: str
    seeds: tuple[int, ...]
    rounds: Rounds = field(default_factory=Rounds)


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale aligns a language model of yours: `surefoot align inpo --model MODEL --data prompts.jsonl`, three rounds of "
            "20,000 prompts with a pair-preference model, then AlpacaEval 2.0, Arena-Hard and MT-Bench by their own tools."
        )
    tasks = [Task(arm, tuple(context.seeds)) for arm in ARMS]
    outcomes = run_tasks(measured, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"{task.arm}: {ROUNDS} rounds played"))
    of_arm = dict(zip(ARMS, outcomes, strict=True))
    context.facts["tau"] = TAU
    context.facts["gap of the reference"] = of_arm[INPO]["start"].tolist()
    context.facts["worst-case win rate of the Nash policy"] = of_arm[INPO]["nash"].tolist()
    panels = [panel for panel in CLAIM.panels if panel in of_arm[INPO]]
    return {panel: {arm: context.arm(outcome[panel]) for arm, outcome in of_arm.items()} for panel in panels}


# --- the experiment ----------------------------------------------------------------------------------------------------


def measured(task: Task) -> dict[str, np.ndarray]:
    """What one arm comes to, exactly, averaged over prompts: one entry a seed."""
    game = games(task.seeds)
    generators = [torch.Generator().manual_seed(derived(seed, "pairs")) for seed in task.seeds]
    policies = play(game, Table(game.log_reference), ARMS[task.arm], generators, task.rounds)
    gaps = torch.stack([game.duality_gap(policy).mean(-1) for policy in policies])  # [T + 1, F]
    final = policies[-1]
    found = {
        "gap": gaps[-1],
        "least gap": gaps[1:].amin(0),
        "worst-case win rate": game.worst_case_win_rate(final).mean(-1),
        "KL": kl(final, game.log_reference).mean(-1),
        "start": gaps[0],
        "nash": game.worst_case_win_rate(game.nash()).mean(-1),
    }
    return {name: value.numpy() for name, value in found.items()}


def games(seeds: tuple[int, ...]) -> PreferenceGame:
    """A random game a seed, stacked: `[F, S, Y, Y]`."""
    each = [random_game(torch.Generator().manual_seed(derived(seed, "game")), TAU) for seed in seeds]
    return PreferenceGame(torch.stack([game.preference for game in each]), torch.stack([game.log_reference for game in each]), TAU)


def play(game: PreferenceGame, policy: nn.Module, arm: Arm, generators: list[torch.Generator], rounds: Rounds) -> list[Tensor]:
    """Sample, label, fit, round after round: log-probabilities `[*copies, S, Y]` of the iterates pi_1 .. pi_{T+1}.

    `policy()` gives logits of the responses, `[*copies, S, Y]`: a table, or any network. It starts as the reference, if it is
    to be pi_1; there is one generator a copy (one in all without copies), so that arms on the same seeds share their luck.
    """
    iterates = [logprobs(policy)]
    for t in range(1, rounds.n + 1):
        current = iterates[-1].to(game.preference)
        pairs = labelled(game, current, generators, rounds.pairs)
        fit(policy, pairs, *anchored(game, current, arm, t), rounds)
        iterates.append(logprobs(policy))
    return iterates


def anchored(game: PreferenceGame, current: Tensor, arm: Arm, t: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The anchor `[*copies, S, Y]` of round t, and the loss of h in it."""
    scale, a = arm.of_round(t)
    return losses.anchor(game.log_reference, current, a, 1.0), lambda h: arm.loss(h, scale)


@torch.no_grad()
def logprobs(policy: nn.Module) -> Tensor:
    return torch.as_tensor(policy()).log_softmax(-1)


def labelled(game: PreferenceGame, current: Tensor, generators: list[torch.Generator], n: int) -> Tensor:
    """Share of each (prompt, winner, loser) among n pairs of the current policy, `[*copies, S, Y, Y]`.

    The mean loss of a batch of pairs is the mean over these shares: with tables, exactly the full batch for a tenth of the work.
    """
    *copies, s, y = current.shape
    luck = torch.stack([torch.rand(4, n, generator=generator, dtype=current.dtype) for generator in generators])  # [F, 4, n]
    f = torch.arange(len(generators)).unsqueeze(-1)
    prompt = (luck[:, 0] * s).long()
    cumulative = current.reshape(-1, s, y).exp().cumsum(-1)[f, prompt]  # [F, n, Y]
    first, second = ((luck[:, i].unsqueeze(-1) > cumulative).sum(-1).clamp_max(y - 1) for i in (1, 2))
    won = luck[:, 3] < game.preference.reshape(-1, s, y, y)[f, prompt, first, second]
    winner, loser = torch.where(won, first, second), torch.where(won, second, first)
    cell = ((f * s + prompt) * y + winner) * y + loser
    counts = torch.bincount(cell.flatten(), minlength=len(generators) * s * y * y)
    return counts.reshape(*copies, s, y, y).to(current.dtype) / n


def fit(policy: nn.Module, pairs: Tensor, anchor: Tensor, loss: Callable[[Tensor], Tensor], rounds: Rounds) -> None:
    """Full-batch Adam with a learning rate that falls linearly to 0, from where the policy is."""
    optimiser = adam(policy.parameters(), rounds.learning_rate)
    anchor, pairs = (x.to(next(policy.parameters()).dtype) for x in (anchor, pairs))
    for step in range(rounds.steps):
        optimiser.param_groups[0]["lr"] = rounds.learning_rate * (1.0 - step / rounds.steps)
        h = losses.log_ratio(*all_pairs(policy().log_softmax(-1)), *all_pairs(anchor))
        descend((pairs * loss(h)).sum(), optimiser)


def all_pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to the winner and to the loser of each pair, `[..., Y, Y]` both, of `[..., Y]`."""
    return torch.broadcast_tensors(x.unsqueeze(-1), x.unsqueeze(-2))


# --- verdict -----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    """Baselines keep their best arm, on every seed anew, in the gap and in the win rate apart."""
    return [
        margin(scores, "gap", "gap", "on every seed"),
        better_than_best(scores),
        difference(
            scores,
            "KL",
            WITHOUT_KL,
            INPO,
            name="kl without tau",
            statement="without the reference in the anchor (tau = 0) INPO ends further from it",
            same_seeds=True,
        ),
        difference(
            scores,
            "worst-case win rate",
            INPO,
            WITHOUT_KL,
            name="win rate without tau",
            statement="and its worst-case win rate is lower",
            same_seeds=True,
        ),
        margin(scores, "least gap", "least gap", "on every seed, even where each arm stops at its best round", required=False),
    ]


def best(scores: Scores, panel: str, pick: Callable[..., np.ndarray]) -> np.ndarray:
    """Of each seed the best baseline, `[n]`."""
    return pick([per_seed(scores, panel, arm) for arm in BASELINES], axis=0)


def margin(scores: Scores, panel: str, name: str, when: str, required: bool = True) -> Check:
    """The least ratio, over seeds, of the best baseline's gap to INPO's."""
    ratio = best(scores, panel, np.min) / np.maximum(per_seed(scores, panel, INPO), 1e-12)
    statement = f"INPO's duality gap is at least {FACTOR:g} times below that of the best DPO or IPO arm {when} (least ratio)"
    return stated(name, statement, panel, ratio.min(), bool((ratio >= FACTOR).all()), threshold=FACTOR, required=required)


def better_than_best(scores: Scores) -> Check:
    """INPO's worst-case win rate against that of each seed's best baseline, pair by pair."""
    panel = "worst-case win rate"
    found = paired(per_seed(scores, panel, INPO), best(scores, panel, np.max))
    interval = Interval(found.difference, found.low, found.high)
    statement = "INPO's worst-case win rate is higher than the best DPO or IPO arm's of the seed (paired 95 % interval excludes 0)"
    return stated("win rate", statement, panel, found.difference, found.low > 0.0, threshold=0.0, interval=interval)


CLAIM = Claim(
    slug="inpo",
    title="Iterative Nash Policy Optimization",
    statement="Self-play on pairs that a general preference labels nears the regularised Nash policy; iterative DPO and IPO do not.",
    seeds=5,
    arms={
        INPO: "INPO, eta_t = tau (t + 2) / 2",
        "inpo constant": "INPO, eta = 0.3",
        **{f"dpo {beta}": f"iterative DPO on the same number of fresh pairs, anchor pi_ref, beta {beta}" for beta in BETAS},
        "dpo 1.0, anchor pi_t": "iterative DPO with the current policy as its reference, beta 1",
        **{f"ipo {beta}": f"online IPO, anchor pi_ref, beta {beta}" for beta in (0.1, 0.3)},
        WITHOUT_KL: "ablation: INPO with the same eta_t and anchor pi_t alone",
        "inpo constant, tau 0": "the same ablation of the constant eta",
    },
    panels={
        "gap": "duality gap of the KL-regularised game (tau 0.1) after the last round, mean over prompts, by matrices",
        "worst-case win rate": "win rate against the response that beats the policy best, mean over prompts",
        "KL": "KL(policy || reference), nats, mean over prompts",
        "least gap": "the gap after the best round of each arm, chosen with hindsight",
    },
    scales={
        "small": "random games of 16 prompts, 8 responses, rewards and cycles; 40 rounds of 8000 pairs; logits in a table.",
        "full": "LLaMA-3-8B, three rounds of 20,000 prompts, eight samples each, a pair-preference model with tournaments.",
    },
    run=run,
    checks=checks,
)
