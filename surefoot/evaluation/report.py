"""One HTML file about one or more runs: what was learned from what, what it is worth, and how far that may be trusted.

The page holds everything it shows (charts as SVG, moving pictures and style inside), needs no network, and names nothing of the
machine but its kind. Whatever comes from a run is data: it is escaped, and absolute paths are cut to their last part.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from surefoot import __version__
from surefoot.errors import ConfigError
from surefoot.evaluation.reporting.aligned import LEAD, NOTE, aligned, aligned_said, comparisons, read_comparison, section
from surefoot.evaluation.reporting.arms import Arm, folder_name, portable, read_arms, without_folder
from surefoot.evaluation.reporting.at_inputs import at_inputs, certified_at_inputs, inputs_said
from surefoot.evaluation.reporting.blocks import RANGE, Column, Group, Table, estimate, groups, legend, named, place
from surefoot.evaluation.reporting.card import cards
from surefoot.evaluation.reporting.commands import written
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.episodes import episodes
from surefoot.evaluation.reporting.evidence import unread
from surefoot.evaluation.reporting.figures import swatch
from surefoot.evaluation.reporting.findings import listed, plural, returns_said
from surefoot.evaluation.reporting.from_log import from_log
from surefoot.evaluation.reporting.returns import final_returns, learning_curves
from surefoot.evaluation.reporting.robustness import robustness
from surefoot.evaluation.reporting.robustness import said as certified_said
from surefoot.evaluation.reporting.weighing import Tolerance
from surefoot.files import replacing_file

TOLERANCE = Tolerance()


def report_for_runs(folders: Sequence[str | Path], out: str | Path, *, tolerance: Tolerance = TOLERANCE, card: bool = False) -> Path:
    """Write the report of some run folders to `out`, or their robustness cards alone; what a run lacks is said there.

    `tolerance` is what the cards hold returns against. Raises ConfigError if no folder is named, or for the card of what does not act,
    CheckpointError for a folder that is not a run, or if `out` cannot be written.
    """
    if not folders:
        raise ConfigError("no run was named: a report is about one or more run folders.")
    arms = read_arms(folders)
    other = next((arm for arm in arms if not arm.acts), None)
    if card and other is not None:
        what, has = ("a classifier", "certified") if other.classifies else ("a language model", "known of it")
        raise ConfigError(
            f"{other.folder} is the run of {what}: a robustness card is about a policy's returns. Its report has what is {has}: leave"
            " --card out."
        )
    page = render_cards(arms, tolerance) if card else render(arms, tolerance)
    with replacing_file(Path(out)) as new:
        new.write_text(page, encoding="utf-8")
    return Path(out)


def render_cards(arms: Sequence[Arm], tolerance: Tolerance = TOLERANCE) -> str:
    """The robustness cards alone as a page, one printed sheet each."""
    return (
        _environment()
        .get_template("card_page.html.j2")
        .render(
            version=__version__,
            title=f"Robustness of {_title(arms)}",
            lead=_lead(arms, groups(arms)),
            missing=_missing(arms),
            robustness_cards=cards(arms, tolerance),
        )
    )


def comparison_page(found: Mapping[str, Any]) -> str:
    """What `surefoot compare` found out about language models (JSON values), as a page. Raises ConfigError for anything else."""
    one = read_comparison([], found)
    if one is None:
        raise ConfigError("this is no comparison of language models that could be shown: take what `surefoot compare --json` prints.")
    names = [model.name for model in one.models]
    template = _environment().get_template("aligned_page.html.j2")
    own = {"lead": LEAD, "comparisons": [section(one)], "training": None, "note": NOTE}
    lead = f"{plural(len(names), 'model')} compared on held-out prompts."
    return template.render(version=__version__, title=listed(names), lead=lead, section=own, command=written(found.get("command")))


def render(arms: Sequence[Arm], tolerance: Tolerance = TOLERANCE) -> str:
    """The page as text."""
    found = groups(arms)
    parts: dict[str, Any] = {
        "card": cards(arms, tolerance),
        "inputs": certified_at_inputs(arms),
        "aligned": aligned(arms),
        "summary": _summary([arm for arm in arms if arm.acts]),
        "curves": learning_curves(found),
        "returns": final_returns(found),
        "robustness": robustness(arms),
        "offline": from_log(arms),
        "episodes": episodes(arms),
    }
    template = _environment().get_template("report.html.j2")
    return template.render(
        version=__version__,
        title=_title(arms),
        lead=_lead(arms, found),
        contents=[(where, name) for where, name in CONTENTS if parts.get(where, True)],
        findings=[said for group in found if group.env for said in returns_said(group.name, group.arms)]
        + [*certified_said(arms), *inputs_said(arms), *aligned_said(arms)],
        missing=_missing(arms),
        summary_note=SUMMARY_NOTE,
        sources=_sources(arms),
        curves_note=CURVES_NOTE,
        runs=_runs(arms),
        glossary=[entry for entry in GLOSSARY if any(arm.acts for arm in arms)] + (AT_INPUTS if parts["inputs"] else []),
        **parts,
    )


def _environment() -> Environment:
    """Jinja that escapes everything, cuts machine paths out of what it prints, and fails on names that do not exist."""

    def printed(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) or value.startswith("data:image/") else portable(value)

    loader = PackageLoader("surefoot.evaluation", "")
    return Environment(loader=loader, autoescape=True, finalize=printed, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _title(arms: Sequence[Arm]) -> str:
    names = [arm.label for arm in arms]
    return f"{listed(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"


def _missing(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    return [(arm.label, sentence) for arm in arms for sentence in [*arm.problems, *unread(arm), *_not_certified(arm), *_not_compared(arm)]]


def _not_certified(arm: Arm) -> list[Markup]:
    """Of a classifier that has been trained: how to find out what there is to know of it."""
    if not (arm.classifies and arm.result) or at_inputs([arm]):
        return []
    return [Markup("nothing is certified: run <code>surefoot certify {}</code>.").format(portable(shlex.quote(arm.reference)))]


def _not_compared(arm: Arm) -> list[Markup]:
    """Of a language model that has been trained: how to find out what it is worth."""
    if not (arm.speaks and arm.result) or comparisons([arm]):
        return []
    told = Markup("it was not asked anything: run <code>surefoot compare {} --prompts HELD_OUT --reward REWARD</code>.")
    return [told.format(portable(shlex.quote(arm.reference)))]


# --- summary --------------------------------------------------------------------------------------------------------


def _lead(arms: Sequence[Arm], found: Sequence[Group]) -> str:
    runs = f"{plural(len(arms), 'run')}"
    where = [f"judged in {listed(names)}"] if (names := [group.name for group in found if group.env]) else []
    where += ["certified at inputs"] if at_inputs(arms) else []
    where += ["compared on held-out prompts"] if comparisons(arms) else []
    alone = ["judged from the log alone"] if any(arm.acts for arm in arms) else []
    return f"{', '.join([runs, *([listed(where)] if where else alone)])}."


def _summary(arms: Sequence[Arm]) -> Table | None:
    """The returns of policies; None if there are none."""
    if not arms:
        return None
    several = len({arm.env for arm in arms}) > 1
    numeric = ("seeds", "updates", f"last: return {RANGE}", f"last: IQM {RANGE}", f"best: return {RANGE}")
    columns = [Column("arm"), Column("learned from"), *(Column(name, True) for name in numeric)]
    rows = []
    for arm in arms:
        name = named(arm) + (Markup("<small>in {}</small>").format(arm.env) if several and arm.env else "")
        best = estimate(arm.best.mean if arm.best else None)
        if arm.best and arm.best.evaluations is not None:
            best += Markup("<small>chosen by {}</small>").format(plural(arm.best.evaluations, "evaluation"))
        steps = f"{arm.steps_done:,}" if arm.steps_done else "–"
        last = [estimate(arm.last.mean if arm.last else None), estimate(arm.last.iqm if arm.last else None)]
        rows.append([name, _learned_from(arm), arm.seeds or "–", steps, *last, best])
    return Table("Summary", columns, rows)


def _learned_from(arm: Arm) -> str:
    data = arm.config.get("data")
    if isinstance(data, str) and data:
        return Path(data).name if "/" in data or "\\" in data else data
    if arm.speaks:
        return "a reward"
    return f"acting in {arm.env}" if arm.env else "–"


CONTENTS = [
    ("card", "Robustness"),
    ("inputs", "Certified at inputs"),
    ("aligned", "Language models"),
    ("summary", "Summary"),
    ("data", "Data"),
    ("curves", "Learning curves"),
    ("returns", "Returns"),
    ("robustness", "Certified and attacked"),
    ("offline", "From the log alone"),
    ("episodes", "Episodes"),
    ("again", "How to get it again"),
    ("reading", "How to read it"),
]
SUMMARY_NOTE = (
    "Last: the policy at the end of training. Best: of each seed, the policy with the best evaluation while training, played again on"
    " fresh episodes; choosing flatters, so compare methods by last. Returns are sums of rewards over an episode, without discount."
)
CURVES_NOTE = "Line: mean over seeds. Band: from the lowest to the highest seed. Updates are gradient steps."
GLOSSARY = [
    ("Return", "The sum of an episode's rewards, as the environment gives them."),
    ("Seed", "An independent training run: own initial weights, own batches. The seeds of a run are trained side by side as one fleet."),
    (
        "[low, high]",
        "A 95 % confidence interval: of a fleet about the method (seeds, then episodes), of a single policy about that policy.",
    ),
    ("IQM", "Interquartile mean: the mean of the middle half, which outliers move little (Agarwal et al. 2021)."),
    (
        "Least accepted",
        "What a robustness card holds returns against: a share below the return without attack (--drop), or a return that you name"
        " (--floor). For: surely not below it (95 % interval). Against: below it. Else not known.",
    ),
    (
        "Verdict",
        "Falls: something that was tried brings the return below the least accepted. Not known: nothing did, but attacks or other physics"
        " were not measured, or chance may explain it. Held: surely not below in all that was tried. Held and certified: and a certificate"
        " promises so within a budget.",
    ),
    ("P(first is better)", "The probability that a random seed of the first does better than a random seed of the second."),
]

AT_INPUTS = [
    (
        "Certified within r",
        "The share of inputs that are answered rightly (where the right answer is known) and whose answer no change of l2 norm up to r"
        " alters. At r = 0: those about which the noisy copies leave no doubt.",
    ),
    ("Abstains", "The share of inputs about which they do."),
    ("Mean radius", "Over all inputs, where one that is answered wrongly or not at all counts 0 (average certified radius)."),
]


# --- data -----------------------------------------------------------------------------------------------------------


def _sources(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """What was learned from, each once, with the arms that learned from it."""
    found: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        found.setdefault((_learned_from(arm), arm.fingerprint or ""), []).append(arm)
    sources = []
    for (title, _), own in found.items():
        warnings = list(dict.fromkeys(warning for arm in own for warning in _warnings(arm)))
        sources.append(
            {"title": title.replace("acting in", "Acting in"), "legend": legend(own), "facts": _facts(own[0]), "warnings": warnings}
        )
    return sources


def _facts(arm: Arm) -> list[tuple[str, Any]]:
    """What is known of the log, and where the policies were judged."""
    facts: list[tuple[str, Any]] = []
    for name, value in flat(arm.log):
        if value not in (None, ""):
            facts.append((name.replace("_", " "), _value(value)))
    if arm.fingerprint:
        facts.append(("fingerprint", Markup("<code>{}…</code>").format(arm.fingerprint[:16])))
    settings = {} if not arm.acts else {"noise on observations": "noise", "frames seen at once": "frame_stack"}
    facts += [(name, _value(arm.config[key])) for name, key in settings.items() if arm.config.get(key) not in (None, 0.0, 1)]
    weighting = arm.result.get("weighting")
    facts += [(f"weights: {name}", _value(value)) for name, value in flat(weighting if isinstance(weighting, Mapping) else {})]
    return facts + ([("judged in", place(arm.env, arm.max_steps))] if arm.env else [])


def _warnings(arm: Arm) -> list[str]:
    found = arm.result.get("warnings")
    return [str(warning) for warning in found] if isinstance(found, list) else []


def flat(found: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as one list, names joined with a colon."""
    items: list[tuple[str, Any]] = []
    for name, value in found.items():
        items += flat(value, f"{prefix}{name}: ") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return items


def _value(value: Any) -> str:
    """A JSON value for a reader."""
    if value is None or isinstance(value, bool):
        return "–" if value is None else "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return ", ".join(map(_value, value)) if isinstance(value, list) else without_folder(str(value))


# --- how to get the numbers again -----------------------------------------------------------------------------------

APART = ("command", "versions", "fingerprint", "environment", "log")  # of config.json: no settings


def _runs(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Each run's commands and settings; versions and machine once, where all runs have the same."""
    shared = len(arms) > 1 and len({repr(_made_with(arm)) for arm in arms}) == 1
    told = [_run(arm, shared) for arm in arms]
    if shared and _made_with(arms[0]):
        told.append({"mark": "", "label": "All runs", "command": "", "facts": _made_with(arms[0]), "settings": []})
    return told


def _made_with(arm: Arm) -> list[tuple[str, Any]]:
    """Versions and machine."""
    found = [(title, arm.config.get(key)) for title, key in (("versions", "versions"), ("machine", "environment"))]
    return [(title, ", ".join(f"{k} {v}" for k, v in flat(value))) for title, value in found if isinstance(value, Mapping)]


def _run(arm: Arm, shared: bool) -> dict[str, Any]:
    paper, url = arm.paper
    facts: list[tuple[str, Any]] = []
    if paper:
        facts.append(("method", Markup('{} (<a href="{}">{}</a>)').format(arm.label, url, paper) if url else f"{arm.label} ({paper})"))
    facts.append(("run folder", folder_name(arm.folder)))
    seed, wall = arm.config.get("seed"), arm.result.get("wall_s")
    if isinstance(seed, int):
        facts.append(("seed", f"{seed}, from which everything random derives" + (f"; {plural(arm.seeds, 'member')}" if arm.seeds else "")))
    if isinstance(wall, int | float):
        facts.append(("wall time", f"{wall:.0f} s" if wall < 120 else f"{wall / 60:.1f} min"))
    facts += [] if shared else _made_with(arm)
    own = {name: value for name, value in arm.config.items() if name not in APART}
    settings = [(name, "–" if value is None else without_folder(str(value))) for name, value in flat(own)]
    commands = [arm.config.get("command"), *(data.get("command") for data in arm.evidence.values())]
    command = "\n".join(dict.fromkeys(filter(None, map(written, commands))))
    return {"mark": swatch(arm.place), "label": arm.label, "command": command, "facts": facts, "settings": settings}
