"""What the tests of all methods share: a mode that forbids waiting for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default, aten.is_nonzero.default}


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU's result would be waited for: `.item()`, a branch on a tensor, a shape that depends on data, a transfer."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        moved = func is aten._to_copy.default and (kwargs or {}).get("device") is not None
        if func in WAITS or moved:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting():
    return NoWaiting
