"""TD3+BC: TD3 whose actor also imitates the log.

Fujimoto, Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021, arXiv 2106.06860v2: Eq. 3 (objective),
Eq. 4 (observation scaling), Eq. 5 (lambda), Table 3 (defaults). Departures: none beyond those of `td3`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from surefoot.methods.offline.td3 import TD3, TD3Config


@dataclass(frozen=True)
class TD3BCConfig(TD3Config):
    """The core's fields; the paper's defaults are the core's (alpha 2.5, 2 x 256)."""


class TD3BC(TD3):
    """pi = argmax E[ lambda Q(s, pi(s)) - (pi(s) - a)^2 ] (Eq. 3)."""

    config_class: ClassVar[type] = TD3BCConfig
    config: TD3BCConfig

    def reg_target(self, s: Tensor, p: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None] | None:
        return a, None
