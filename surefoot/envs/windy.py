"""A walk against the wind, in models of many strengths: the tabular example of static robust MDPs."""

from __future__ import annotations

import numpy as np

from surefoot.errors import ConfigError

SIDE = 6
WALLS = frozenset({(1, 2), (1, 3), (1, 4), (3, 2), (3, 3), (3, 4)})
START, GOAL = (0, 0), (0, 5)
NORTH, EAST, SOUTH, WEST = range(4)
MOVES = {NORTH: (-1, 0), EAST: (0, 1), SOUTH: (1, 0), WEST: (0, -1)}


def windy_walk(strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Kernels `[K, S, A, S]` of strengths a `[K]` in [0, 1], rewards `[S, A]` and the start state; row 0 is on top, states are row by row.

    The walk goes from the top left to the top right of 6 by 6 cells, -1 a step, and three corridors lead there. In columns 2 to 4 the
    wind blows west with chance x = a in row 0, a^3 in row 2, a^6 in rows 4 and 5: it carries a walker west instead. A blocked walker
    stays. The layout is ours, after the figure of arXiv 2410.06212v1.
    """
    strengths = np.asarray(strengths, np.float64)
    if strengths.ndim != 1 or not ((strengths >= 0.0) & (strengths <= 1.0)).all():
        raise ConfigError("strengths of the wind are a list of chances between 0 and 1.")
    n = SIDE * SIDE
    kernels, reward = np.zeros((len(strengths), n, 4, n)), np.full((n, 4), -1.0)
    for s in range(n):
        cell = divmod(s, SIDE)
        if cell == GOAL:
            kernels[:, s, :, s], reward[s] = 1.0, 0.0
            continue
        blown = _moved(cell, WEST)
        wind = strengths ** {0: 1, 2: 3, 4: 6, 5: 6}[cell[0]] if 2 <= cell[1] <= 4 and cell not in WALLS else np.zeros(len(strengths))
        for action in MOVES:
            kernels[:, s, action, blown] += wind
            kernels[:, s, action, _moved(cell, action)] += 1.0 - wind  # to the west both are the same
    return kernels, reward, START[0] * SIDE + START[1]


def _moved(cell: tuple[int, int], action: int) -> int:
    """The state that a move leads to; the same one where a wall or the edge is in the way."""
    row, column = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
    inside = 0 <= row < SIDE and 0 <= column < SIDE and (row, column) not in WALLS
    return row * SIDE + column if inside else cell[0] * SIDE + cell[1]
