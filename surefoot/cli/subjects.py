"""What a command on policies is about: each policy with its environment, from the command line or from its run's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from surefoot.errors import CheckpointError, ConfigError
from surefoot.files import replacing_file
from surefoot.methods.vision.classifier import NoiseClassifier
from surefoot.policies.base import Policy
from surefoot.policies.loading import load_policy, policy_folder, run_folder, split_reference
from surefoot.steering.smoothed import Smoothed


@dataclass(frozen=True)
class Subject:
    """A policy as it was named, loaded, with where it is to be judged."""

    name: str
    policy: Policy
    env: str
    max_steps: int | None  # None: the environment's own limit
    run: Path | None  # its run folder, if it has one

    @property
    def members(self) -> int:
        return self.policy.copies[0] if self.policy.copies else 1


def load_subjects(refs: Sequence[str], *, env: str | None, max_steps: int | None = None, trust: bool = False) -> list[Subject]:
    """The policies named on the command line. Environment and step limit default to those of each policy's own run.

    Raises ConfigError if no policy is named or none of the two names an environment, and what `load_policy` raises.
    """
    if not refs:
        raise ConfigError("no policy was named: give a run folder, DIR@MEMBER, sb3:FILE.zip, onnx:FILE or python:MODULE:NAME.")
    return [_subject(ref, env, max_steps, trust) for ref in refs]


def _subject(ref: str, env: str | None, max_steps: int | None, trust: bool) -> Subject:
    run = run_folder(ref)
    settings = read_settings(run) if run is not None else {}
    where = env or settings.get("env")
    policy = load_policy(ref, trust=trust, env_id=where)
    if where is None:
        raise ConfigError(f"{ref} does not say where it acts: name the environment (--env).")
    same = where == settings.get("env")  # the run's limit belongs to the run's environment
    limit = max_steps if max_steps is not None or not same else settings.get("max_steps")
    return Subject(ref, policy, where, limit, run)


def read_settings(run: Path) -> dict[str, Any]:
    """A run's `config.json`. Raises CheckpointError if it is not readable JSON."""
    try:
        settings = json.loads((run / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run / 'config.json'} cannot be read: {error}.") from None
    return settings if isinstance(settings, dict) else {}


def noise_for(ref: str, policy: Policy, run: Path | None, given: float | None, console: Console) -> float:
    """Standard deviation of the noise to certify with: `given`, else what the policy or its run was trained with (0: without any).

    A policy that was trained with other noise than the given one gets this one, and that is said.
    """
    if isinstance(policy, Smoothed | NoiseClassifier):
        own = policy.sigma
    else:
        own = float(read_settings(run).get("noise") or 0.0) if run is not None else 0.0
    if given is not None and own not in (0.0, given):
        console.print(f"note: {ref} was trained with noise of {own:g}; what follows is about it with {given:g}.", highlight=False)
    return own if given is None else given


def write_evidence(subject: Subject, name: str, result: Mapping[str, Any], console: Console) -> Path | None:
    """Keep what was found out about a run's policy in its folder, for the report: see `keep_evidence`."""
    return keep_evidence(subject.name, subject.run, name, result, console)


def keep_evidence(ref: str, run: Path | None, name: str, result: Mapping[str, Any], console: Console) -> Path | None:
    """Write `RUN/evidence/NAME.json` about the policy that `ref` names, and return it.

    A member or the best policy has a file of its own: `NAME@2.json`, `NAME-best.json`. Policies without a run folder have none.
    """
    if run is None:
        return None
    folder, member = split_reference(ref)
    best = "-best" if policy_folder(folder).name == "policy_best" else ""
    path = run / "evidence" / f"{name}{best}{'' if member is None else f'@{member}'}.json"
    with replacing_file(path) as new:
        new.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"kept    {path}", highlight=False, soft_wrap=True)
    return path
