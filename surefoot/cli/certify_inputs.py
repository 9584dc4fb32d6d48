"""`surefoot certify … --inputs FILE`: radii around inputs in which a smoothed classifier or policy makes the same choice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import number
from surefoot.data.inputs import Inputs, read_inputs
from surefoot.errors import ConfigError
from surefoot.evaluation.lvm_rs import ABSTAIN, Certified, average_certified_radius, certified_accuracy, certify_input
from surefoot.policies.base import Policy
from surefoot.policies.loading import load_classifier
from surefoot.progress import watched

if TYPE_CHECKING:
    from surefoot.cli.certify import Options

NOTHING = -2
"""No class, and not ABSTAIN either."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii of the table, in units of sigma."""


def certify_inputs(options: Options, argv: Sequence[str]) -> int:
    """Certify every named classifier at the inputs; returns the exit code."""
    assert options.inputs is not None
    if not options.policies:
        raise ConfigError("no classifier was named: give onnx:FILE, python:MODULE:NAME, or a policy with discrete actions.")
    if options.sigma is None:
        raise ConfigError("certifying at inputs needs the standard deviation of the noise, in units of the inputs: give --sigma.")
    console = Console(stderr=True)
    inputs = read_inputs(options.inputs).evenly(options.limit)
    loaded = [load_classifier(ref, inputs.x.shape[1:], trust=options.trust) for ref in options.policies]
    results = [certified_at(ref, policy, inputs, options) for ref, policy in zip(options.policies, loaded, strict=True)]
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


def certified_at(ref: str, policy: Policy, inputs: Inputs, options: Options) -> dict[str, Any]:
    """One classifier's certificates as JSON."""
    assert options.sigma is not None
    generator = torch.Generator().manual_seed(options.seed)
    found = [
        certify_input(policy, x, options.sigma, n0=options.selection, n=options.samples, alpha=options.alpha, generator=generator)
        for x in watched(list(torch.from_numpy(inputs.x)), f"{ref}: inputs")
    ]
    radii = np.array(SHARES) * options.sigma
    own = np.array([NOTHING if each.label == ABSTAIN else each.label for each in found])
    labels = own if inputs.y is None else inputs.y  # without classes: the share that is certified to keep its own choice
    return {
        "classifier": ref,
        "inputs": inputs.source,
        "n": len(found),
        "sigma": options.sigma,
        "alpha": options.alpha,
        "samples": options.samples,
        "selection": options.selection,
        "seed": options.seed,
        "labelled": inputs.y is not None,
        "abstained": sum(each.label == ABSTAIN for each in found),
        "average_radius": average_certified_radius(found, labels),
        "radii": radii.tolist(),
        "certified": certified_accuracy(found, labels, radii).tolist(),
        "at": [_row(each, None if inputs.y is None else int(y)) for each, y in zip(found, labels, strict=True)],
    }


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
