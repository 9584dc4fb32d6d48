"""The report's part on policies that were judged without an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.blocks import RANGE, Column, Figure, Table, estimate, named
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.figures import Row
from surefoot.evaluation.reporting.findings import listed, words
from surefoot.evaluation.statistics import mean_interval

LEAD = (
    "Nothing was played here. Fitted Q evaluation estimates from the logged transitions what the policy would earn from the log's start"
    " states, each reward discounted{gamma}."
)
NOTE = (
    "An estimate, not a bound: it is as good as the log's coverage of what the policy does. Bellman error: root mean square on held-out"
    " transitions, in units of reward. Action distance: root mean square distance to the logged actions on a scale from −1 to 1"
    " (discrete actions: the share that differ); far from the log, the estimate means little."
)
CAPTION = "Rings: the seeds. The bar is over seeds; it does not know how wrong the estimate itself may be."


def from_log(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Fitted Q evaluation of the arms that have it; None if none has."""
    judged = [(arm, arm.result["offline"]) for arm in arms if isinstance(arm.result.get("offline"), dict)]
    rows, cells, references = [], [], []
    for arm, found in judged:
        values = floats(found.get("value"))
        if not values:
            continue
        middle = mean_interval(values)
        rows.append(Row(arm.label, middle, values if len(values) > 1 else [], arm.place))
        own, error, distance = (floats(found.get(key)) for key in ("logged_value", "bellman_error", "action_distance"))
        references += [(own[0], "the log's own")] if own else []
        cells.append((named(arm), estimate(middle), *(number(float(np.mean(x))) if x else "–" for x in (own, error, distance))))
    if not rows:
        return None
    gamma = judged[0][1].get("gamma")
    alt = f"Dot chart of estimated discounted returns: {listed([f'{row.label} {words(row.interval)}' for row in rows])}."
    drawing = figures.intervals(rows, x="estimated discounted return", alt=alt, references=list(dict.fromkeys(references))[:1])
    columns = [Column("arm"), *(Column(name, True) for name in (f"estimate {RANGE}", "the log's own", "Bellman error", "action distance"))]
    return {
        "lead": LEAD.format(gamma=f" by {gamma:g} a step" if isinstance(gamma, float) else ""),
        "figures": [Figure("Estimated value", drawing, CAPTION)],
        "table": Table("Estimates from the log", columns, cells),
        "note": NOTE,
    }


def floats(found: Any) -> list[float]:
    """A number or a list of numbers from JSON; empty if there is none, or not all are finite."""
    try:
        values = [float(x) for x in (found if isinstance(found, list) else [found])]
    except (TypeError, ValueError):
        return []
    return values if np.isfinite(values).all() else []
