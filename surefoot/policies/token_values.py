"""What a text is worth so far: a language model with a scalar head that is read before every token of a completion (PPO's critic)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.data.completions import Sequences
from surefoot.envs.classifiers import transformers_or_say
from surefoot.errors import PolicyError, first_line
from surefoot.policies.language import LanguagePolicy, Precision
from surefoot.policies.language_models import without_dropout


class TokenValues(nn.Module):
    """A model's stack of layers and one linear output on its last states. Dropout is switched off."""

    def __init__(self, base: nn.Module, score: nn.Linear, *, precision: Precision = "fp32"):
        super().__init__()
        self.base: Any = base
        self.score, self.precision = score, precision
        without_dropout(base)

    @staticmethod
    def of(policy: LanguagePolicy) -> TokenValues:
        """A copy of the policy's layers (and of its adapter, which then is what is trained), under a head that says 0."""
        base = copy.deepcopy(policy.causal.base_model)
        score = nn.Linear(policy.causal.get_input_embeddings().weight.shape[1], 1, bias=False, device=policy.device)
        nn.init.zeros_(score.weight)
        return TokenValues(base, score, precision=policy.precision)

    @staticmethod
    def load(
        source: str | Path,
        policy: LanguagePolicy,
        *,
        gradient_checkpointing: bool = False,
        trust: bool = False,
    ) -> TokenValues:
        """A reward model's layers and head: a sequence classifier with one label, of the policy's own vocabulary.

        Raises PolicyError if transformers cannot load it as one, or its vocabulary is another.
        """
        transformers = transformers_or_say()
        try:
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                str(source), num_labels=1, dtype=torch.float32, trust_remote_code=trust, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = first_line(error)
            raise PolicyError(f"{source} is no sequence classifier that transformers can load ({reason}): give a reward model.") from None
        score = getattr(model, "score", None)
        if not isinstance(score, nn.Linear) or score.out_features != 1:
            raise PolicyError(f"{source} is a {type(model).__name__}: a critic needs a decoder with a linear head of one label.")
        rows = int(model.get_input_embeddings().weight.shape[0])
        if rows != policy.vocabulary:
            raise PolicyError(f"{source} has a vocabulary of {rows}, the policy one of {policy.vocabulary}: both read the same tokens.")
        if any("score" in str(name) for name in info["missing_keys"]):  # a policy's folder: transformers has drawn a head
            nn.init.zeros_(score.weight)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return TokenValues(model.base_model, score, precision=policy.precision).to(policy.device)

    def forward(self, sequences: Sequences) -> Tensor:
        """Value before each token of the completions, of the text up to there `[B, T]`, float32; 0 elsewhere. Padding on the right."""
        chosen = sequences.completion[:, 1:]  # as for log-probabilities, what is about token t is read at t - 1
        inputs = {"input_ids": sequences.tokens, "attention_mask": torch.ones_like(sequences.tokens)}  # what counts looks at no padding
        device = sequences.tokens.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            states = self.base(**inputs, use_cache=False)[0][:, :-1][chosen]
            found = self.score(states.to(self.score.weight.dtype)).squeeze(-1).float()
        inside = torch.zeros(chosen.shape, device=found.device).masked_scatter(chosen, found)
        return nn.functional.pad(inside, (1, 0))
