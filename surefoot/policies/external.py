"""Policies from elsewhere: a Python object or an ONNX file (Stable-Baselines3 files are in `sb3.py`).

They act, and are smoothed and attacked, like our own; torch modules give gradients. They are not saved again: keep the file
they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import MissingExtraError, PolicyError
from surefoot.own_code import python_object
from surefoot.policies.base import Memory, Policy, check_member


class External(Policy):
    """What the policies below share: one policy, without memory, that is not saved."""

    def __init__(self, spec: Spec, source: str):
        super().__init__()
        self.spec, self.source = spec, source

    def member(self, index: int) -> Policy:
        check_member(index, ())
        return self

    def config(self) -> dict[str, Any]:
        raise PolicyError(f"the policy {self.source} comes from elsewhere and is not saved again: keep and name its own file.")

    def check_action(self, output: Tensor) -> Tensor:
        """What was given for n observations as actions `[n, A]`, clipped to the box as is usual, or `[n]` int64.

        Raises PolicyError if it has another shape or names an action that does not exist.
        """
        action = self.spec.action
        if isinstance(action, Continuous):
            output = output.unsqueeze(-1) if output.dim() == 1 and action.dim == 1 else output
            if output.dim() != 2 or output.shape[-1] != action.dim:
                raise PolicyError(
                    f"{self.source} gave actions of shape {tuple(output.shape)}, but the environment takes (n, {action.dim})."
                )
            return output.float().clamp(output.new_tensor(action.low).float(), output.new_tensor(action.high).float())
        output = output.squeeze(-1) if output.dim() == 2 and output.shape[-1] == 1 else output
        if output.dim() != 1:
            raise PolicyError(
                f"{self.source} gave actions of shape {tuple(output.shape)}, but the environment takes one integer each (n,)."
            )
        chosen = output.long()
        if not ((output == chosen) & (chosen >= 0) & (chosen < action.n)).all():
            raise PolicyError(f"{self.source} gave an action that is not one of the integers 0 to {action.n - 1}.")
        return chosen


class FunctionPolicy(External):
    """A function of a batch of observations, numpy `[n, *obs_shape]` float32 to actions `[n, A]` or `[n]`; its own errors pass through."""

    differentiable = False

    def __init__(self, function: Callable[[np.ndarray], Any], spec: Spec, source: str):
        super().__init__(spec, source)
        self.function = function

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        return self.check_action(self(obs)), memory

    def forward(self, obs: Tensor) -> Tensor:
        """What the function gives, as a tensor."""
        self.flat(obs)  # checks the shape
        return torch.as_tensor(np.asarray(self.function(obs.detach().cpu().numpy()))).to(obs.device)


class ModulePolicy(External):
    """A torch module on observations `[n, *obs_shape]`: actions `[n, A]`, or logits or values `[n, n_actions]` (argmax is taken)."""

    def __init__(self, module: nn.Module, spec: Spec, source: str):
        super().__init__(spec, source)
        self.module = module.eval()

    def forward(self, obs: Tensor) -> Tensor:
        self.flat(obs)
        return self.module(obs.float())

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        return self.check_action(_choose(self(obs), self.spec)), memory


class OnnxPolicy(External):
    """An ONNX model whose first input is observations and whose first output is actions, logits or values."""

    differentiable = False

    def __init__(self, path: Path, spec: Spec):
        super().__init__(spec, f"onnx:{path}")
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx") from None
        if not path.is_file():
            raise PolicyError(f"there is no file {path}: give the path of an ONNX model.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        errors = onnxruntime.capi.onnxruntime_pybind11_state
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail, errors.NoModel, errors.InvalidArgument) as error:
            raise PolicyError(f"{path} is not an ONNX model that can be run: {str(error).splitlines()[0]}") from None
        self.input = self.session.get_inputs()[0]
        shape = self.input.shape[1:]
        if len(shape) != len(spec.obs_shape) or any(isinstance(a, int) and a != b for a, b in zip(shape, spec.obs_shape, strict=True)):
            raise PolicyError(f"{path} takes observations of shape {tuple(shape)}, but the environment shows {spec.obs_shape}.")
        self.dtype = np.float64 if self.input.type == "tensor(double)" else np.float32

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        return self.check_action(_choose(self(obs), self.spec)), memory

    def forward(self, obs: Tensor) -> Tensor:
        """The model's first output."""
        self.flat(obs)
        batch = obs.detach().cpu().numpy().astype(self.dtype)
        fixed = self.input.shape[0]
        if isinstance(fixed, int) and fixed != len(batch):  # exported for one batch size: as many calls as needed
            if len(batch) % fixed:
                raise PolicyError(f"{self.source} was exported for batches of {fixed} observations: export it with a dynamic batch axis.")
            parts = [self.session.run(None, {self.input.name: part})[0] for part in np.split(batch, len(batch) // fixed)]
            output = np.concatenate([np.asarray(part).reshape(fixed, -1) for part in parts])
        else:
            output = np.asarray(self.session.run(None, {self.input.name: batch})[0])
        return torch.as_tensor(output).to(obs.device)


def _choose(output: Tensor, spec: Spec) -> Tensor:
    """The best-scored action where a score for each was given, else the output itself."""
    if isinstance(spec.action, Discrete) and output.dim() == 2 and output.shape[-1] == spec.action.n and output.is_floating_point():
        return output.argmax(-1)
    return output


def load_python(text: str, spec: Spec | None) -> Policy:
    """`module:name` or `file.py:name` (see `own_code`): one of our policies, a torch module, an object with `act`, or a function of a
    batch of observations. Its code runs, as with any import.
    """
    found = python_object(text, PolicyError, example="my_agents:controller")
    if isinstance(found, Policy):
        return found
    if spec is None:
        raise PolicyError(f"python:{text} does not say what it observes and does: name the environment (--env).")
    if isinstance(found, nn.Module):
        return ModulePolicy(found, spec, f"python:{text}")
    function = getattr(found, "act", found)
    if isinstance(found, type) or not callable(function):
        raise PolicyError(f"python:{text} is a {type(found).__name__}: give a function, an object with act(obs), or a torch module.")
    return FunctionPolicy(function, spec, f"python:{text}")
