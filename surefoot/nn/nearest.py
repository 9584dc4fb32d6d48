"""Exact search for the logged pair of state and action that is nearest to given ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from surefoot.errors import DivergedError

TREE_DIMS = 25  # above this many dimensions a tree visits most of its rows, and matrix products are faster
LEAF = 32  # rows in a leaf of the tree
CHUNK = {"cpu": 4096, "cuda": 65536}  # rows whose distances are held at once


class NearestPairIndex:
    """Rows `[beta s, a]` of N logged pairs; `query` gives the row with the least Euclidean distance to `[beta s, p]`.

    `states` `[N, S]` already scaled (beta means nothing otherwise), `actions` `[N, A]`. State features that do not vary
    (standard deviation below 1e-6) are left out. `search="tree"`: scipy's k-d tree in float64, on the CPU; `"products"`:
    all distances by matrix products in float32, on the device and without a host sync, which takes one of the rows whose
    squared distances agree to about 1e-6 of |row|^2. By default the tree, on the CPU and up to 25 dimensions.
    """

    def __init__(self, states: Tensor, actions: Tensor, beta: float, search: Literal["tree", "products"] | None = None):
        if states.dim() != 2 or actions.dim() != 2 or len(states) != len(actions):
            raise ValueError(f"states {tuple(states.shape)} and actions {tuple(actions.shape)} must be [N, S] and [N, A].")
        self.beta, self.actions = beta, actions
        varies = states.double().std(0, correction=0) >= 1e-6
        self.features = varies.nonzero().squeeze(-1)  # [S'] indices of the features that vary
        rows = self._key(states, actions)
        if search is None:
            search = "tree" if rows.device.type == "cpu" and rows.shape[-1] <= TREE_DIMS else "products"
        # An unbalanced tree (split at the middle of the box, not at the median) is 3 to 10 times as fast to search here.
        self.tree = cKDTree(rows.numpy(), leafsize=LEAF, balanced_tree=False) if search == "tree" else None
        self.rows = rows.float() if search == "products" else None
        self.squares = self.rows.square().sum(-1) if self.rows is not None else None

    def _key(self, s: Tensor, a: Tensor) -> Tensor:
        """[beta s, a] in float64, so that a logged state is at distance 0 from itself whatever beta is."""
        return torch.cat((self.beta * s.double().index_select(-1, self.features), a.double()), -1)

    def query(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest row's index (int64) and distance (float64), both `[..., B]`, of `s` `[..., B, S]` and `p` `[..., B, A]`.

        Raises DivergedError where an action is not finite (tree only: products would have to wait for the device).
        """
        key = self._key(s.detach(), p.detach())
        flat = key.reshape(-1, key.shape[-1])
        index, distance = self._by_tree(flat) if self.tree is not None else self._by_products(flat)
        return index.reshape(key.shape[:-1]), distance.reshape(key.shape[:-1])

    def _by_tree(self, key: Tensor) -> tuple[Tensor, Tensor]:
        assert self.tree is not None
        array = key.numpy()
        if not np.isfinite(array).all():
            raise DivergedError("the policy's actions are no longer finite: lower the learning rates, or look for outliers in the log.")
        distance, index = self.tree.query(array, workers=torch.get_num_threads())
        return torch.from_numpy(index), torch.from_numpy(distance)

    def _by_products(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """argmin of |row|^2 - 2 key . row, which orders rows as the distance does."""
        assert self.rows is not None and self.squares is not None
        key32, size = key.float(), CHUNK.get(key.device.type, CHUNK["cuda"])
        least, where = [], []
        for start, rows in zip(range(0, len(self.rows), size), self.rows.split(size), strict=True):
            value, index = torch.addmm(self.squares[start : start + size], key32, rows.T, alpha=-2.0).min(-1)
            least.append(value)
            where.append(index + start)
        best = torch.stack(least).argmin(0, keepdim=True)  # [1, n]: the chunk that holds the nearest row
        index = torch.stack(where).gather(0, best).squeeze(0)
        return index, (self.rows.index_select(0, index) - key32).norm(dim=-1).double()
