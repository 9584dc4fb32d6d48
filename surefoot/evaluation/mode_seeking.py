"""Why it matters who draws: what the gradients of forward and reverse KL do to a law over actions, and pictures of both.

Tajwar et al., "Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data", arXiv 2404.14367v3. The policy
gradient of E[r] - beta KL(p||ref) is -beta times the gradient of the reverse KL(p||p*), p* ~ ref exp(r / beta): it seeks a mode. Imitation
of reference samples, weighted or selected, descends a forward KL(q||p): it covers. In logits of p, with target q:

    forward  p_k - q_k            reverse  p_k (log(p_k / q_k) - KL(p||q))

Of two actions with equal p, a step of size eta moves the log-odds by eta (q_1 - q_2), or eta p log(q_1 / q_2): where q_2 is nearly 0 the
reverse one takes mass away much faster. Laws are float64 arrays `[..., A]` that are positive and sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surefoot.errors import DataError

Kind = Literal["forward", "reverse"]

# --- gradients --------------------------------------------------------------------------------------------------------


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p||q) in nats, `[...]`."""
    return (p * np.log(p / q)).sum(-1)


def forward_gradient(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Gradient of KL(q||p) in the logits of p, `[..., A]`."""
    _check(p, q)
    return p - q


def reverse_gradient(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Gradient of KL(p||q) in the logits of p, `[..., A]`."""
    _check(p, q)
    return p * (np.log(p / q) - kl(p, q)[..., None])


def log_odds_change(kind: Kind, p: float, q1: float, q2: float, step: float = 1.0) -> float:
    """Of log(p_1 / p_2) in one descent step of that size, where p_1 = p_2 = p."""
    return step * ((q1 - q2) if kind == "forward" else p * float(np.log(q1 / q2)))


def reverse_is_faster(p: float, q1: float, q2: float) -> bool:
    """Whether the reverse step parts the two more: p log(q_1 / q_2) > q_1 - q_2, for q_1 > q_2."""
    return log_odds_change("reverse", p, q1, q2) > log_odds_change("forward", p, q1, q2)


def flow(kind: Kind, p: np.ndarray, q: np.ndarray, steps: int, rate: float) -> np.ndarray:
    """Laws along gradient descent in logits from p, `[steps + 1, ..., A]`."""
    gradient = forward_gradient if kind == "forward" else reverse_gradient
    logits, laws = np.log(p), [p]
    for _ in range(steps):
        logits = logits - rate * gradient(laws[-1], q)
        laws.append(_softmax(logits))
    return np.stack(laws)


# --- what the losses aim at -------------------------------------------------------------------------------------------


def tilted(reference: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    """p* ~ ref exp(r / beta), which maximises E[r] - beta KL(.||ref): where policy gradients go, and what offline RWR covers."""
    return _softmax(np.log(reference) + reward / beta)


def objective_gradient(p: np.ndarray, reference: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    """Gradient of E_p[r] - beta KL(p||ref) in the logits of p, `[..., A]`: minus beta times the reverse gradient towards p*."""
    gain = reward - beta * np.log(p / reference)
    return p * (gain - (p * gain).sum(-1, keepdims=True))


def best_of_n_law(reference: np.ndarray, reward: np.ndarray, n: int) -> np.ndarray:
    """The law of the best of n draws of the reference, which offline best-of-N covers; equals share as the reference has them."""
    below = (reference[..., None, :] * (reward[..., None, :] < reward[..., :, None])).sum(-1)
    upto = (reference[..., None, :] * (reward[..., None, :] <= reward[..., :, None])).sum(-1)
    return (upto**n - below**n) * reference / (upto - below)


def _softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _check(*laws: np.ndarray) -> None:
    for law in laws:
        if not (law > 0.0).all() or not np.allclose(law.sum(-1), 1.0, atol=1e-6):
            raise DataError("a law over actions is not positive with sum 1: floor it and divide by its sum.")


# --- pictures ---------------------------------------------------------------------------------------------------------

SHADES = ("#c9d7e4", "#9fbcd4", "#6f9cc2", "#3b78ab", "#174a7c")
STYLES: dict[str, dict[str, Any]] = {"offline": {"ls": (0, (4, 1.5))}, "on-policy": {"ls": "-"}}
COLOURS = ("#1b6ca8", "#c0392b", "#3aa17e", "#b8860b", "#7d5ba6", "#0e8c8c", "#666666")


def draw_flows(
    path: Path, p: np.ndarray, targets: Mapping[Kind, np.ndarray], *, steps: Sequence[int] = (0, 1, 4, 16, 64), rate: float = 1.0
) -> None:
    """Descent from `p` `[A]` by both gradients, each to its target: covering beside seeking."""
    figure, axes = _panels(len(targets), 2)
    for ax, (kind, q) in zip(axes, targets.items(), strict=True):
        laws = flow(kind, p, q, max(steps), rate)
        for step, shade in zip(steps, _shades(len(steps)), strict=True):
            ax.plot(laws[step], color=shade, lw=1.6, label=f"{step} steps")
        ax.plot(q, color="#c0392b", lw=1.2, ls=":", label="target")
        ax.set(title={"forward": "forward KL: covers", "reverse": "reverse KL: seeks"}[kind], xlabel="action", ylabel="mass")
        ax.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_mass(path: Path, mass: Mapping[str, Mapping[str, Sequence[float]]], *, columns: int = 4, bump: Sequence[float] = ()) -> None:
    """Of each arm the law over actions after some epochs, `{arm: {epoch: [A]}}`; `bump` `[A]` is the reward, drawn behind."""
    figure, axes = _panels(len(mass), columns)
    for ax, (arm, at) in zip(axes, mass.items(), strict=True):
        top = max(max(law) for law in at.values())
        if len(bump):
            ax.fill_between(range(len(bump)), np.asarray(bump) * top, color="#c0392b", alpha=0.10, lw=0)
        for (epoch, law), shade in zip(at.items(), _shades(len(at)), strict=True):
            ax.plot(law, color=shade, lw=1.4, label=f"epoch {epoch}")
        ax.set(title=arm, xlabel="action", ylabel="mass")
    axes[0].legend(frameon=False, fontsize=7.5)
    _save(figure, path)


def draw_rewards(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]], *, title: str = "") -> None:
    """Reward against rewards asked for, and against KL to the reference: `{arm: {"queries", "reward", "kl": [T]}}`.

    An arm's name ends in "offline" or "on-policy" where it is one: that is its dash; losses are colours.
    """
    figure, axes = _panels(2, 2, height=3.6)
    losses = list(dict.fromkeys(_loss(arm) for arm in curves))
    for arm, curve in curves.items():
        look: dict[str, Any] = {"color": COLOURS[losses.index(_loss(arm)) % len(COLOURS)], "lw": 1.6} | _dash(arm)
        for ax, x in zip(axes, ("queries", "kl"), strict=True):
            ax.plot(curve[x], curve["reward"], label=arm, **look)
    axes[0].set(xlabel="rewards asked for", ylabel="expected reward", title=title)
    axes[0].set_xscale("symlog", linthresh=max(1.0, min(max(curve["queries"]) for curve in curves.values()) / 100.0))
    axes[1].set(xlabel="KL to the reference (nats)", ylabel="expected reward")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path)


def _loss(arm: str) -> str:
    return arm.removesuffix(" offline").removesuffix(" on-policy")


def _dash(arm: str) -> dict[str, Any]:
    return next((style for end, style in STYLES.items() if arm.endswith(end)), {"ls": "-"})


def _shades(n: int) -> list[str]:
    """From early to late."""
    return [SHADES[round(i * (len(SHADES) - 1) / max(n - 1, 1))] for i in range(n)]


def _panels(n: int, columns: int, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    columns = min(n, columns)
    rows = ceil(n / columns)
    figure = Figure((min(4.8, 12.0 / columns) * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(n)]
    for ax in axes:
        ax.grid(alpha=0.3, lw=0.5)
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
