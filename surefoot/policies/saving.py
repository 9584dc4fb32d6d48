"""A policy as a folder: `policy.json` says what it is, `policy.safetensors` holds its numbers. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import PolicyError, SurefootError, first_line
from surefoot.files import replacing_folder, whole_folder
from surefoot.policies.base import Policy
from surefoot.policies.families import FAMILIES

FORMAT = 1

WRAPPERS = {
    "frame_stack": "surefoot.policies.frame_stack:FrameStack",
    "smoothed": "surefoot.steering.smoothed:Smoothed",
}
"""Policies around another policy (`inner`), imported only when a saved one asks for them."""

SETS: dict[str, str] = {
    "adaptive": "surefoot.steering.adaptive:Adaptive",
    "most_pessimistic": "surefoot.policies.pessimistic:MostPessimistic",
}
"""Policies made of several (`inners`), likewise."""

ELSEWHERE = {
    "linear_greedy": "surefoot.methods.exact.linear_greedy:LinearGreedy",
    "noise_classifier": "surefoot.methods.vision.classifier:NoiseClassifier",
}
"""Families of particular methods, imported only when a saved policy asks for them; their `rebuild` makes one."""


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write a policy (a fleet too) as a folder, whole or not at all; one that was there is replaced.

    Raises PolicyError for policies from elsewhere, CheckpointError where the folder cannot be written.
    """
    description = {"format": FORMAT, **describe(policy)}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in policy.state_dict().items()}
    with replacing_folder(Path(folder)) as new:
        save_file(tensors, new / "policy.safetensors")
        (new / "policy.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_policy(folder: str | Path, device: str = "cpu") -> Policy:
    """The policy that `save_policy` wrote. Raises PolicyError if the folder does not hold one, or if it is damaged."""
    path = whole_folder(Path(folder))
    try:
        description = json.loads((path / "policy.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "policy.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise PolicyError(f"{folder} does not hold a policy that can be read ({error}): save it again.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise PolicyError(f"{path / 'policy.json'} is not of format {FORMAT}: was it saved by another version of surefoot?")
    try:
        policy = rebuild(description)
        policy.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SurefootError) as error:
        raise PolicyError(
            f"{path} is damaged: policy.json and policy.safetensors do not fit ({first_line(error)}): save it again."
        ) from None
    return policy.to(device)


def describe(policy: Policy) -> dict[str, Any]:
    """What `rebuild` needs, as JSON: family, structure, shapes; of a wrapper or a set, the policies inside."""
    family = _family(policy)
    if family in WRAPPERS:
        inner: Any = policy.inner
        return {"family": family, "config": policy.config(), "inner": describe(inner)}
    if family in SETS:
        inners: Any = policy.inners
        return {"family": family, "config": policy.config(), "inners": [describe(each) for each in inners]}
    return {"family": family, "config": policy.config(), "copies": list(policy.copies), "spec": _spec_to_json(policy.spec)}


def rebuild(description: Mapping[str, Any]) -> Policy:
    """A policy of the described structure, with numbers of no meaning."""
    family = description["family"]
    if family in WRAPPERS:
        module, name = WRAPPERS[family].split(":")
        return getattr(import_module(module), name)(rebuild(description["inner"]), **description["config"])
    if family in SETS:
        module, name = SETS[family].split(":")
        return getattr(import_module(module), name)([rebuild(each) for each in description["inners"]], **description["config"])
    if family in ELSEWHERE:
        module, name = ELSEWHERE[family].split(":")
        spec, copies = _spec_from_json(description["spec"]), tuple(description["copies"])
        return getattr(import_module(module), name).rebuild(spec, copies, **description["config"])
    return FAMILIES[family](_spec_from_json(description["spec"]), copies=tuple(description["copies"]), **description["config"])


def _family(policy: Policy) -> str:
    for name, family in FAMILIES.items():
        if type(policy) is family:
            return name
    for name, place in (WRAPPERS | SETS | ELSEWHERE).items():
        if f"{type(policy).__module__}:{type(policy).__name__}" == place:
            return name
    policy.config()  # policies from elsewhere say here that they are not saved
    raise PolicyError(f"a {type(policy).__name__} cannot be saved: known are {', '.join((*FAMILIES, *WRAPPERS, *SETS, *ELSEWHERE))}.")


def _spec_to_json(spec: Spec) -> dict[str, Any]:
    box = spec.action
    action: dict[str, Any] = {"low": box.low, "high": box.high} if isinstance(box, Continuous) else {"n": box.n}
    scaled = None if spec.obs_mean is None else list(spec.obs_mean.shape)  # the statistics themselves are among the tensors
    return {"obs_shape": list(spec.obs_shape), "action": action, "scaled": scaled}


def _spec_from_json(saved: Mapping[str, Any]) -> Spec:
    action = saved["action"]
    space = Discrete(action["n"]) if "n" in action else Continuous(tuple(action["low"]), tuple(action["high"]))
    if saved["scaled"] is None:
        return Spec(tuple(saved["obs_shape"]), space)
    return Spec(tuple(saved["obs_shape"]), space, torch.zeros(saved["scaled"]), torch.ones(saved["scaled"]))
