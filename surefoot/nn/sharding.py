"""Networks whose weights are spread over processes (PyTorch's `fully_shard`, FSDP2): whole tensors of theirs, and the way back.

Everything here is called by all processes together. A network that is not spread comes through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all processes, on the CPU if it was spread."""
    gather = getattr(tensor, "full_tensor", None)  # of a DTensor
    return tensor if gather is None else gather().detach().cpu()


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, as `like` is spread."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def whole_weights(network: nn.Module) -> dict[str, Tensor] | None:
    """All weights by name, each gathered in turn; None if the network is not spread, and has them itself.

    Weights that are tied stay one tensor, as `save_pretrained` expects.
    """
    state = network.state_dict(keep_vars=True)
    if not any(hasattr(x, "full_tensor") for x in state.values()):
        return None
    gathered = {id(x): whole(x.detach()) for x in state.values()}
    return {name: gathered[id(x)] for name, x in state.items()}


def optimiser_state(state: Mapping[str, Tensor], prefix: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Entries `{prefix}{i}.{key}` of an optimiser's state, spread as the parameters they belong to."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(prefix):
            parameter = parameters[int(name[len(prefix) :].split(".", 1)[0])]
            found[name] = spread_like(value, parameter) if value.shape == parameter.shape else value
    return found


def name_units(network: Any, *apart: nn.Module) -> None:
    """Say where Accelerate looks for it which modules of a network gather their weights by themselves: a model's layers, and `apart`."""
    there = {type(module).__name__ for module in network.modules()}
    named = {name for module in network.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    network._no_split_modules = sorted((named & there) | {type(module).__name__ for module in apart})


def callable_apart(network: nn.Module, method: str) -> None:
    """Let a method of a spread network gather its weights as a forward pass does."""
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    if isinstance(network, FSDPModule) and hasattr(network, method):
        register_fsdp_forward_method(network, method)
