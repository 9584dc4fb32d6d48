"""Policies over text: any causal language model of Hugging Face's format, whole or with a LoRA adapter.

Log-probabilities are computed for the completions alone: logits of prompts and padding never exist. Sampling is a loop of our own
rather than `generate`, because a run must draw from its own generator to resume bit for bit, and because tokens can be forced
(the resets of DR-PO).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from surefoot.data.completions import Completions, Ids, Sequences, micro_batches
from surefoot.errors import ConfigError
from surefoot.nn.token_logprobs import token_logprobs
from surefoot.policies.language_models import LoraOptions, is_plain, load_causal, takes, without_dropout

Precision = Literal["fp32", "bf16"]


class LanguagePolicy(nn.Module):
    """A causal language model with its tokenizer.

    Dropout is switched off, since log-probabilities are compared with ones that were computed earlier.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, precision: Precision = "fp32"):
        super().__init__()
        self.model: Any = model
        self.tokenizer, self.precision = tokenizer, precision
        without_dropout(model)
        self._plain = is_plain(self.causal)  # whether logits are one linear layer of the last states

    # --- what it is made of -------------------------------------------------------------------------------------------

    @staticmethod
    def load(
        source: str | Path,
        *,
        lora: LoraOptions | None = None,
        precision: Precision = "fp32",
        gradient_checkpointing: bool = False,
        device: str = "cpu",
        trust: bool = False,
    ) -> LanguagePolicy:
        """The model and tokenizer of a folder that `save_pretrained` made, or of a Hugging Face id; an adapter is merged into its base.

        With `precision` bf16 the forward pass is computed in bfloat16; weights that are trained stay float32, the frozen ones below
        an adapter are bfloat16. `trust` lets a model bring Python code of its own. Raises PolicyError if it cannot be loaded.
        """
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model, tokenizer = load_causal(source, lora=lora, dtype=dtype, gradient_checkpointing=gradient_checkpointing, trust=trust)
        return LanguagePolicy(model.to(device), tokenizer, precision=precision).train()

    @property
    def causal(self) -> Any:
        """The model itself, in whose layers an adapter lives."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained in place of the model's own weights."""
        return hasattr(self.model, "peft_config")

    @property
    def context(self) -> int | None:
        """Tokens that prompt and completion may have together; None if the model does not say."""
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            found = getattr(self.causal.config.get_text_config(), name, None)
            if found is not None:
                return int(found)
        return None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, which may be more than the tokenizer's tokens."""
        return int(self.causal.get_input_embeddings().weight.shape[0])

    @property
    def ends(self) -> list[int]:
        """Tokens that end a completion: the tokenizer's end token, and those that the model's generation settings name."""
        named = getattr(getattr(self.causal, "generation_config", None), "eos_token_id", None)
        own = [self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
        return sorted({int(token) for token in own if token is not None and token < self.vocabulary})

    @property
    def pad(self) -> int:
        """What padding is filled with; it is masked, so any token would do."""
        token = self.tokenizer.pad_token_id
        return int(token if token is not None else (self.ends[0] if self.ends else 0))

    def frozen_copy(self) -> LanguagePolicy:
        """The same model with weights of its own that are never trained, as a reference."""
        model = copy.deepcopy(self.model).requires_grad_(False)
        return LanguagePolicy(model, self.tokenizer, precision=self.precision).eval()

    @contextmanager
    def reference(self) -> Iterator[LanguagePolicy]:
        """The policy with its adapter switched off: what it was before training. Raises ConfigError if there is no adapter."""
        if not self.adapted:
            raise ConfigError("a policy without an adapter is not its own reference: keep a frozen_copy() of it.")
        with self.model.disable_adapter():
            yield self

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write model (or adapter) and tokenizer as `save_pretrained` does: an ordinary Hugging Face folder.

        `weights` are those of `model` by name, where they are spread over processes (`nn.sharding.whole_weights`).
        """
        self.model.save_pretrained(str(folder), state_dict=weights, safe_serialization=True)
        self.tokenizer.save_pretrained(str(folder))

    # --- log-probabilities --------------------------------------------------------------------------------------------

    def forward(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """As `token_logprobs`; called as a module, so that weights that are spread over processes are there."""
        return self.token_logprobs(sequences, temperature)

    def token_logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """Log-probability of each token of the completions given all before it `[B, T]`, float32; 0 elsewhere."""
        chosen = sequences.completion[:, 1:]  # tokens[:, t] is predicted from position t - 1
        targets = sequences.tokens[:, 1:][chosen]
        with self._autocast():
            if self._plain:
                states = self.causal.base_model(**self._inputs(sequences), use_cache=False)[0]
                hidden, head = states[:, :-1][chosen], self.causal.get_output_embeddings()
            else:  # a model that does more to its last states: its own logits, where any completion needs them
                columns = chosen.any(0).nonzero().squeeze(-1)
                logits = self.causal(**self._inputs(sequences), use_cache=False, logits_to_keep=columns).logits
                hidden, head = logits[chosen[:, columns]], nn.Identity()
            found = token_logprobs(head, hidden, targets, vocabulary=self.vocabulary, temperature=temperature)
        inside = torch.zeros(chosen.shape, device=found.device).masked_scatter(chosen, found)
        return nn.functional.pad(inside, (1, 0))

    def logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """Log-probability of each completion, the sum over its tokens `[B]`."""
        return self(sequences, temperature).sum(-1)

    def _inputs(self, sequences: Sequences) -> dict[str, Tensor]:
        """Arguments of a forward pass. Padding on the right needs no mask: nothing that counts looks ahead."""
        if bool(sequences.attention[:, 0].all()):
            return {"input_ids": sequences.tokens, "attention_mask": torch.ones_like(sequences.tokens)}
        places = {"position_ids": sequences.positions} if takes(self.causal, "position_ids") else {}
        return {"input_ids": sequences.tokens, "attention_mask": sequences.attention.long(), **places}

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    # --- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Ids],
        n: int = 1,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        forced: Sequence[Ids] | None = None,
    ) -> Completions:
        """`n` completions of each prompt, prompt by prompt; one that reached an end token holds it.

        Args:
            prompts: token ids, at least one each.
            max_new_tokens: after which a completion is cut off without an end token.
            temperature: 0 takes the likeliest token.
            top_p: draw among the likeliest tokens that have this much probability together.
            forced: for each row (`n` a prompt) tokens that are taken first, in place of drawn ones.
        """
        if max_new_tokens < 1 or n < 1:
            raise ConfigError(f"{n} completions of {max_new_tokens} tokens were asked for: both must be at least 1.")
        if not 0.0 < top_p <= 1.0 or temperature < 0.0:
            raise ConfigError(f"top_p is {top_p} and temperature {temperature}: they must be in (0, 1] and at least 0.")
        rows = [list(prompt) for prompt in prompts for _ in range(n)]
        if not rows:
            return Completions([], [])
        first = Completions([list(prompt) for prompt in prompts], [[] for _ in prompts])
        start = first.padded(self.pad, side="left", device=self.device)
        was_training = self.causal.training
        self.causal.eval()  # gradient checkpointing would do without the cache
        try:
            with self._autocast():
                drawn = self._drawn(start, n, max_new_tokens, temperature, top_p, generator, forced)
        finally:
            self.causal.train(was_training)
        return Completions(rows, drawn)

    def _drawn(
        self,
        start: Sequences,
        n: int,
        most: int,
        temperature: float,
        top_p: float,
        generator: torch.Generator | None,
        forced: Sequence[Ids] | None,
    ) -> list[Ids]:
        """The tokens that follow each row, with the keys and values of what came before kept."""
        key = "cache" if takes(self.causal, "cache") else "past_key_values"  # its name before transformers 5.20
        ends = torch.tensor(self.ends, device=self.device, dtype=torch.int64)
        attention, position = start.attention.long(), start.positions[:, -1:]
        places = {"position_ids": start.positions} if takes(self.causal, "position_ids") else {}
        last = {"logits_to_keep": 1} if takes(self.causal, "logits_to_keep") else {}
        output = self.causal(input_ids=start.tokens, attention_mask=attention, use_cache=True, **places, **last)
        cache, logits = getattr(output, key), output.logits[:, -1].repeat_interleave(n, 0)
        cache.batch_repeat_interleave(n)
        attention, position = attention.repeat_interleave(n, 0), position.repeat_interleave(n, 0)
        alive = torch.arange(len(logits), device=self.device)  # rows that go on, of those asked for
        texts: list[Ids] = [[] for _ in range(len(logits))]
        for step in range(most):
            token = _draw(logits.float(), temperature, top_p, generator)
            if forced is not None:
                token = _forced(token, [forced[i] for i in alive.tolist()], step)
            for row, chosen in zip(alive.tolist(), token.tolist(), strict=True):
                texts[row].append(chosen)
            going = (~torch.isin(token, ends)).nonzero().squeeze(-1)
            if len(going) == 0 or step == most - 1:
                break
            if len(going) < len(token):  # rows that ended cost nothing any more
                alive, token, attention, position = alive[going], token[going], attention[going], position[going]
                cache.batch_select_indices(going)
            attention, position = nn.functional.pad(attention, (0, 1), value=1), position + 1
            places = {"position_ids": position} if places else {}
            output = self.causal(input_ids=token[:, None], attention_mask=attention, use_cache=True, **{key: cache}, **places)
            cache, logits = getattr(output, key), output.logits[:, -1]
        return texts

    def decode(self, completions: Completions) -> list[str]:
        """The completions as text, without special tokens."""
        return self.tokenizer.batch_decode(completions.completions, skip_special_tokens=True)


class Reference:
    """What a policy was before training: the policy without its adapter, or a frozen copy where there is none."""

    def __init__(self, policy: LanguagePolicy):
        self.policy = policy if policy.adapted else policy.frozen_copy()

    @torch.no_grad()
    def token_logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        """As `LanguagePolicy.token_logprobs`, without a gradient."""
        with self.policy.reference() if self.policy.adapted else nullcontext():
            return self.policy(sequences, temperature)

    def logprobs(self, completions: Completions, *, max_tokens: int) -> Tensor:
        """As `completion_logprobs`."""
        with self.policy.reference() if self.policy.adapted else nullcontext():
            return completion_logprobs(self.policy, completions, max_tokens=max_tokens)


@torch.no_grad()
def completion_logprobs(policy: LanguagePolicy, completions: Completions, *, max_tokens: int, temperature: float = 1.0) -> Tensor:
    """Log-probability of each completion `[B]` on the CPU, without a gradient, at most `max_tokens` tokens with padding at a time."""
    found = torch.zeros(len(completions))
    for rows in micro_batches(completions.lengths, max_tokens):
        sequences = completions.select(rows).padded(policy.pad, device=policy.device)
        found[rows] = policy.logprobs(sequences, temperature).cpu()
    return found


def _draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """One token a row `[B]` from logits `[B, V]`."""
    if temperature == 0.0:
        return logits.argmax(-1)
    p = (logits / temperature).softmax(-1)
    if top_p < 1.0:
        ordered, index = p.sort(-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)  # the likeliest token always stays
        return index.gather(-1, torch.multinomial(ordered, 1, generator=generator)).squeeze(-1)
    return torch.multinomial(p, 1, generator=generator).squeeze(-1)


def _forced(token: Tensor, forced: Sequence[Ids], step: int) -> Tensor:
    """The drawn tokens, or those that are forced at this step."""
    own = token.tolist()
    return torch.tensor([ids[step] if step < len(ids) else own[i] for i, ids in enumerate(forced)], device=token.device)
