"""The matrix products of an update, alone: no implementation in the same arithmetic can be faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = {
    torch.ops.aten.mm.default: torch.mm,
    torch.ops.aten.bmm.default: torch.bmm,
    torch.ops.aten.addmm.default: torch.addmm,
    torch.ops.aten.baddbmm.default: torch.baddbmm,
}


class Products(TorchDispatchMode):
    """While active, notes every matrix product (of backward passes too) with the layout of its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Tensor], list[Tensor]]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if op in KINDS:
            self.calls.append((KINDS[op], [like(x) for x in args if isinstance(x, Tensor)]))
        return op(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        """Multiplications and additions of all products."""
        return sum(2 * operands[-2].numel() * operands[-1].shape[-1] for _, operands in self.calls)

    def replay(self) -> Callable[[], None]:
        """A function that does all products again, into outputs that are there already."""
        calls = [(product, operands, product(*operands)) for product, operands in self.calls]

        def work() -> None:
            for product, operands, out in calls:
                product(*operands, out=out)

        return work


def like(x: Tensor) -> Tensor:
    """Random numbers in the layout of `x` (a transposed operand stays transposed)."""
    return torch.empty_strided(x.shape, x.stride()).normal_()
