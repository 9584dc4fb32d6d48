"""What the tests of all methods share: a mode that forbids waiting for the device."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten.repeat_interleave,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount,
}  # fmt: skip
MASKED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # wait where they are given a mask of bools


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU's result would be waited for: `.item()`, a branch on a tensor, a shape that depends on data, a transfer."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        moved = packet is aten._to_copy and kwargs.get("device") is not None
        masked = packet in MASKED and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if packet in WAITS or moved or masked:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **kwargs)


@pytest.fixture
def no_waiting(monkeypatch):
    """The mode; and what leaves torch, which no mode sees on a CPU, raises too."""

    def refuse(*args, **kwargs):
        raise AssertionError("a tensor leaves the device")

    class Refusing(NoWaiting):
        def __enter__(self):
            for name in ("numpy", "tolist", "cpu", "__array__"):
                monkeypatch.setattr(Tensor, name, refuse)
            return super().__enter__()

        def __exit__(self, *error):
            monkeypatch.undo()
            return super().__exit__(*error)

    return Refusing
