"""`surefoot certify POLICY… --actions`: how far an observation can be moved before the policy's smoothed choice changes, state by state."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from surefoot.cli.certify_inputs import maps_of
from surefoot.cli.evaluate import number
from surefoot.cli.subjects import Subject, write_evidence
from surefoot.evaluation.certified_actions import SHARES, certify_actions, check_choice
from surefoot.steering.smoothed import Smoothed

if TYPE_CHECKING:
    from surefoot.cli.certify import Options


def main(subjects: Sequence[tuple[Subject, Smoothed]], options: Options, argv: Sequence[str], console: Console) -> int:
    """Certify the choices of every policy at states of its own; returns the exit code."""
    for _, policy in subjects:
        check_choice(policy)  # the last policy too, before the first is played
    results = [certified(subject, policy, options, argv, console) for subject, policy in subjects]
    console.print(table(results))
    console.print(
        "The action with the largest mean score over the noise is certified, with confidence"
        f" {1.0 - options.alpha:.4g} for each state by itself: deploy it that way, averaging over draws of the noise.",
        highlight=False,
    )
    if options.json:
        print(json.dumps({"policies": results}, indent=2, allow_nan=False))
    return 0


def certified(subject: Subject, policy: Smoothed, options: Options, argv: Sequence[str], console: Console) -> dict[str, Any]:
    """One policy's certified actions as JSON, kept in its run folder too."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{subject.name}: states of {subject.env}", total=subject.members * options.states)
        found = certify_actions(
            policy,
            subject.env,
            states=options.states,
            episodes=10 if options.episodes is None else options.episodes,
            n0=options.selection,
            n=options.samples,
            alpha=options.alpha,
            maps=maps_of(options.maps),
            max_steps=subject.max_steps,
            seed=options.seed,
            progress=lambda done: bar.update(task, completed=done),
        )
    result = {"policy": subject.name, "command": shlex.join(["surefoot", "certify", *argv]), **found.to_json()}
    write_evidence(subject, "certified-actions", result, console)
    return result


def table(results: Sequence[dict[str, Any]]) -> Table:
    """One row a member, one column a radius (at none it is all but where it abstains)."""
    out = Table(title="share of states whose action is certified against every change of l2 norm up to r", title_justify="left")
    for name in ("policy", "env", "sigma", "states", "abstains", "as without noise", "mean radius"):
        out.add_column(name, justify="left" if name in ("policy", "env") else "right")
    same = len({each["sigma"] for each in results}) == 1
    for share, r in zip(SHARES[1:], results[0]["members"][0]["radii"][1:], strict=True):
        out.add_column(f"r = {r:g}" if same else f"r = {share:g} sigma", justify="right")
    for each in results:
        for m in each["members"]:
            name = each["policy"] if len(each["members"]) == 1 else f"{each['policy']}@{m['member']}"
            cells = (name, each["env"], f"{each['sigma']:g}", str(m["states"]), f"{m['abstained']:.0%}", f"{m['same']:.0%}")
            out.add_row(*cells, number(m["average_radius"]), *(f"{share:.0%}" for share in m["certified"][1:]))
    return out
