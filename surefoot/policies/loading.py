"""One name for any policy: a run folder, one member of its fleet, or a policy from elsewhere."""

from __future__ import annotations

from pathlib import Path

from surefoot.data.spec import Discrete, Spec
from surefoot.envs.making import env_spaces
from surefoot.errors import PolicyError
from surefoot.policies.base import Policy
from surefoot.policies.external import OnnxPolicy, load_python
from surefoot.policies.saving import read_policy
from surefoot.policies.sb3 import load_stable_baselines3

EXTERNAL = ("python:", "sb3:", "onnx:")


def load_policy(ref: str | Path, *, trust: bool = False, env_id: str | None = None) -> Policy:
    """The policy that `ref` names:

    - `DIR`: a run folder (its last policy, `DIR/policy`) or a policy folder itself; a fleet if several seeds were trained;
    - `DIR:best`: the run's policy with the best evaluation while training, `DIR/policy_best`;
    - `DIR@2`, `DIR:best@2`: member 2 of the fleet;
    - `python:MODULE:NAME`, `sb3:FILE.zip`, `onnx:FILE`: see `external.py` and `sb3.py`.

    `trust` allows files that can only be read by executing them (sb3). `env_id` says what a Python function or an ONNX model
    observes and does. Raises PolicyError, NotTrustedError or MissingExtraError.
    """
    text = str(ref)
    if text.startswith("sb3:"):
        return load_stable_baselines3(text[4:], trust=trust)
    if text.startswith("onnx:"):
        if env_id is None:
            raise PolicyError(f"{text} does not say what its actions mean: name the environment (--env).")
        return OnnxPolicy(Path(text[5:]), env_spaces(env_id))
    if text.startswith("python:"):
        return load_python(text[7:], env_spaces(env_id) if env_id is not None else None)
    folder, member = split_reference(text)
    policy = read_policy(policy_folder(folder))
    return policy if member is None else policy.member(member)


def load_classifier(ref: str, shape: tuple[int, ...], *, trust: bool = False) -> Policy:
    """What gives scores, one for each class or action, for inputs of `shape`: an `onnx:` or `python:` classifier, or a policy with
    discrete actions. Its `forward` is the classifier. Raises PolicyError for one that has continuous actions, memory or members.
    """
    inputs = Spec(shape, Discrete(2))  # how many classes there are, its own output says
    if ref.startswith("onnx:"):
        return OnnxPolicy(Path(ref[5:]), inputs)
    policy = load_python(ref[7:], inputs) if ref.startswith("python:") else load_policy(ref, trust=trust)
    if not isinstance(policy.spec.action, Discrete):
        raise PolicyError(f"{ref} has continuous actions: only the choice among discrete actions or classes can be certified at an input.")
    if policy.copies:
        raise PolicyError(f"{ref} is a fleet of {policy.copies[0]}: name one of its members, for example {ref}@0.")
    if policy.start(1) is not None:
        raise PolicyError(
            f"{ref} acts on more than one observation (frame stack, memory): certify it along episodes of its own, with --actions."
        )
    return policy


def split_reference(text: str) -> tuple[str, int | None]:
    """`DIR@MEMBER` as (DIR, MEMBER); a folder whose own name contains @ wins."""
    folder, _, member = text.rpartition("@")
    if not folder or Path(text).exists():
        return text, None
    if not member.isdigit():
        raise PolicyError(f"{text}: after the @ comes the number of a member, for example {folder}@0.")
    return folder, int(member)


def policy_folder(text: str) -> Path:
    """The folder that holds `policy.json`, of a run or a policy folder (`:best` chooses `policy_best`)."""
    which = "policy"
    if text.endswith(":best") and not Path(text).exists():
        text, which = text.removesuffix(":best"), "policy_best"
    path = Path(text)
    if not path.is_dir():
        what = "is a file" if path.is_file() else "does not exist"
        hint = (
            f" (did you mean sb3:{text}?)" if path.suffix == ".zip" else f" (did you mean onnx:{text}?)" if path.suffix == ".onnx" else ""
        )
        raise PolicyError(f"{text} {what}: a policy is a run folder, DIR@MEMBER, or one of {', '.join(f'{p}…' for p in EXTERNAL)}{hint}.")
    for folder in (path / which, path) if which == "policy" else (path / which,):
        if (folder / "policy.json").is_file():
            return folder
    raise PolicyError(f"{text} holds no {which}/policy.json: it is not a run folder, or its training has not saved a policy yet.")


def run_folder(ref: str) -> Path | None:
    """The run folder behind a reference (where `config.json` and the results are), or None for policies from elsewhere."""
    if ref.startswith(EXTERNAL):
        return None
    folder = policy_folder(split_reference(ref)[0])
    return next((f for f in (folder, folder.parent) if (f / "config.json").is_file()), None)
