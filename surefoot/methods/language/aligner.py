"""What the learners on language models share: one optimiser step on a batch that is too large for one forward pass.

A batch is cut into parts of like length (`micro_batches`), each part's share of the loss is back-propagated by itself, and the
gradients add up to those of the whole batch. Several processes (Accelerate) take the parts in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from surefoot.data.completions import Completions, Sequences
from surefoot.errors import ConfigError
from surefoot.methods.base import Learner
from surefoot.nn.sharding import callable_apart, name_units, optimiser_state, spread_like, whole
from surefoot.policies.language import LanguagePolicy

Part = TypeVar("Part")
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Tuning:
    """How the weights are changed, whatever the loss."""

    lr: float = 1e-6
    """Highest learning rate of AdamW (LoRA bears a hundred times as much)."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How it falls to 0 after warm-up."""
    warmup: float = 0.1
    """Share of the steps in which it rises from 0."""
    weight_decay: float = 0.0
    """Of AdamW."""
    gradient_clip: float = 1.0
    """Longest gradient (2-norm over all weights; 0: any)."""
    micro_tokens: int = 8192
    """Tokens of one forward pass, padding included: what fits into memory. The gradient does not depend on it."""

    def __post_init__(self) -> None:
        if not (0.0 < self.lr < math.inf):
            raise ConfigError(f"the learning rate is {self.lr}: it must be positive and finite.")
        if not 0.0 <= self.warmup <= 1.0:
            raise ConfigError(f"warmup is {self.warmup}: it is a share of the steps, from 0 to 1.")
        if min(self.weight_decay, self.gradient_clip) < 0.0:
            raise ConfigError(f"weight_decay is {self.weight_decay} and gradient_clip {self.gradient_clip}: neither may be negative.")
        if self.micro_tokens < 1:
            raise ConfigError(f"micro_tokens is {self.micro_tokens}: it must be at least 1.")


def learning_rate(tuning: Tuning, step: int, total: int) -> float:
    """Learning rate of update `step` (from 0) of `total`."""
    rising = max(1, round(tuning.warmup * total)) if tuning.warmup > 0.0 else 0
    if step < rising:
        return tuning.lr * (step + 1) / rising
    left = 1.0 - (step - rising) / max(1, total - rising)
    match tuning.schedule:
        case "constant":
            return tuning.lr
        case "linear":
            return tuning.lr * max(0.0, left)
        case "cosine":
            return tuning.lr * 0.5 * (1.0 + math.cos(math.pi * (1.0 - max(0.0, left))))


class Aligner(Learner):
    """Base of the learners on language models: the policy, its optimiser, and `descend`.

    `total` is the number of updates that the schedule of the learning rate is laid over. With an `accelerator` (of Hugging Face's
    Accelerate) the policy may be spread over processes. A method that trains more than the policy gives the whole `network`, and
    `groups` of parameters for the optimiser; a group's "scale" multiplies its learning rate.
    """

    config_class: ClassVar[type]
    learns_from: ClassVar[Literal["pairs", "scored", "prompts"]]

    def __init__(
        self,
        policy: LanguagePolicy,
        config: Any,
        tuning: Tuning,
        total: int,
        *,
        network: nn.Module | None = None,
        groups: Sequence[dict[str, Any]] | None = None,
        accelerator: Any = None,
        seed: int = 0,
    ):
        super().__init__(str(policy.device), seed)
        self.policy, self.config, self.tuning, self.total = policy, config, tuning, total
        self.accelerator = accelerator
        self._network: Any = policy if network is None else network  # what a forward pass with gradients goes through
        groups = [{"params": trained(policy)}] if groups is None else groups
        self.optimiser = torch.optim.AdamW(groups, lr=tuning.lr, weight_decay=tuning.weight_decay, betas=(0.9, 0.999))
        if accelerator is not None:
            name_units(self._network, policy)
            self._network, self.optimiser = accelerator.prepare(self._network, self.optimiser)
            callable_apart(policy, "sample")

    def token_logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """Log-probabilities `[B, T]` that a gradient can be taken of: those of the policy, through whatever spreads it over processes."""
        return self._network(sequences, temperature)

    def logprobs(self, completions: Completions) -> Tensor:
        """Log-probability of each completion `[B]`, with gradient."""
        return self.token_logprobs(completions.padded(self.policy.pad, device=self.policy.device)).sum(-1)

    def descend(self, parts: Sequence[Part], loss: Callable[[Part], tuple[Tensor, Metrics]]) -> Metrics:
        """One step of the optimiser on a batch in parts.

        `loss(part)` gives the part's share of the batch's mean loss (that of all parts together is the sum) and shares of metrics
        likewise. Returns the sums, the gradient's length and the learning rate.
        """
        mine, processes = self._mine(parts)
        self.optimiser.zero_grad(set_to_none=True)
        sums: Metrics = {}
        for i, part in enumerate(mine):
            with self._unsynchronised() if i < len(mine) - 1 else nullcontext():
                share, seen = loss(part)
                self._backward(share * processes)  # gradients are averaged over processes
            for name, value in {"loss": share, **seen}.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        length = self._clip()
        rate = learning_rate(self.tuning, self.steps, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        self.optimiser.step()
        self.steps += 1
        return self._over_processes(sums) | {"gradient": whole(length.detach()), "lr": torch.tensor(rate)}

    # --- one process or several -----------------------------------------------------------------------------------------

    @property
    def processes(self) -> int:
        return 1 if self.accelerator is None else int(self.accelerator.num_processes)

    def _mine(self, parts: Sequence[Part]) -> tuple[Sequence[Part], int]:
        """The parts of this process, and how many processes there are. All must have as many, or they would wait for each other."""
        if self.accelerator is None or self.processes == 1:
            return parts, 1
        if len(parts) % self.processes:
            raise ConfigError(f"a batch in {len(parts)} parts does not fit {self.processes} processes: give each process one or more rows.")
        return parts[self.accelerator.process_index :: self.processes], self.processes

    def _backward(self, loss: Tensor) -> None:
        loss.backward() if self.accelerator is None else self.accelerator.backward(loss)

    def _unsynchronised(self) -> Any:
        return nullcontext() if self.accelerator is None else self.accelerator.no_sync(self._network)

    def _clip(self) -> Tensor:
        longest = self.tuning.gradient_clip or math.inf
        if self.accelerator is None:
            return nn.utils.clip_grad_norm_(trained(self._network), longest)
        return self.accelerator.clip_grad_norm_(trained(self._network), longest)

    def agreed(self, flag: bool) -> bool:
        """Whether any process raises the flag: a signal reaches them at different steps."""
        if self.processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.policy.device), "sum") > 0.0)

    def _over_processes(self, sums: Metrics) -> Metrics:
        if self.processes == 1:
            return sums
        return {name: self.accelerator.reduce(value, "sum") for name, value in sums.items()}

    # --- state ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """What is trained, the optimiser, counters and random states; frozen weights are not copied into every checkpoint."""
        left_out = self._left_out()
        return {name: whole(value) for name, value in super().state_dict().items() if name not in left_out}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave, beside the frozen weights that are there."""
        left_out, own = self._left_out(), super().state_dict()
        state = {name: spread_like(value, own[name]) if name in own else value for name, value in state.items()}
        state |= optimiser_state(state, "optimiser.", self.optimiser)
        super().load_state_dict({name: value for name, value in own.items() if name in left_out} | state)

    def _left_out(self) -> set[str]:
        """Names of weights that are frozen, and those of the network as a whole, whose parts are there under their own names."""
        found: set[str] = set()
        for name, network in vars(self).items():
            if name == "_network":
                found |= {f"{name}.{k}" for k in network.state_dict()}
            elif isinstance(network, nn.Module):
                found |= {f"{name}.{k}" for k, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return found


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for p in network.parameters() if p.requires_grad]
