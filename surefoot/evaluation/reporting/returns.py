"""The report's part on returns: while training, at the end, and compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.arms import RETURN, Arm, Series, shortened
from surefoot.evaluation.reporting.blocks import RANGE, Column, Figure, Group, Table, estimate, legend
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.figures import Curve, Row
from surefoot.evaluation.reporting.findings import Pair, Unit, listed, p_words, pairs, plural, unit, words

SHOWN = 4  # charts of metrics that are open at once
POINTS = 250  # of a curve, at most
TOLD = ("reward", "kl", "margin", "accuracy")  # of a language model first


# --- while training -------------------------------------------------------------------------------------------------


def learning_curves(found: Sequence[Group]) -> list[dict[str, Any]]:
    """For each environment the returns while training, then the other metrics, losses first; of language models what they earn."""
    sections = []
    for group in found:
        names = list(dict.fromkeys(name for arm in group.arms for name in arm.series))
        speaks = all(arm.speaks for arm in group.arms)
        names.sort(key=lambda name: (name != RETURN, _of_language(name) if speaks else 0, not name.startswith("eval/"), "loss" not in name))
        drawn = [_metric(name, [arm for arm in group.arms if name in arm.series]) for name in names]
        if drawn:
            sections.append({"name": group.name, "first": drawn[:SHOWN], "more": drawn[SHOWN:]})
    return sections


def _of_language(name: str) -> int:
    """The place of a metric among those of a language model's training; those that are not named keep the order of the log."""
    last = name.split("/")[-1]
    return TOLD.index(last) if last in TOLD else len(TOLD)


def _metric(name: str, arms: Sequence[Arm]) -> Figure:
    said = "return while training" if name == RETURN else name.replace("/", " / ").replace("_", " ")
    drawn = [_curve(arm.place, arm.series[name]) for arm in arms]
    ends = [f"{arm.label} from {number(c.middle[0])} to {number(c.middle[-1])}" for arm, c in zip(arms, drawn, strict=True)]
    alt = f"Line chart of {said} over updates, mean over seeds: {listed(ends)}."
    references = list(dict.fromkeys(logged(arms))) if name == RETURN else []
    y = "return of an episode" if name == RETURN else shortened(said)
    return Figure(said[0].upper() + said[1:], figures.curves(drawn, x="updates", y=y, alt=alt, references=references), legend=legend(arms))


def _curve(place: int, series: Series) -> Curve:
    """Mean over members with the band from the lowest to the highest; long series are thinned out."""
    known = np.isfinite(series.values).any(-1)
    steps, values = series.steps[known], series.values[known]
    keep = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    steps, values = steps[keep], values[keep]
    if values.shape[1] == 1:
        return Curve(place, steps, values[:, 0])
    return Curve(place, steps, np.nanmean(values, -1), np.nanmin(values, -1), np.nanmax(values, -1))


def logged(arms: Sequence[Arm]) -> list[tuple[float, str]]:
    """Mean return of the log's own episodes, where all arms learned from one log."""
    logs = {arm.fingerprint: arm.log for arm in arms}
    found = next(iter(logs.values()), {})
    mean = found.get("returns", {}).get("mean") if len(logs) == 1 and isinstance(found.get("returns"), dict) else None
    return [(float(mean), "the log's mean")] if isinstance(mean, int | float) else []


# --- at the end -----------------------------------------------------------------------------------------------------


def final_returns(found: Sequence[Group]) -> list[dict[str, Any]]:
    """For each environment the final returns with their intervals, and every pair of arms compared."""
    sections = []
    for group in found:
        arms = [arm for arm in group.arms if arm.last is not None]
        if not arms:
            continue
        section: dict[str, Any] = {"name": group.name, "figures": [_returns(arms)], "pairs": None, "note": ""}
        compared, drawn_from = pairs(arms), unit(arms)
        if drawn_from is None:
            section["note"] = (
                "Fleets and single policies are mixed here, so no pair is compared: fleets speak about methods, a policy only about itself."
            )
        elif compared:
            section["figures"].append(_differences(compared, drawn_from))
            section |= {"pairs": _pair_table(compared, group.name), "note": _pairs_note(drawn_from, len(compared))}
        sections.append(section)
    return sections


def _returns(arms: Sequence[Arm]) -> Figure:
    rows = []
    for arm in arms:
        assert arm.last is not None
        points = arm.last.members.tolist() if len(arm.last.returns) > 1 else []
        rows.append(Row(arm.label, arm.last.mean, points, arm.place))
    alt = f"Dot chart of mean returns with 95 % intervals: {listed([f'{row.label} {words(row.interval)}' for row in rows])}."
    drawing = figures.intervals(rows, x="return of an episode", alt=alt, references=logged(arms))
    episodes = sorted({arm.last.returns.shape[1] for arm in arms if arm.last is not None})
    each = plural(episodes[0], "episode") if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]} episodes"
    rings = f" Rings: the seeds, each its mean over {each}." if any(row.points for row in rows) else f" {each[0].upper()}{each[1:]} each."
    return Figure("Final returns", drawing, f"Dot: mean. Bar: its 95 % interval.{rings}")


def _differences(compared: Sequence[Pair], drawn_from: Unit) -> Figure:
    rows = [Row(pair.name, pair.gain) for pair in compared]
    alt = f"Dot chart of differences of mean returns with 95 % intervals: {listed([f'{r.label}: {words(r.interval)}' for r in rows])}."
    drawing = figures.intervals(rows, x="difference of mean returns", alt=alt, references=[(0.0, "no difference")])
    return Figure("Differences", drawing, f"Bar: 95 % interval (Welch, over {drawn_from}). Clear of the dashed line: hardly chance.")


def _pair_table(compared: Sequence[Pair], name: str) -> Table:
    columns = [Column("pair"), *(Column(x, True) for x in (f"difference {RANGE}", "p (Holm)", f"P(first is better) {RANGE}"))]
    rows = [
        (pair.name, estimate(pair.gain), p_words(pair.p).removeprefix("p = ").removeprefix("p "), estimate(pair.better))
        for pair in compared
    ]
    return Table(f"Pairs compared, {name}", columns, rows)


def _pairs_note(drawn_from: Unit, n: int) -> str:
    whose = "the mean returns of the seeds" if drawn_from == "seeds" else "the episodes of these policies"
    correction = f"; p-values are corrected for {n} comparisons (Holm)" if n > 1 else ""
    one = "seed" if drawn_from == "seeds" else "episode"
    return f"Welch's t-test on {whose}{correction}. P(first is better): one {one} of each is drawn at random, ties count half."
