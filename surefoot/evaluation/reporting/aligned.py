"""The report's part on language models: reward over KL divergence, who wins against the base, and answers side by side.

From what `surefoot compare` leaves in `evidence/aligned.json` of the runs it is about, and from the metrics of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.arms import Arm, Series, folder_name, interval, without_folder
from surefoot.evaluation.reporting.blocks import RANGE, Column, Figure, Table, estimate
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.figures import Row, swatch
from surefoot.evaluation.reporting.findings import listed, p_words, percent, plural, words
from surefoot.evaluation.reporting.frontier import Path, Point, dot, frontier
from surefoot.evaluation.reporting.whom import MALFORMED, finite, text
from surefoot.evaluation.statistics import Interval

KIND = "aligned"
LEAD = (
    "Each model answered the same prompts, which none was trained on if they were held out. A model that earns more reward close to the"
    " reference is better than one that earns it far away: there, a reward that is itself learned can no longer be trusted."
)
NOTE = (
    "KL: how far the model moved from the reference, in nats: the mean of log π(y|x) − log ref(y|x) over its own answers. Wins: how often"
    " an answer has a higher reward than the base's to the same prompt; a tie counts half. Intervals are over prompts."
)
SAMPLES = 6  # prompts whose answers are shown
LONG = 700  # characters of a text that is shown


@dataclass(frozen=True)
class Model:
    """One model of a comparison."""

    name: str
    arm: Arm | None  # its run, if that is in the report
    reward: Interval
    kl: Interval
    length: Interval
    ended: float
    wins: Interval | None
    p: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What one call of `surefoot compare` found."""

    models: Sequence[Model]
    base: str
    reference: str
    reward: str
    prompts: int
    samples: int
    answers: Sequence[tuple[str, Sequence[tuple[str, float]]]]  # prompt, then of each model its answer and the reward


# --- reading --------------------------------------------------------------------------------------------------------


def comparisons(arms: Sequence[Arm]) -> list[Comparison]:
    """All of the runs, each once though several of its runs are in the report."""
    seen: set[str] = set()
    found = []
    for arm in arms:
        for data in arm.evidence.values():
            same = json.dumps(data, sort_keys=True)
            if same not in seen and (one := read_comparison(arms, data)) is not None:
                found.append(one)
            seen.add(same)
    return found


def read_comparison(arms: Sequence[Arm], data: Mapping[str, Any]) -> Comparison | None:
    """What a file of the evidence says; None if it is of another form."""
    if data.get("kind") != KIND:
        return None
    try:
        models = [_model(arms, each) for each in data["models"]]
        rows = [
            (_long(row["prompt"]), [(_long(each["text"]), finite(each["reward"])) for each in row["answers"]]) for row in data["answers"]
        ]
        if not models or any(len(answers) != len(models) for _, answers in rows):
            raise ValueError("one answer a model is needed")
        base, reference, reward = (text(without_folder(data[name]), 60) for name in ("base", "reference", "reward"))
        return Comparison(models, base, reference, reward, int(data["prompts"]), int(data["samples"]), rows)
    except MALFORMED:
        return None


def _model(arms: Sequence[Arm], data: Mapping[str, Any]) -> Model:
    own = [arm for arm in arms if folder_name(arm.folder) == data.get("run")]
    p = data.get("p")
    return Model(
        name=text(without_folder(data["name"]), 60),
        arm=own[0] if len(own) == 1 else None,
        reward=_needed(data["reward"]),
        kl=_needed(data["kl"]),
        length=_needed(data["length"]),
        ended=finite(data["ended"]),
        wins=interval(data["wins"]) if data.get("wins") else None,
        p=None if p is None else finite(p),
    )


def _needed(data: Any) -> Interval:
    found = interval(data)
    if found is None or not np.isfinite(found.value):
        raise ValueError("an interval is needed")
    return found


def _long(data: Any) -> str:
    if not isinstance(data, str):
        raise ValueError("a text is needed")
    return data if len(data) <= LONG else f"{data[:LONG]}…"


# --- section --------------------------------------------------------------------------------------------------------


def aligned(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """The comparisons and the way that training took; None if there is nothing of either."""
    found = [section(one) for one in comparisons(arms)]
    way = training(arms)
    return {"lead": LEAD, "comparisons": found, "training": way, "note": NOTE} if found or way else None


def section(one: Comparison) -> dict[str, Any]:
    """One comparison for the template."""
    drawn = [_frontier(one), *([_wins(one)] if any(model.wins for model in one.models) else [])]
    return {
        "title": f"{plural(one.prompts, 'prompt')}, {plural(one.samples, 'answer')} each, reward {one.reward}",
        "figures": drawn,
        "table": _table(one),
        "answers": [
            (prompt, [(_mark(one, i), _name(one.models[i]), said, number(reward)) for i, (said, reward) in enumerate(row)])
            for prompt, row in one.answers[:SAMPLES]
        ],
    }


def _name(model: Model) -> str:
    return model.arm.label if model.arm is not None else model.name


def _place(one: Comparison, i: int) -> int:
    """The colour of a model: that of its arm, or the next one that no arm has."""
    taken = {model.arm.place for model in one.models if model.arm is not None}
    free = (place for place in range(len(one.models) + len(taken)) if place not in taken)
    own = [model.arm.place if model.arm is not None else next(free) for model in one.models]
    return own[i]


def _mark(one: Comparison, i: int) -> Markup:
    return dot(_place(one, i))


def _frontier(one: Comparison) -> Figure:
    points = [Point(_place(one, i), model.kl, model.reward) for i, model in enumerate(one.models)]
    said = [f"{_name(model)} reward {words(model.reward)} at KL {words(model.kl)}" for model in one.models]
    drawing = frontier(points, alt=f"Reward over KL divergence to the reference: {listed(said)}.")
    legend = [(_mark(one, i), _name(model)) for i, model in enumerate(one.models)]
    return Figure("Reward over KL", drawing, f"Dot: mean. Bars: 95 % intervals. The reference, {one.reference}, is at KL 0.", legend)


def _wins(one: Comparison) -> Figure:
    rows = [Row(_name(model), model.wins, (), _place(one, i)) for i, model in enumerate(one.models) if model.wins is not None]
    said = listed([f"{row.label} {words(row.interval)}" for row in rows])
    alt = f"Dot chart of win rates against {one.base} with 95 % intervals: {said}."
    drawing = figures.intervals(rows, x="share of wins", alt=alt, references=[(0.5, "even")])
    caption = "How often an answer has the higher reward. Bar: 95 % interval. Clear of the dashed line: hardly chance."
    return Figure(f"Wins against {one.base}", drawing, caption)


def _table(one: Comparison) -> Table:
    names = (f"reward {RANGE}", f"KL {RANGE}", f"wins {RANGE}", "p (Holm)", "tokens", "ended")
    rows = []
    for i, model in enumerate(one.models):
        name = Markup('<span class="arm">{} {}</span>').format(_mark(one, i), _name(model))
        p = "–" if model.p is None else p_words(model.p).removeprefix("p = ").removeprefix("p ")
        rows.append(
            [name, estimate(model.reward), estimate(model.kl), estimate(model.wins), p, number(model.length.value), percent(model.ended)]
        )
    return Table("Models compared", [Column("model"), *(Column(name, True) for name in names)], rows)


def aligned_said(arms: Sequence[Arm]) -> list[Markup]:
    """A sentence for each model that was compared with a base."""
    sentence = Markup("<b>{}</b> earns a reward of <b>{}</b> at a KL divergence of {} to {}, and wins <b>{}</b> of the time against {}.")
    return [
        sentence.format(_name(model), words(model.reward), words(model.kl), one.reference, _share(model.wins), one.base)
        for one in comparisons(arms)
        for model in one.models
        if model.wins is not None
    ]


def _share(found: Interval) -> str:
    known = np.isfinite(found.low) and np.isfinite(found.high)
    return percent(found.value) + (f" [{percent(found.low)}, {percent(found.high)}]" if known else "")


# --- while training -------------------------------------------------------------------------------------------------


def training(arms: Sequence[Arm]) -> Figure | None:
    """The way that training took: reward over KL, where both were measured at the same updates; None if nowhere."""
    drawn = [(arm, path) for arm in arms if (path := _path(arm)) is not None]
    if not drawn:
        return None
    ends = [
        f"{arm.label} from reward {number(p.reward[0])} at KL {number(p.kl[0])} to {number(p.reward[-1])} at {number(p.kl[-1])}"
        for arm, p in drawn
    ]
    drawing = frontier([], [path for _, path in drawn], alt=f"Reward over KL divergence while training: {listed(ends)}.")
    legend = [(swatch(arm.place), arm.label) for arm, _ in drawn]
    return Figure("While training", drawing, "From the first measurement (ring) to the last (dot).", legend)


def _path(arm: Arm) -> Path | None:
    reward, kl = (_named(arm, name) for name in ("reward", "kl"))
    if not arm.speaks or reward is None or kl is None:
        return None
    _, own, other = np.intersect1d(reward.steps, kl.steps, return_indices=True)
    pair = np.stack([kl.values[other].mean(-1), reward.values[own].mean(-1)])
    pair = pair[:, np.isfinite(pair).all(0)]
    return Path(arm.place, pair[0], pair[1]) if pair.shape[1] > 1 else None


def _named(arm: Arm, last: str) -> Series | None:
    """The metric of this name, of an evaluation rather than of training."""
    names = sorted((name for name in arm.series if name.split("/")[-1] == last), key=lambda name: not name.startswith("eval/"))
    return arm.series[names[0]] if names else None
