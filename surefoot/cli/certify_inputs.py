"""`surefoot certify … --inputs FILE`: radii around inputs in which a smoothed classifier or policy makes the same choice.

The run of an image classifier needs neither file nor noise: it has kept images back, and was trained for noise of its own.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from surefoot.cli.evaluate import number
from surefoot.cli.subjects import keep_evidence, noise_for
from surefoot.data.inputs import Inputs, read_inputs
from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.certified_actions import SHARES
from surefoot.evaluation.lvm_rs import (
    ABSTAIN,
    VOTES,
    Certified,
    Map,
    average_certified_radius,
    certified_accuracy,
    certify_inputs,
    simplex_maps,
)
from surefoot.evaluation.noisy_copies import NoisyCopies
from surefoot.policies.base import Policy
from surefoot.policies.loading import load_classifier, run_folder

if TYPE_CHECKING:
    from surefoot.cli.certify import Options


@dataclass(frozen=True)
class Case:
    """A classifier as it was named, the inputs that it is certified at, and the noise with which it is."""

    ref: str
    policy: Policy
    run: Path | None  # its run folder, if it has one
    inputs: Inputs
    sigma: float


def main(options: Options, argv: Sequence[str]) -> int:
    """Certify every named classifier at the inputs; returns the exit code."""
    if not options.policies:
        raise ConfigError("no classifier was named: give onnx:FILE, python:MODULE:NAME, or a policy with discrete actions.")
    console = Console(stderr=True)
    cases = [_case(ref, options, console) for ref in options.policies]  # the last one too is read before the first is certified
    command, results = shlex.join(["surefoot", "certify", *argv]), []
    for case in cases:
        results.append(certified_at(case, options, console))
        about = {"policy": case.ref, "command": command, "kind": "certified-inputs", "held_out": _are_held_out(case)}
        keep_evidence(case.ref, case.run, "certified-inputs", about | results[-1], console)
    console.print(table(results))
    console.print(
        "A radius is about the classifier with the noise, through the map that was chosen at that input; with confidence"
        f" {1.0 - options.alpha:.4g} for each input by itself.",
        highlight=False,
    )
    if options.json:
        print(json.dumps({"command": command, "classifiers": results}, indent=2, allow_nan=False))
    return 0


def held_out(ref: str) -> Path | None:
    """The images that training kept back: the run of a classifier has them, and nothing else does."""
    run = run_folder(ref)
    return run / "held_out.npz" if run is not None and (run / "held_out.npz").is_file() else None


def _case(ref: str, options: Options, console: Console) -> Case:
    """What is certified at what, from the command line or from the run."""
    path = options.inputs or held_out(ref)
    if path is None:
        raise ConfigError(f"{ref} is not the run of a classifier, which has kept inputs back: certify it apart, or at inputs (--inputs).")
    inputs, run = read_inputs(path).evenly(options.limit), run_folder(ref)
    policy = load_classifier(ref, inputs.x.shape[1:], trust=options.trust)
    sigma = noise_for(ref, policy, run, options.sigma, console)
    if options.sigma is None and not sigma:
        raise ConfigError(f"{ref} was trained without noise: give --sigma, its standard deviation in units of the inputs.")
    return Case(ref, policy, run, inputs, sigma)


def _are_held_out(case: Case) -> bool:
    kept = held_out(case.ref)
    return kept is not None and kept.resolve() == Path(case.inputs.source).resolve()


def certified_at(case: Case, options: Options, console: Console) -> dict[str, Any]:
    """One classifier's certificates as JSON."""
    ref, policy, inputs, sigma = case.ref, case.policy, case.inputs, case.sigma
    x, radii = torch.from_numpy(inputs.x), np.array(SHARES) * sigma
    maps, generator = maps_of(options.maps), torch.Generator().manual_seed(options.seed)
    settings: dict[str, Any] = {"n0": options.selection, "n": options.samples, "alpha": options.alpha, "maps": maps, "generator": generator}
    check_classes(inputs, NoisyCopies(policy, x, sigma, None, generator).classes())
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{ref}: inputs", total=len(x))
        found = certify_inputs(policy, x, sigma, progress=lambda done: bar.update(task, completed=done), **settings)
    return {
        "classifier": ref,
        "inputs": inputs.source,
        "n": len(found),
        "sigma": sigma,
        "alpha": options.alpha,
        "samples": options.samples,
        "selection": options.selection,
        "maps": options.maps,
        "seed": options.seed,
        "labelled": inputs.y is not None,
        "abstained": sum(each.label == ABSTAIN for each in found),
        "average_radius": average_certified_radius(found, inputs.y),
        "radii": radii.tolist(),
        "certified": certified_accuracy(found, inputs.y, radii).tolist(),
        "at": [_row(each, None if inputs.y is None else int(inputs.y[i])) for i, each in enumerate(found)],
    }


def maps_of(name: str) -> list[Map]:
    """What counts of a noisy copy: the option `--maps`."""
    return simplex_maps() if name == "all" else VOTES


def check_classes(inputs: Inputs, classes: int) -> None:
    """Raises DataError for a label that is none of the classifier's classes."""
    if inputs.y is not None and inputs.y.max() >= classes:
        row = int((inputs.y >= classes).argmax())
        raise DataError(f"{inputs.source}: field 'y' says class {inputs.y[row]} for input {row}, but the classes are 0 to {classes - 1}.")


def _row(each: Certified, label: int | None) -> dict[str, Any]:
    of = each.chosen
    temperature = None if of.kind == "argmax" else of.temperature
    row = {
        "class": each.label,
        "radius": each.radius,
        "map": of.kind,
        "inverse_temperature": temperature,
        "lower": each.lower,
        "upper": each.upper,
    }
    return row if label is None else row | {"label": label}


def table(results: Sequence[dict[str, Any]]) -> Table:
    """One row a classifier, one column a radius."""
    first = results[0]
    of = f"{first['n']} inputs of {first['inputs']}" if len({each["inputs"] for each in results}) == 1 else "each one's held-out inputs"
    what = "right and certified" if first["labelled"] else "certified to choose the same"
    same = len({each["sigma"] for each in results}) == 1
    out = Table(title=f"share of {of} that are {what} within radius r{'' if same else ' times sigma'} (l2)", title_justify="left")
    for name in ("classifier", "sigma", "abstains", "mean radius"):
        out.add_column(name, justify="left" if name == "classifier" else "right")
    for r in first["radii"] if same else SHARES:
        out.add_column(f"r = {r:g}", justify="right")
    for each in results:
        cells = (each["classifier"], f"{each['sigma']:g}", f"{each['abstained'] / each['n']:.0%}", number(each["average_radius"]))
        out.add_row(*cells, *(f"{share:.0%}" for share in each["certified"]))
    return out
