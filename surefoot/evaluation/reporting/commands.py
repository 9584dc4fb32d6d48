"""The commands behind a robustness card: those that its numbers are from, and those that measure what it lacks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from surefoot.evaluation.reporting.arms import portable, without_folder
from surefoot.evaluation.reporting.blocks import Figure
from surefoot.evaluation.reporting.dossier import Dossier, evidence_file

OPTIONS = {
    "attack": "--kind pgd --norm linf --budgets 0 0.05 0.1 0.2",
    "stress": "",
    "certify": "",
    "diagnose": "",
    "floor": "--floor 100",
}
FILES = 6  # by one command, that are named
SIGMA = "--sigma 0.1"  # of a policy that learned without noise: a certificate is about one that acts with some


def command(dossier: Dossier, verb: str) -> str:
    """The command line; its numbers are a beginning, in the units of the observation."""
    options = OPTIONS[verb]
    if verb == "certify" and not dossier.sigma:
        options = "" if dossier.arm.noise else SIGMA
    elif verb in ("attack", "certify", "stress") and dossier.sigma != dossier.arm.noise:
        options += f" --sigma {dossier.sigma:g}"
    where = f"--env {shlex.quote(dossier.env)}" if dossier.env and dossier.env != dossier.arm.env and verb != "floor" else ""
    name = dossier.reference if verb != "floor" else dossier.reference.removesuffix(dossier.whom.suffix)
    words = ["surefoot", "report" if verb == "floor" else verb, shlex.quote(portable(name)), where, options.strip()]
    return " ".join(filter(None, words))


def measure(dossier: Dossier, verb: str) -> Markup:
    """`not measured: run …` with the exact command."""
    without = verb == "diagnose" and dossier.sigma > 0.0
    lead = "" if verb == "floor" else f"not measured{' (it acts without noise, on a card of its own)' if without else ''}: run "
    return Markup("{}<code>{}</code>").format(lead, command(dossier, verb))


def lacking(dossier: Dossier, title: str, verb: str) -> Figure:
    """What stands in the place of a chart that there is no evidence for."""
    said = measure(dossier, verb)
    return Figure(title, Markup('<p class="none">{}</p>').format(said[0].upper() + said[1:]))


def sources(dossier: Dossier) -> list[tuple[str, str]]:
    """The files that a card's numbers are from, by the command that wrote them: `result`, or one of the run's evidence folder."""
    found: dict[str, list[str]] = {}
    clean = [dossier.clean.file] if dossier.clean else []
    for file in dict.fromkeys([*clean, *map(evidence_file, dossier.evidence)]):
        of = dossier.arm.config if file == "result.json" else dossier.arm.evidence[file.removeprefix("evidence/").removesuffix(".json")]
        found.setdefault(written(of.get("command")), []).append(Path(file).stem)
    return [(_together(files), line or "the command is not in the file") for line, files in found.items()]


def _together(files: list[str]) -> str:
    """Of a suite the first few."""
    return ", ".join(files if len(files) <= FILES else [*files[: FILES - 1], f"{len(files) - FILES + 1} more"])


def written(command: Any) -> str:
    """A command line of a run, its absolute paths cut to their last part."""
    try:
        words = list(map(str, command)) if isinstance(command, list) else shlex.split(str(command or ""))
    except ValueError:  # quotes that do not close
        return portable(str(command))
    return " ".join(word if word.startswith("…") else shlex.quote(portable(word)) for word in map(without_folder, words))
