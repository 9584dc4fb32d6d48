"""Evaluation while training: a callback for `fit` that logs returns and keeps each member's best policy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import Tensor

from surefoot.evaluation.rollouts import rollout
from surefoot.methods.base import Method
from surefoot.policies.base import Policy
from surefoot.training.run import Run


class EvaluateEvery:
    """Rolls the greedy policy out every `every` updates; logs `eval/return` (mean over episodes, one a member).

    Keeps the best policy of each member by that mean, with the number of evaluations that chose it: the best of many
    noisy evaluations flatters, so reports show last and best, and best is to be evaluated afresh. Evaluation seeds are the
    same at every evaluation and differ from those of the final evaluation. `wrap` turns the method's policy into
    the one that acts in `env_id` (a frame stack, noise).
    """

    def __init__(self, env_id: str, *, every: int, episodes: int = 10, seed: int = 0, max_steps: int | None = None, wrap: Any = None):
        self.env_id, self.every, self.episodes, self.seed, self.max_steps = env_id, every, episodes, seed, max_steps
        self.wrap = wrap if wrap is not None else lambda policy: policy
        self.best: dict[str, Tensor] | None = None  # weights of each member's best policy, and its observation scales
        self.best_return: np.ndarray | None = None  # [F] ([1] for a lone policy)
        self.evaluations = 0

    def __call__(self, step: int, method: Method, run: Run | None) -> None:
        policy = self.wrap(method.policy)
        returns = rollout(policy, self.env_id, self.episodes, seed=self.seed, max_steps=self.max_steps).returns
        means = np.atleast_1d(returns.mean(-1))
        self.evaluations += 1
        if self.best is None or self.best_return is None:
            self.best = {name: value.detach().clone() for name, value in method.policy.state_dict().items()}
            self.best_return = means
        else:
            better = means > self.best_return
            for name, value in method.policy.state_dict().items():
                shared = bool(method.policy.copies) and value.dim() < 2  # the scales of one log for all, which do not change
                for member in [] if shared else np.flatnonzero(better):
                    own = ... if not method.policy.copies else int(member)
                    self.best[name][own] = value.detach()[own]
            self.best_return = np.where(better, means, self.best_return)
        if run is not None:
            run.log(step, {"eval/return": means.tolist()})

    def best_policy(self, policy: Policy) -> Policy:
        """A copy of `policy` (a fleet or a lone one) with each member's best weights."""
        best = copy.deepcopy(policy)
        best.load_state_dict(self.best or {}, strict=False)
        return best

    def state_dict(self) -> dict[str, Any]:
        if self.best is None or self.best_return is None:
            return {"evaluations": 0}
        weights = {f"best.{k}": v for k, v in self.best.items()}
        return {"evaluations": self.evaluations, "best_return": self.best_return.tolist(), **weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.evaluations = int(state["evaluations"])
        if self.evaluations:
            self.best_return = np.array(state["best_return"])
            self.best = {k.removeprefix("best."): v.clone() for k, v in state.items() if k.startswith("best.")}
