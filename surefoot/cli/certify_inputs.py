"""`surefoot certify … --inputs FILE`: radii around inputs in which a smoothed classifier or policy makes the same choice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from surefoot.cli.evaluate import number
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
from surefoot.policies.loading import load_classifier

if TYPE_CHECKING:
    from surefoot.cli.certify import Options


def main(options: Options, argv: Sequence[str]) -> int:
    """Certify every named classifier at the inputs; returns the exit code."""
    assert options.inputs is not None
    if not options.policies:
        raise ConfigError("no classifier was named: give onnx:FILE, python:MODULE:NAME, or a policy with discrete actions.")
    if options.sigma is None:
        raise ConfigError("certifying at inputs needs the standard deviation of the noise, in units of the inputs: give --sigma.")
    console = Console(stderr=True)
    inputs = read_inputs(options.inputs).evenly(options.limit)
    loaded = [load_classifier(ref, inputs.x.shape[1:], trust=options.trust) for ref in options.policies]
    results = [certified_at(ref, policy, inputs, options, console) for ref, policy in zip(options.policies, loaded, strict=True)]
    console.print(table(results, inputs))
    console.print(
        "A radius is about the classifier with the noise, through the map that was chosen at that input; with confidence"
        f" {1.0 - options.alpha:.4g} for each input by itself.",
        highlight=False,
    )
    if options.json:
        command = shlex.join(["surefoot", "certify", *argv])
        print(json.dumps({"command": command, "classifiers": results}, indent=2, allow_nan=False))
    return 0


def certified_at(ref: str, policy: Policy, inputs: Inputs, options: Options, console: Console) -> dict[str, Any]:
    """One classifier's certificates as JSON."""
    assert options.sigma is not None
    x, radii = torch.from_numpy(inputs.x), np.array(SHARES) * options.sigma
    maps, generator = maps_of(options.maps), torch.Generator().manual_seed(options.seed)
    settings: dict[str, Any] = {"n0": options.selection, "n": options.samples, "alpha": options.alpha, "maps": maps, "generator": generator}
    check_classes(inputs, NoisyCopies(policy, x, options.sigma, None, generator).classes())
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{ref}: inputs", total=len(x))
        found = certify_inputs(policy, x, options.sigma, progress=lambda done: bar.update(task, completed=done), **settings)
    return {
        "classifier": ref,
        "inputs": inputs.source,
        "n": len(found),
        "sigma": options.sigma,
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


def table(results: Sequence[dict[str, Any]], inputs: Inputs) -> Table:
    """One row a classifier, one column a radius."""
    first = results[0]
    what = "right and certified" if first["labelled"] else "certified to choose the same"
    out = Table(title=f"share of {first['n']} inputs of {inputs.source} that are {what} within radius r (l2)", title_justify="left")
    for name in ("classifier", "sigma", "abstains", "mean radius"):
        out.add_column(name, justify="left" if name == "classifier" else "right")
    for r in first["radii"]:
        out.add_column(f"r = {r:g}", justify="right")
    for each in results:
        cells = (each["classifier"], f"{each['sigma']:g}", f"{each['abstained'] / each['n']:.0%}", number(each["average_radius"]))
        out.add_row(*cells, *(f"{share:.0%}" for share in each["certified"]))
    return out
